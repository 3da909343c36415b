//! Every way a packet can end, and where.
//!
//! A program ends a packet by naming exactly one [`Reason`]; the place that turns it into an action
//! also counts it, per [`Hook`] and CPU. There is no way out of a program that is not counted, so
//! for each hook the counters add up to the packets it saw.

/// A place in the packet path. The direction follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Hook {
    /// XDP on an uplink: network to VM.
    UplinkXdp = 0,
    /// tc ingress on an uplink: network to VM.
    UplinkTc = 1,
    /// tc egress on the VM's port: network to VM.
    DoorIn = 2,
    /// tc ingress on the VM's port: VM to network.
    DoorOut = 3,
}

/// Which way a packet goes, seen from the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the network to the VM.
    Ingress,
    /// From the VM to the network.
    Egress,
}

impl Direction {
    /// Name for people and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl Hook {
    /// Every hook, in packet order.
    pub const ALL: [Self; 4] = [Self::UplinkXdp, Self::UplinkTc, Self::DoorIn, Self::DoorOut];

    /// The hook a stored byte names.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::UplinkXdp),
            1 => Some(Self::UplinkTc),
            2 => Some(Self::DoorIn),
            3 => Some(Self::DoorOut),
            _ => None,
        }
    }

    /// Name for people and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UplinkXdp => "uplink-xdp",
            Self::UplinkTc => "uplink-tc",
            Self::DoorIn => "door-in",
            Self::DoorOut => "door-out",
        }
    }

    /// Which way its packets go.
    #[must_use]
    pub const fn direction(self) -> Direction {
        match self {
            Self::UplinkXdp | Self::UplinkTc | Self::DoorIn => Direction::Ingress,
            Self::DoorOut => Direction::Egress,
        }
    }
}

/// What a reason does with the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Given on to the kernel as it came: none of our business, or the kernel has the right answer.
    Pass,
    /// Carried: translated, delivered or sent on as an EIP's traffic.
    Carry,
    /// Dropped.
    Drop,
}

impl Class {
    /// Name for people and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Carry => "carry",
            Self::Drop => "drop",
        }
    }
}

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $byte:literal, $name:literal, $class:ident, $exception:literal, $meaning:literal, $cure:literal; )+) => {
        /// How a packet ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $( $(#[doc = $doc])+ $variant = $byte, )+
        }

        impl Reason {
            /// Every reason.
            pub const ALL: [Self; reasons!(@count $($variant)+)] = [$(Self::$variant),+];

            /// The reason a stored byte names; `None` for one a newer version wrote.
            #[must_use]
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $( $byte => Some(Self::$variant), )+
                    _ => None,
                }
            }

            /// Name for people, metric labels and filters.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }

            /// What happens to the packet.
            #[inline(always)]
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $( Self::$variant => Class::$class, )+ }
            }

            /// Worth counting per binding too: not the everyday way of a packet of an EIP, or one that
            /// others decide about.
            #[inline(always)]
            #[must_use]
            pub const fn is_exception(self) -> bool {
                match self { $( Self::$variant => $exception, )+ }
            }

            /// What it means, for the reference.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $( Self::$variant => $meaning, )+ }
            }

            /// What an operator does about it, for the reference.
            #[must_use]
            pub const fn cure(self) -> &'static str {
                match self { $( Self::$variant => $cure, )+ }
            }
        }
    };
    (@count) => { 0 };
    (@count $head:ident $($tail:ident)*) => { 1 + reasons!(@count $($tail)*) };
}

reasons! {
    /// Not IPv4 or IPv6, or a frame too short to tell.
    NotIp = 0, "not-ip", Pass, false,
        "The frame carries no IP packet (ARP in XDP, LLDP, ...) or ends before its IP header does.",
        "Nothing: it belongs to the kernel.";
    /// The destination is no EIP of this node.
    NotEip = 1, "not-eip", Pass, false,
        "The destination is not an elastic IP bound on this node.",
        "Nothing, unless you expected the address to be bound: then `eipctl get EIP`.";
    /// Seen by XDP, left to tc.
    LeftToTc = 2, "left-to-tc", Pass, false,
        "XDP saw a packet for an elastic IP and left the work to the tc program behind it.",
        "Nothing: this is the normal way of every delivery but `xdp`.";
    /// VLAN tagged: on an uplink the programs of the VLAN interface do the work, a VM's port has none.
    Tagged = 3, "tagged", Pass, false,
        "The frame has a VLAN tag: it is for the VLAN interface, where it comes by without it. From or to a VM it is none of ours.",
        "Nothing, if the VLAN interface is one of the uplinks. VLANs inside a VM do not reach the network by an elastic IP.";
    /// The destination is pod, service or node network and no reply to a flow of an EIP.
    Bypass = 4, "bypass", Pass, false,
        "A VM talks to a pod, service or node network: with its own address, untranslated.",
        "Nothing, if the destination is inside the internal networks on purpose: `eipctl nets`.";
    /// Multicast, broadcast or link-local: never leaves the link.
    LinkScope = 5, "link-scope", Pass, false,
        "A VM sent to a multicast, broadcast or link-local address, or the packet is neighbour discovery.",
        "Nothing: such packets do not leave the VM's link.";
    /// The sender on this port is not a bound VM.
    NotBound = 6, "not-bound", Pass, false,
        "The source address on a VM's port is not that of a bound VM (another address of the guest).",
        "Nothing, unless the VM uses more addresses than its status reports.";
    /// Direct traffic to the VM's own address, through its port.
    Direct = 7, "direct", Pass, false,
        "A packet for the VM's own address, not for an elastic IP.",
        "Nothing: pods and the node talk to the VM this way.";
    /// TTL would reach zero here: the kernel answers with time exceeded.
    TtlExceeded = 8, "ttl-exceeded", Pass, true,
        "The TTL ends at this node; the kernel answers with an ICMP time exceeded.",
        "Nothing, if somebody runs traceroute; otherwise look for a routing loop.";
    /// Larger than the next link takes: the kernel answers or fragments.
    TooLarge = 9, "too-large", Pass, true,
        "The packet, or a fragment of its datagram, is larger than the next link; the kernel answers with fragmentation needed, or \
         fragments it where that is allowed.",
        "Make the uplink MTU at least the pod MTU, and do not filter ICMP. To let the kernel fragment, \
         its FORWARD chain has to accept elastic IPs.";
    /// The route to the destination does not lead out of an uplink.
    RoutedElsewhere = 10, "routed-elsewhere", Pass, true,
        "The packet has its elastic IP, but the kernel routes it to an interface that is no uplink; \
         the kernel forwards it.",
        "Name that interface with --uplink, or set --gateway-ip.";
    /// The binding asks for the stack lane.
    SentToStack = 11, "sent-to-stack", Carry, true,
        "A packet of the VM has its elastic IP and was given to the kernel to forward: delivery \
         `stack`.",
        "If packets do not leave, look for a FORWARD rule that drops them: `eip-daemon check`.";
    /// Delivered by `bpf_redirect_peer`.
    DeliveredPeer = 12, "delivered-peer", Carry, false,
        "Translated and handed into the VM's network namespace.",
        "Nothing: the packet arrived.";
    /// Delivered by `bpf_redirect_neigh`.
    DeliveredNeigh = 13, "delivered-neigh", Carry, false,
        "Redirected to the VM's interface with its neighbour's MAC; the door translates it.",
        "Nothing: look at door-in for the rest of its way.";
    /// Delivered by XDP redirect.
    DeliveredXdp = 14, "delivered-xdp", Carry, false,
        "Translated in XDP and redirected to the VM's port.",
        "Nothing: the packet arrived.";
    /// Left to the kernel's routing: delivery `stack`.
    DeliveredStack = 15, "delivered-stack", Carry, true,
        "Given to the kernel to route to the VM; the door translates it.",
        "If packets do not arrive, look for a FORWARD rule that drops them: `eip-daemon check`.";
    /// The door translated EIP to VM.
    Translated = 16, "translated", Carry, false,
        "The door changed the elastic IP into the VM's address.",
        "Nothing: the packet arrived.";
    /// Sent out of an uplink.
    SentToUplink = 17, "sent-to-uplink", Carry, false,
        "A packet of the VM left through an uplink with its elastic IP.",
        "Nothing.";
    /// A reply inside bypass, with the EIP it was asked on.
    SentAsFlow = 18, "sent-as-flow", Carry, false,
        "A reply to a pod, node or cluster host that had asked the elastic IP; it carries that \
         elastic IP and the kernel delivers it.",
        "Nothing.";
    /// The header lies about lengths, or ends inside itself.
    Malformed = 19, "malformed", Drop, true,
        "The IP or transport header is cut short or contradicts the length of the packet, or an IPv6 \
         packet has more than seven extension headers or a routing header with segments left.",
        "Find the sender; a VM that sends these is broken or hostile.";
    /// A VM sent with an EIP, or with any address of an EIP range, as its source.
    SpoofedEip = 20, "spoofed-eip", Drop, true,
        "A VM used an elastic IP as source address itself.",
        "Look at the guest: it must send with its own address, the node translates.";
    /// A VM sent with the address of a VM bound on another port.
    SpoofedVm = 21, "spoofed-vm", Drop, true,
        "A packet came through a VM's port with the address of another bound VM.",
        "Look at the guest behind the port: it pretends to be somebody else.";
    /// From the network, with a source that is bound here.
    SpoofedFromNetwork = 22, "spoofed-from-network", Drop, true,
        "A packet from an uplink claims to come from an elastic IP that lives on this node.",
        "Find the sender upstream; the routers should filter it.";
    /// The kernel refused a change to the packet.
    RewriteFailed = 23, "rewrite-failed", Drop, true,
        "The kernel had no memory to change the packet, which was dropped rather than sent wrong.",
        "Look at the node's memory.";
    /// The node has no route to the destination: the kernel answers.
    NoRoute = 24, "no-route", Pass, true,
        "A VM's packet has its elastic IP but the node has no route for it; the kernel answers with \
         destination unreachable.",
        "Add a default route for the uplink, or set --gateway-ip.";
    /// Another port than the binding's.
    WrongPort = 25, "wrong-port", Pass, true,
        "A packet for an elastic IP came to a port that is not its VM's (flooded by a bridge).",
        "Nothing, if rare: the bridge had not learnt the VM's port yet.";
    /// An ARP request or neighbour solicitation for an EIP, answered.
    NeighbourAnswered = 27, "neighbour-answered", Carry, true,
        "Somebody on an uplink's segment asked who has the elastic IP and was told the uplink's MAC.",
        "Nothing: this is how `announce: l2` works.";
    /// The same, for an EIP that is not announced on layer 2.
    NotAnnounced = 28, "not-announced", Pass, true,
        "Somebody on an uplink's segment asked who has the elastic IP, which is not announced on \
         layer 2: left to the kernel, which does not answer for it either.",
        "If hosts and routers of that segment shall reach it without a route, bind it with \
         `announce: l2` or `both`.";
    /// Somebody else says that the EIP is theirs.
    AddressClaimed = 29, "address-claimed", Pass, true,
        "An ARP message or neighbour advertisement on an uplink's segment claims an elastic IP of \
         this node for another MAC.",
        "Find the other owner: `eipctl get EIP` shows its MAC. For a moment after a VM moved, and with \
         two uplinks of this node on one segment, this is normal.";
    /// ARP or neighbour discovery that breaks its RFC.
    NeighbourInvalid = 30, "neighbour-invalid", Pass, true,
        "An ARP message, or a neighbour discovery message for an elastic IP, is cut short or breaks a \
         rule of its RFC (hop limit below 255, wrong checksum, bad option length): not answered.",
        "Find the sender; neighbour discovery from beyond the link is an attack.";
    /// The agent has not renewed the binding for too long.
    Fenced = 31, "fenced", Drop, true,
        "The agent of this node has not renewed the elastic IP in time: it may be served by another node \
         by now, so nothing is translated or answered here.",
        "Look after the agent: it is stopped or stuck, or, with `--fence-on isolation`, without the API \
         server. `--fence-after never` prefers serving twice over not at all.";
    /// Larger than the VM's link, not to be fragmented: the sender was told.
    TooLargeAnswered = 32, "too-large-answered", Carry, true,
        "A packet that may not be fragmented is larger than the VM's link; its sender was sent an ICMP \
         fragmentation needed or packet too big, in the name of the elastic IP.",
        "Nothing: path MTU discovery works this way. If it goes on for one sender, ICMP is filtered \
         between the two.";
    /// The same, over the rate at which senders are told.
    TooLargeDropped = 33, "too-large-dropped", Drop, true,
        "As too-large-answered, but this CPU has sent its answers of this second (1000).",
        "Find the sender: it does not listen to ICMP, or does not want to.";
    /// The VM has moved; the packet follows it.
    Forwarded = 34, "forwarded", Carry, true,
        "The VM has just moved to another node: the packet was sent on to that node, as it came.",
        "Nothing, while it ends by itself: routers had not learnt yet where the VM is. If it goes on until \
         the hand-over ends (`--handover`), they do not take the other node's announcement.";
}

/// Room for reasons per hook in the counter array: adding a reason does not change the layout.
pub const REASON_SLOTS: u32 = 64;

/// Entries of the counter array.
pub const COUNTERS: u32 = REASON_SLOTS * (Hook::DoorOut as u32 + 1);

/// Where the counter of a reason at a hook stands.
#[inline(always)]
#[must_use]
pub const fn counter_index(hook: Hook, reason: Reason) -> u32 {
    hook as u32 * REASON_SLOTS + reason as u32
}

#[cfg(test)]
mod tests {
    use super::{COUNTERS, Hook, REASON_SLOTS, Reason, counter_index};
    use std::collections::BTreeSet;

    #[test]
    fn every_hook_and_reason_has_a_counter_of_its_own() {
        let mut seen = BTreeSet::new();
        for hook in Hook::ALL {
            for reason in Reason::ALL {
                let index = counter_index(hook, reason);
                assert!(index < COUNTERS);
                assert!(seen.insert(index), "{} {}", hook.name(), reason.name());
            }
        }
    }

    #[test]
    fn stored_bytes_name_the_same_hook_and_reason_again() {
        for reason in Reason::ALL {
            assert!((reason as u32) < REASON_SLOTS);
            assert_eq!(Reason::from_byte(reason as u8), Some(reason));
        }
        for hook in Hook::ALL {
            assert_eq!(Hook::from_byte(hook as u8), Some(hook));
        }
        assert_eq!(Reason::from_byte(u8::MAX), None);
    }

    #[test]
    fn names_are_unique_and_fit_a_metric_label() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for name in names {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
        }
    }
}

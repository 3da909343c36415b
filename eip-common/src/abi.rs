//! Layout of the pinned maps: the contract between programs, daemon, operators and later versions.
//!
//! Rules
//! - every type is `repr(C)`, has no padding (asserted below) and no type with invalid bit
//!   patterns, because what is read back may have been written by an older version or by hand;
//! - a change of any size, field order or meaning raises [`ABI_VERSION`], and with it the suffix of
//!   every map name, so that two versions never share a map by accident. Version 1 is what the first
//!   release ships; until then a map of another shape is refused by the agent (`cleanup` cures it);
//! - address-bearing types are generic over the address, so IPv4 and IPv6 differ in nothing else.

use crate::addr::{Ipv4Wire, Ipv6Wire, Mac, Port};

/// Version of everything in this module; also the suffix `_V1` of the map names.
pub const ABI_VERSION: u32 = 1;

/// Names of the pinned maps. At most 15 bytes, so that the kernel keeps them whole.
pub mod map {
    /// EIP (IPv4) to [`super::Binding`].
    pub const EIP4: &str = "EIP4_V1";
    /// EIP (IPv6) to [`super::Binding`].
    pub const EIP6: &str = "EIP6_V1";
    /// VM address (IPv4) to [`super::Vm`].
    pub const VM4: &str = "VM4_V1";
    /// VM address (IPv6) to [`super::Vm`].
    pub const VM6: &str = "VM6_V1";
    /// Prefix (IPv4) to [`super::Net`].
    pub const NETS4: &str = "NETS4_V1";
    /// Prefix (IPv6) to [`super::Net`].
    pub const NETS6: &str = "NETS6_V1";
    /// [`super::FlowKey`] (IPv4) to EIP.
    pub const FLOW4: &str = "FLOW4_V1";
    /// [`super::FlowKey`] (IPv6) to EIP.
    pub const FLOW6: &str = "FLOW6_V1";
    /// [`super::FragmentKey`] (IPv4) to EIP.
    pub const FRAG4: &str = "FRAG4_V1";
    /// [`super::FragmentKey`] (IPv6) to EIP.
    pub const FRAG6: &str = "FRAG6_V1";
    /// Ifindex to [`super::Uplink`].
    pub const UPLINKS: &str = "UPLINKS_V1";
    /// Hardware addresses of all uplinks, each to 1.
    pub const STATIONS: &str = "STATIONS_V1";
    /// One [`super::Config`] at index 0.
    pub const CONFIG: &str = "CONFIG_V1";
    /// Binding slot to [`super::Traffic`], per CPU.
    pub const TRAFFIC: &str = "TRAFFIC_V1";
    /// Binding slot to [`super::Lease`].
    pub const LEASES: &str = "LEASES_V1";
    /// [`crate::reason::counter_index`] to a packet count, per CPU.
    pub const REASONS: &str = "REASONS_V1";
    /// [`super::EipReasonKey`] to a packet count, per CPU, least recently used go first.
    pub const EIP_REASONS: &str = "EIP_REASONS_V1";
    /// One [`super::Watch`] at index 0: which packets somebody wants to see.
    pub const WATCH: &str = "WATCH_V1";
    /// Ring buffer of [`super::Sample`].
    pub const SAMPLES: &str = "SAMPLES_V1";
    /// One [`super::Quota`] at index 0, per CPU.
    pub const QUOTA: &str = "QUOTA_V1";

    /// Every map, in the order an operator would look at them.
    pub const ALL: [&str; 20] = [
        EIP4,
        EIP6,
        VM4,
        VM6,
        NETS4,
        NETS6,
        FLOW4,
        FLOW6,
        FRAG4,
        FRAG6,
        UPLINKS,
        STATIONS,
        CONFIG,
        TRAFFIC,
        LEASES,
        REASONS,
        EIP_REASONS,
        WATCH,
        SAMPLES,
        QUOTA,
    ];
}

/// Names of the kernel programs. At most 15 bytes.
pub mod program {
    /// XDP on an uplink.
    pub const UPLINK_XDP: &str = "eip_uplink_xdp";
    /// tc ingress on an uplink.
    pub const UPLINK_TC: &str = "eip_uplink_tc";
    /// tc egress on a VM's port: network to VM.
    pub const DOOR_IN: &str = "eip_door_in";
    /// tc ingress on a VM's port: VM to network.
    pub const DOOR_OUT: &str = "eip_door_out";

    /// Every program.
    pub const ALL: [&str; 4] = [UPLINK_XDP, UPLINK_TC, DOOR_IN, DOOR_OUT];
}

/// Entries of the binding maps unless configured otherwise. A hash map sized for the node keeps the
/// touched working set in cache: a hot binding costs the same in any size, a cold one does not.
pub const DEFAULT_MAX_BINDINGS: u32 = 4096;
/// Entries of the prefix maps.
pub const MAX_NETS: u32 = 1024;
/// Entries of a flow map: connections between an EIP and an address inside bypass.
pub const DEFAULT_MAX_FLOWS: u32 = 65_536;
/// Entries of a fragment map: datagrams in flight whose first fragment met the flow map.
pub const MAX_FRAGMENTS: u32 = 4096;
/// Entries of the uplink map.
pub const MAX_UPLINKS: u32 = 64;
/// Entries of the per-binding reason map.
pub const MAX_EIP_REASONS: u32 = 16_384;

/// Bytes of the ring buffer of samples: a power of two, and whole pages of any size in use.
pub const SAMPLES_BYTES: u32 = 256 * 1024;

/// How a packet reaches the VM. Kept as a plain byte in [`Binding::delivery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Delivery {
    /// Through the kernel's stack; the door translates.
    Stack = 0,
    /// Translate, then `bpf_redirect_peer` into the VM's network namespace.
    Peer = 1,
    /// `bpf_redirect_neigh` to the L3 device; the door translates.
    Neigh = 2,
    /// Translate in XDP and redirect to the port; what XDP cannot take goes by `Peer`.
    Xdp = 3,
    /// Not here any more: `bpf_redirect_neigh`, untranslated, to the node the VM has moved to.
    Forward = 4,
}

impl Delivery {
    /// Every lane.
    pub const ALL: [Self; 5] = [
        Self::Stack,
        Self::Peer,
        Self::Neigh,
        Self::Xdp,
        Self::Forward,
    ];

    /// The lane a map value names. An unknown byte means the stack lane: the slowest, and the one
    /// that is right wherever any of them is.
    #[inline(always)]
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Peer,
            2 => Self::Neigh,
            3 => Self::Xdp,
            4 => Self::Forward,
            _ => Self::Stack,
        }
    }

    /// Name for people, flags and objects.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stack => "stack",
            Self::Peer => "peer",
            Self::Neigh => "neigh",
            Self::Xdp => "xdp",
            Self::Forward => "forward",
        }
    }
}

/// The EIP the VM uses for what it starts itself. Set in [`Binding::flags`].
pub const BINDING_PRIMARY: u8 = 1;
/// The VM has other EIPs of this family: which one a peer used has to be remembered. Set in
/// [`Binding::flags`].
pub const BINDING_SHARES_VM: u8 = 2;
/// ARP requests and neighbour solicitations for the EIP are answered on the uplinks. Set in
/// [`Binding::flags`].
pub const BINDING_ANSWER_L2: u8 = 4;

/// Everything needed to deliver to the VM behind an EIP. Value of `EIP4`/`EIP6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Binding<A> {
    /// The VM's address inside the cluster; with [`Delivery::Forward`] that of the node it is on.
    pub vm: A,
    /// The VM's own host-side interface (behind a bridge: the bridge port). The door is here.
    pub port_ifindex: u32,
    /// The interface the route to the VM points at: the port itself or its bridge.
    pub l3_ifindex: u32,
    /// Index into the traffic counters; dense and unique on this node.
    pub slot: u32,
    /// `metadata.generation` of the object this came from; 0 where it has none.
    pub generation: u32,
    /// Largest L3 packet the VM's link takes, in bytes.
    pub mtu: u32,
    /// Destination MAC of a frame to the VM.
    pub vm_mac: Mac,
    /// Source MAC of a frame to the VM: the L3 device's own.
    pub node_mac: Mac,
    /// [`Delivery`] as a byte.
    pub delivery: u8,
    /// [`BINDING_PRIMARY`], [`BINDING_SHARES_VM`], [`BINDING_ANSWER_L2`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// The VM has more than one EIP of this family: replies have to look up theirs. Set in [`Vm::flags`].
pub const VM_MANY_EIPS: u32 = 1;
/// The primary EIP uses the stack lane: what the VM sends takes it too. Set in [`Vm::flags`].
pub const VM_STACK_LANE: u32 = 2;

/// What a bound VM's own packets need. Value of `VM4`/`VM6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Vm<A> {
    /// The primary EIP.
    pub eip: A,
    /// The only port this VM may send from.
    pub port_ifindex: u32,
    /// The interface the node routes on for this VM; input interface of route lookups.
    pub l3_ifindex: u32,
    /// Counter slot of the primary EIP.
    pub slot: u32,
    /// [`VM_MANY_EIPS`], [`VM_STACK_LANE`].
    pub flags: u32,
}

/// The prefix is pod, service or node network: VMs talk to it with their own address.
pub const NET_BYPASS: u32 = 1;
/// The prefix is one EIPs are taken from.
pub const NET_EIP: u32 = 2;

/// What the node knows about a prefix. Value of `NETS4`/`NETS6`; the longest match decides alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Net {
    /// [`NET_BYPASS`] and [`NET_EIP`].
    pub flags: u32,
}

/// One conversation between a VM's EIP and a peer that cannot be told apart by address alone,
/// seen from the VM. Key of `FLOW4`/`FLOW6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey<A> {
    /// The VM's own address.
    pub vm: A,
    /// The other end.
    pub peer: A,
    /// The VM's port, or the identifier of an ICMP echo, or zero.
    pub vm_port: Port,
    /// The other end's port, or zero.
    pub peer_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// A fragmented datagram sent by a VM. Key of `FRAG4`/`FRAG6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// The VM's own address.
    pub vm: A,
    /// The other end.
    pub peer: A,
    /// Identification: two bytes of IPv4 after two zero bytes, four of IPv6.
    pub id: [u8; 4],
    /// IP protocol number; zero in IPv6, where fragments of one datagram may differ in it.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// What XDP sends back by `XDP_TX` leaves: the program runs in a driver that has a queue for it. Set in
/// [`Uplink::flags`].
pub const UPLINK_SENDS_XDP: u8 = 1;

/// An interface toward the routers. Value of `UPLINKS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Uplink {
    /// Largest L3 packet, in bytes.
    pub mtu: u32,
    /// Its own hardware address; zero where it has no Ethernet address.
    pub mac: Mac,
    /// [`UPLINK_SENDS_XDP`].
    pub flags: u8,
    /// Zero.
    pub reserved: u8,
}

/// The gateway of the family is set: skip the route lookup. In [`Config::flags`].
pub const CONFIG_GATEWAY4: u32 = 1;
/// As [`CONFIG_GATEWAY4`], for IPv6.
pub const CONFIG_GATEWAY6: u32 = 2;

/// Settings of the whole node. Value of `CONFIG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// [`ABI_VERSION`] of the daemon that wrote this.
    pub abi_version: u32,
    /// [`CONFIG_GATEWAY4`], [`CONFIG_GATEWAY6`].
    pub flags: u32,
    /// Interface both gateways are on.
    pub gateway_ifindex: u32,
    /// MTU of that interface.
    pub gateway_mtu: u32,
    /// Next hop for IPv4.
    pub gateway4: Ipv4Wire,
    /// Next hop for IPv6.
    pub gateway6: Ipv6Wire,
}

/// Packets and bytes (L3) of one binding. Value of `TRAFFIC`, per CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Traffic {
    /// Packets delivered to the VM.
    pub in_packets: u64,
    /// Their bytes, from the IP header on.
    pub in_bytes: u64,
    /// Packets sent by the VM with the EIP.
    pub out_packets: u64,
    /// Their bytes, from the IP header on.
    pub out_bytes: u64,
}

/// How long the programs serve a binding without hearing from the agent: after that, a node whose agent
/// is frozen, gone or cut off answers for the elastic IP in no way any more. Value of `LEASES`.
///
/// A map of its own, and not a field of the binding: it is renewed all the time, for both directions, and
/// one store of 8 bytes cannot be seen half written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Lease {
    /// Nanoseconds of `CLOCK_BOOTTIME`, which goes on while the machine sleeps and which nobody can set;
    /// 0: for ever.
    pub until: u64,
}

/// [`Lease::until`] of a slot that has a new owner: nothing is served before the first renewal.
pub const LEASE_NOT_BEGUN: u64 = 1;

/// Key of `EIP_REASONS`: what happened to the packets of one binding that were not simply carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct EipReasonKey {
    /// Slot of the binding; with [`BY_PORT`], the ifindex of the port the sender is behind.
    pub slot: u32,
    /// [`crate::reason::Hook`] as a byte.
    pub hook: u8,
    /// [`crate::reason::Reason`] as a byte.
    pub reason: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// In [`EipReasonKey::slot`]: the rest is an ifindex. A sender that pretends to be somebody else is known
/// by its port alone. Versions that do not know this bit see a slot nobody has.
pub const BY_PORT: u32 = 1 << 31;

/// [`Sample::slot`] of a packet that concerns no binding, and [`Watch::slot`] of everybody's packets.
pub const NO_SLOT: u32 = u32::MAX;

/// Which packets the programs write samples of. All zero: none, and that is one comparison per packet.
/// Value of `WATCH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Watch {
    /// Until when, in nanoseconds of `CLOCK_MONOTONIC`. Renewed while somebody looks, so that nothing is
    /// left on by a daemon that is gone.
    pub until: u64,
    /// A bit for every [`crate::reason::Reason`].
    pub reasons: u64,
    /// A bit for every [`crate::reason::Hook`].
    pub hooks: u32,
    /// Only packets of this binding, or on [`Self::port`]; [`NO_SLOT`]: of everybody.
    pub slot: u32,
    /// Port of the VM behind that binding; 0 without one.
    pub port: u32,
    /// Samples a CPU may write in one window of 2^30 ns.
    pub rate: u32,
}

/// Bytes of a packet in a [`Sample`]: every header there may be, and an ICMP error's quote.
pub const SAMPLE_HEAD: usize = 112;

/// A packet as a program left it. Entry of `SAMPLES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Sample {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// The interface the program runs on.
    pub ifindex: u32,
    /// Counter slot of the binding it concerns, or [`NO_SLOT`].
    pub slot: u32,
    /// Length of the frame.
    pub len: u32,
    /// Bytes of [`Self::head`] that are of the frame. Even.
    pub captured: u16,
    /// [`crate::reason::Hook`] as a byte.
    pub hook: u8,
    /// [`crate::reason::Reason`] as a byte.
    pub reason: u8,
    /// The beginning of the frame.
    pub head: [u8; SAMPLE_HEAD],
}

impl Sample {
    /// A sample as the ring buffer holds it; `None` for anything shorter.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let at = |offset: usize| bytes.get(offset..);
        let word = |offset| at(offset)?.first_chunk().copied().map(u32::from_ne_bytes);
        Some(Self {
            time: u64::from_ne_bytes(*bytes.first_chunk()?),
            ifindex: word(8)?,
            slot: word(12)?,
            len: word(16)?,
            captured: u16::from_ne_bytes(*at(20)?.first_chunk()?),
            hook: *bytes.get(22)?,
            reason: *bytes.get(23)?,
            head: *at(24)?.first_chunk()?,
        })
    }

    /// The bytes of the frame in it.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        let captured = usize::from(self.captured).min(SAMPLE_HEAD);
        self.head.get(..captured).unwrap_or_default()
    }
}

/// Senders that one CPU tells in one window of 2^30 ns that their packet is too large.
pub const MAX_ANSWERS: u32 = 1000;

/// What one CPU has written and sent. Value of `QUOTA`, per CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Quota {
    /// The window that [`Self::taken`] and [`Self::answers`] count.
    pub window: u64,
    /// Samples that were not written: over the rate, or no room in the ring buffer.
    pub lost: u64,
    /// Samples written in this window.
    pub taken: u32,
    /// Senders that were told in this window that a packet is too large.
    pub answers: u32,
}

/// Sizes are part of the ABI: a change here means a new [`ABI_VERSION`]. Since no type has padding,
/// each size is also the sum of its fields.
const _: () = {
    const fn size_is<T>(size: usize) {
        assert!(size_of::<T>() == size && align_of::<T>() <= 8);
    }
    size_is::<Binding<Ipv4Wire>>(4 + 5 * 4 + 6 + 6 + 4);
    size_is::<Binding<Ipv6Wire>>(16 + 5 * 4 + 6 + 6 + 4);
    size_is::<Vm<Ipv4Wire>>(4 + 4 * 4);
    size_is::<Vm<Ipv6Wire>>(16 + 4 * 4);
    size_is::<Net>(4);
    size_is::<FlowKey<Ipv4Wire>>(4 + 4 + 2 + 2 + 1 + 3);
    size_is::<FlowKey<Ipv6Wire>>(16 + 16 + 2 + 2 + 1 + 3);
    size_is::<FragmentKey<Ipv4Wire>>(4 + 4 + 4 + 1 + 3);
    size_is::<FragmentKey<Ipv6Wire>>(16 + 16 + 4 + 1 + 3);
    size_is::<Uplink>(4 + 6 + 1 + 1);
    size_is::<Config>(4 * 4 + 4 + 16);
    size_is::<Traffic>(4 * 8);
    size_is::<Lease>(8);
    size_is::<EipReasonKey>(4 + 1 + 1 + 2);
    size_is::<Watch>(8 + 8 + 4 * 4);
    size_is::<Sample>(8 + 3 * 4 + 2 + 1 + 1 + SAMPLE_HEAD);
    size_is::<Quota>(8 + 8 + 4 + 4);
};

#[cfg(test)]
mod tests {
    use super::{ABI_VERSION, Delivery, map, program};
    use std::format;

    #[test]
    fn map_names_carry_the_abi_version_and_fit_the_kernel() {
        let suffix = format!("_V{ABI_VERSION}");
        for name in map::ALL {
            assert!(name.ends_with(&suffix), "{name}");
            assert!(name.len() <= 15, "{name}");
        }
        for name in program::ALL {
            assert!(name.len() <= 15, "{name}");
        }
    }

    #[test]
    fn an_unknown_delivery_byte_means_the_stack_lane() {
        for lane in Delivery::ALL {
            assert_eq!(Delivery::from_byte(lane as u8), lane);
        }
        for byte in 5..=u8::MAX {
            assert_eq!(Delivery::from_byte(byte), Delivery::Stack);
        }
    }
}

//! One chain: router, node, VMs; and frames in and out of it.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use eip_lab::{
    daemon::{Daemon, DaemonOptions},
    firewall::Firewall,
    plan::{CLIENT, Family, GuestPlan, VM1, VM2, eip, mac_text},
    sniff::{Injector, Tap},
    world::{DefaultRoute, GuestGro, World, WorldOptions},
};

use crate::{
    Direction, Step, conntrack,
    packet::{self, Body, Ends, Header, Sum},
    six,
};

/// The VMs of every chain: one behind a routed veth, one behind a bridge.
pub const GUESTS: [(GuestPlan, Ipv4Addr); 2] = [(VM1, eip::VM1.v4), (VM2, eip::VM2.v4)];
/// Hardware addresses that are random otherwise.
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 2];
const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 3];
/// The door of `vm1`, as the lab builds it.
const DOOR_MAC: [u8; 6] = [0xee; 6];
/// How long a frame may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Destination port of a frame that says that everything before it has passed.
const BARRIER: u16 = 9;

/// Addresses of a VM: its own and its EIP.
pub fn addresses(guest: usize) -> ([u8; 4], [u8; 4]) {
    let (plan, eip) = GUESTS[guest];
    (plan.address.v4.octets(), eip.octets())
}

/// As [`addresses`], in IPv6.
pub fn addresses6(guest: usize) -> ([u8; 16], [u8; 16]) {
    let (plan, _) = GUESTS[guest];
    let eip = [eip::VM1, eip::VM2][guest].v6;
    (plan.address.v6.octets(), eip.octets())
}

/// What is between the two wires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translator {
    /// nftables.
    Netfilter,
    /// The daemon, with this delivery lane.
    Ours(&'static str),
}

/// What came out of a chain after one frame was put in, link headers included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// At the other end.
    pub arrived: Vec<Vec<u8>>,
    /// Back where it came from.
    pub returned: Vec<Vec<u8>>,
}

/// One end of a chain.
struct End {
    injector: Injector,
    tap: Tap,
    /// Where its frames go.
    next: [u8; 6],
}

/// A chain with its two kinds of ends.
pub struct Chain {
    router: End,
    guests: Vec<End>,
    barriers: u32,
    daemon: Option<Daemon>,
    /// The namespaces.
    pub world: World,
    translator: Translator,
}

impl Chain {
    /// Raises a chain whose VMs have links of this MTU.
    ///
    /// # Errors
    /// Without root, or when the daemon does not come up.
    pub fn raise(translator: Translator, guest_mtu: u32) -> anyhow::Result<Self> {
        let mut chain = Self::with_traffic(translator, guest_mtu)?;
        chain.mute()?;
        for guest in 0..GUESTS.len() {
            // Neighbours find each other with the first frames; none of a test may wait for that.
            for family in Family::BOTH {
                chain.barrier(family, Direction::Inward, guest)?;
                chain.barrier(family, Direction::Outward, guest)?;
            }
        }
        if let (Translator::Ours(delivery), Some(daemon)) = (translator, &mut chain.daemon) {
            for (guest, (_, eip)) in GUESTS.into_iter().enumerate() {
                let eip6 = Ipv6Addr::from(addresses6(guest).1);
                for eip in [eip.to_string(), eip6.to_string()] {
                    daemon.wait_delivery(&eip, delivery)?;
                }
            }
        }
        Ok(chain)
    }

    /// As [`Chain::raise`], with hosts that answer.
    ///
    /// # Errors
    /// As [`Chain::raise`].
    pub fn with_traffic(translator: Translator, guest_mtu: u32) -> anyhow::Result<Self> {
        let world = World::new(WorldOptions {
            default_route: DefaultRoute::Uplink,
            // Whatever a firewall drops cannot be compared.
            firewall: Firewall::Open,
            guest_gro: GuestGro::On,
            guest_mtu,
            guests: GUESTS.map(|(plan, _)| plan).to_vec(),
            ..WorldOptions::default()
        })?;
        wire(&world)?;
        let daemon = match translator {
            Translator::Netfilter => {
                world.node.nft(&ruleset())?;
                world.node.sysctl(
                    "netfilter/nf_conntrack_checksum=0
                    netfilter/nf_conntrack_tcp_be_liberal=1",
                )?;
                None
            }
            Translator::Ours(delivery) => {
                let mut daemon = Daemon::start(
                    &world,
                    DaemonOptions {
                        delivery,
                        ..DaemonOptions::default()
                    },
                )?;
                for (guest, (plan, eip)) in GUESTS.into_iter().enumerate() {
                    daemon.serve(&plan, eip)?;
                    daemon.serve(&plan, Ipv6Addr::from(addresses6(guest).1))?;
                }
                Some(daemon)
            }
        };
        let router = End {
            injector: Injector::open(&world.router, "ru0")?,
            tap: Tap::open(&world.router, "ru0")?,
            next: UPLINK_MAC,
        };
        let guests = GUESTS
            .iter()
            .zip([DOOR_MAC, BRIDGE_MAC])
            .map(|((plan, _), next)| {
                let ns = &world.guest(*plan).ns;
                Ok(End {
                    injector: Injector::open(ns, "eth0")?,
                    tap: Tap::open(ns, "eth0")?,
                    next,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            router,
            guests,
            barriers: 0,
            daemon,
            world,
            translator,
        })
    }

    /// No host answers any more: a reply would be a frame nobody put in.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn mute(&self) -> anyhow::Result<()> {
        // Neighbours are still to be found.
        let silence = "table ip mute {\n  chain silence {\n    \
                       type filter hook prerouting priority raw; policy drop;\n  }\n}\n\
                       table ip6 mute {\n  chain silence {\n    \
                       type filter hook prerouting priority raw; policy drop;\n    \
                       icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n  }\n}\n";
        self.world.router.nft(silence)?;
        for guest in self.world.guests() {
            guest.ns.nft(silence)?;
        }
        Ok(())
    }

    /// Forgets all connections.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&self) -> anyhow::Result<()> {
        conntrack::flush(&self.world.node)
    }

    /// How often our programs counted a reason at a hook; zero for netfilter.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn count(&self, hook: &str, reason: &str) -> anyhow::Result<u64> {
        self.daemon
            .as_ref()
            .map_or(Ok(0), |daemon| daemon.count(hook, reason))
    }

    /// Puts one packet in and waits until everything it caused has come out.
    ///
    /// # Errors
    /// When the chain is broken: the frame that follows it does not arrive.
    pub fn pass(&mut self, step: &Step) -> anyhow::Result<Outcome> {
        let end = self.end(step.direction, step.guest);
        let mut frame = [end.next, end.injector.mac].concat();
        frame.extend(step.ethertype());
        frame.extend(&step.packet);
        end.injector.send(&frame)?;
        let family = step.family();
        let arrived = self.barrier(family, step.direction, step.guest)?;
        let returned = self.barrier(family, step.direction.turned(), step.guest)?;
        Ok(Outcome { arrived, returned })
    }

    /// Sends a frame after which nothing of what was sent before can come, and returns what came.
    fn barrier(
        &mut self,
        family: Family,
        direction: Direction,
        guest: usize,
    ) -> anyhow::Result<Vec<Vec<u8>>> {
        self.barriers += 1;
        let mark = format!("barrier {}", self.barriers).into_bytes();
        let body = Body::Udp {
            lite: false,
            ports: (BARRIER, BARRIER),
            sum: Sum::Right,
            payload: mark.clone(),
        };
        let step = Step {
            direction,
            guest,
            packet: match family {
                Family::V4 => whole(direction, guest, &body),
                Family::V6 => whole6(direction, guest, &body),
            },
        };
        let end = self.end(direction, guest);
        let mut frame = [end.next, end.injector.mac].concat();
        frame.extend(step.ethertype());
        frame.extend(&step.packet);
        end.injector.send(&frame)?;
        let deadline = Instant::now() + PATIENCE;
        let tap = &self.end(direction.turned(), guest).tap;
        let mut heard = Vec::new();
        while Instant::now() < deadline {
            let Some(frame) = tap.next()? else { continue };
            if frame.ends_with(&mark) {
                return Ok(heard);
            }
            // Neighbour discovery and the bridge's own group reports are not what is compared.
            let is_to_one = frame.first().is_some_and(|byte| byte & 1 == 0);
            let is_ip = match frame.get(12..14) {
                Some([8, 0]) => true,
                Some([0x86, 0xdd]) => {
                    frame.get(20) != Some(&58) || !matches!(frame.get(54), Some(133..=137))
                }
                _ => false,
            };
            if is_to_one && is_ip {
                heard.push(frame);
            }
        }
        anyhow::bail!(
            "{:?}: no frame came through {direction:?} any more, {} others did",
            self.translator,
            heard.len()
        )
    }

    /// Where frames of a direction are put in.
    fn end(&self, direction: Direction, guest: usize) -> &End {
        match direction {
            Direction::Inward => &self.router,
            Direction::Outward => &self.guests[guest],
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // Every frame is judged byte by byte here, and a damaged quote shows an inside address on purpose.
        self.world.forgive_leaks();
    }
}

/// A packet between a VM and the client where it is put in.
fn whole(direction: Direction, guest: usize, body: &Body) -> Vec<u8> {
    let (vm, eip) = addresses(guest);
    let client = CLIENT.v4.octets();
    let (source, destination) = match direction {
        Direction::Inward => (client, eip),
        Direction::Outward => (vm, client),
    };
    let ends = Ends {
        source,
        destination,
    };
    packet::whole(&Header::default(), body, ends)
}

/// As [`whole`], in IPv6.
fn whole6(direction: Direction, guest: usize, body: &Body) -> Vec<u8> {
    let (vm, eip) = addresses6(guest);
    let client = CLIENT.v6.octets();
    let (source, destination) = match direction {
        Direction::Inward => (client, eip),
        Direction::Outward => (vm, client),
    };
    let ends = six::packet::Ends {
        source,
        destination,
    };
    six::packet::whole(&six::packet::Header::default(), body, ends)
}

/// Makes two worlds alike to the byte, and their wires honest.
fn wire(world: &World) -> anyhow::Result<()> {
    world
        .router
        .ip(&format!("link set ru0 address {}\n", mac_text(ROUTER_MAC)))?;
    world.node.ip(&format!(
        "link set up0 address {}\nlink set cni0 address {}\n",
        mac_text(UPLINK_MAC),
        mac_text(BRIDGE_MAC)
    ))?;
    // What the node answers in the way of errors is compared too, all of it.
    world.node.sysctl("ipv4/icmp_ratelimit=0")?;
    for file in [
        "ipv4/icmp_msgs_per_sec=1000000",
        "ipv4/icmp_msgs_burst=1000000",
    ] {
        // Of the whole machine before Linux 6.12, and plenty there.
        let _ = world.node.sysctl(file);
    }
    for guest in world.guests() {
        guest.ns.sh("ethtool -K eth0 tx off")?;
    }
    // Frames are compared one by one.
    world.node.sh("ethtool -K up0 gro off")?;
    Ok(())
}

/// 1:1 NAT as an administrator would write it.
fn ruleset() -> String {
    let guests = || 0..GUESTS.len();
    let v4 = guests().map(|guest| {
        let (vm, eip) = addresses(guest);
        (
            Ipv4Addr::from(vm).to_string(),
            Ipv4Addr::from(eip).to_string(),
        )
    });
    let v6 = guests().map(|guest| {
        let (vm, eip) = addresses6(guest);
        (
            Ipv6Addr::from(vm).to_string(),
            Ipv6Addr::from(eip).to_string(),
        )
    });
    let (v4, v6) = (
        table("ip", &v4.collect::<Vec<_>>()),
        table("ip6", &v6.collect::<Vec<_>>()),
    );
    format!("flush ruleset\n{v4}{v6}")
}

/// Each VM's address with its EIP, in the tables of one family.
fn table(family: &str, guests: &[(String, String)]) -> String {
    let inward = guests.iter().map(|(vm, eip)| format!("{eip} : {vm}"));
    let outward = guests.iter().map(|(vm, eip)| format!("{vm} : {eip}"));
    format!(
        "table {family} oracle {{\n  \
         chain inward {{\n    type nat hook prerouting priority dstnat;\n    \
         iifname \"up0\" dnat to {family} daddr map {{ {} }}\n  }}\n  \
         chain outward {{\n    type nat hook postrouting priority srcnat;\n    \
         oifname \"up0\" snat to {family} saddr map {{ {} }}\n  }}\n  \
         chain forward {{\n    type filter hook forward priority filter;\n    \
         ct state invalid counter drop\n  }}\n}}\n",
        inward.collect::<Vec<_>>().join(", "),
        outward.collect::<Vec<_>>().join(", ")
    )
}

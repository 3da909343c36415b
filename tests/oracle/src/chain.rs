//! One chain: router, node, VMs; and frames in and out of it.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use eip_lab::{
    daemon::{Daemon, DaemonOptions},
    documents,
    firewall::Firewall,
    plan::{self, CLIENT, Dual, Family, GuestPlan, ROUTER_UPLINK, VM1, VM2, mac_text},
    sniff::{Injector, Tap},
    world::{DefaultRoute, GuestGro, WireFrames, World, WorldOptions},
};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{
    Path, Place, Step, case, conntrack,
    packet::{Body, Header, Sum, octets, whole},
};

/// The VMs of every chain, one behind a routed veth and one behind a bridge, each with its primary EIP.
pub const GUESTS: [(GuestPlan, Dual); 2] = [(VM1, plan::eip::VM1), (VM2, plan::eip::VM2)];
/// What the first VM has besides in a chain with [`Build::many_eips`].
pub const MORE_EIPS: [Dual; 2] = [plan::eip::SECOND, plan::eip::VM3];
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

/// A VM's own addresses.
pub const fn vm(guest: usize) -> Dual {
    GUESTS[guest].0.address
}

/// One of a VM's EIPs; number zero is the primary.
pub const fn eip(guest: usize, number: usize) -> Dual {
    match (guest, number) {
        (_, 0) => GUESTS[guest].1,
        (_, more) => MORE_EIPS[more - 1],
    }
}

/// A VM's own address and one of its EIPs.
pub fn addresses(family: Family, guest: usize, number: usize) -> (Vec<u8>, Vec<u8>) {
    let (vm, eip) = (vm(guest), eip(guest, number));
    (octets(vm.of(family)), octets(eip.of(family)))
}

/// Every address of a VM.
pub fn all_addresses(family: Family) -> impl Iterator<Item = Vec<u8>> {
    let guests = GUESTS
        .into_iter()
        .flat_map(|(plan, eip)| [plan.address, eip]);
    let all = guests.chain(MORE_EIPS);
    all.map(move |address| octets(address.of(family)))
}

/// What is between the two wires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translator {
    /// nftables.
    Netfilter,
    /// The daemon, with this delivery lane.
    Ours(&'static str),
}

/// What kind of chain to raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// MTU of the VMs' links.
    pub guest_mtu: u32,
    /// Whether senders leave checksums and segments to whoever comes behind.
    pub frames: WireFrames,
    /// Whether the first VM has more than one EIP.
    pub many_eips: bool,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            guest_mtu: 1500,
            frames: WireFrames::default(),
            many_eips: false,
        }
    }
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
    /// Raises a chain in which nobody answers.
    ///
    /// # Errors
    /// Without root, or when the daemon does not come up.
    pub fn raise(translator: Translator, build: Build) -> anyhow::Result<Self> {
        let mut chain = Self::with_traffic(translator, build)?;
        chain.mute()?;
        // Neighbours find each other with the first frames; none of a test may wait for that.
        for family in Family::BOTH {
            for path in Path::everywhere() {
                chain.barrier(family, path)?;
            }
        }
        if let (Translator::Ours(delivery), Some(daemon)) = (translator, &mut chain.daemon) {
            for (_, eip) in GUESTS {
                for family in Family::BOTH {
                    daemon.wait_delivery(&eip.of(family).to_string(), delivery)?;
                }
            }
        }
        Ok(chain)
    }

    /// As [`Chain::raise`], with hosts that answer.
    ///
    /// # Errors
    /// As [`Chain::raise`].
    pub fn with_traffic(translator: Translator, build: Build) -> anyhow::Result<Self> {
        let world = World::new(WorldOptions {
            default_route: DefaultRoute::Uplink,
            // Whatever a firewall drops cannot be compared.
            firewall: Firewall::Open,
            guest_gro: GuestGro::On,
            guest_mtu: build.guest_mtu,
            guests: GUESTS.map(|(plan, _)| plan).to_vec(),
            wire: build.frames,
            ..WorldOptions::default()
        })?;
        wire(&world, build)?;
        let daemon = match translator {
            Translator::Netfilter => {
                world.node.nft(&ruleset(build))?;
                world.node.sysctl(
                    "netfilter/nf_conntrack_checksum=0
                    netfilter/nf_conntrack_tcp_be_liberal=1",
                )?;
                None
            }
            Translator::Ours(delivery) => Some(served(&world, delivery, build)?),
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
        self.put_in(step)?;
        self.outcome(step.family(), step.path)
    }

    /// Waits until everything that was put in, or that a program has sent, has come out.
    ///
    /// # Errors
    /// As [`Chain::pass`].
    pub fn outcome(&mut self, family: Family, path: Path) -> anyhow::Result<Outcome> {
        let arrived = self.barrier(family, path)?;
        let returned = self.barrier(family, path.turned())?;
        Ok(Outcome { arrived, returned })
    }

    /// Has the kernel at one end send a datagram for each `segment` bytes of `payload`, all of them in one
    /// packet as far as nobody has to cut it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn send_segments(
        &self,
        family: Family,
        path: Path,
        payload: &[u8],
        segment: u16,
    ) -> anyhow::Result<()> {
        let ns = match path.from {
            Place::Outside => &self.world.router,
            Place::Vm(guest, _) => &self.world.guest(GUESTS[guest].0).ns,
        };
        // The router hears what is meant for the network, and talks itself.
        let ends = case::ends(family, path, ROUTER_UPLINK.of(family));
        ns.run(|| {
            let socket = UdpSocket::bind((ends.source, 4000))?;
            setsockopt(&socket, sockopt::UdpGsoSegment, &segment.into())?;
            let length = socket.send_to(payload, (ends.destination, 4001))?;
            anyhow::ensure!(length == payload.len(), "only {length} bytes were sent");
            Ok(())
        })
    }

    fn put_in(&self, step: &Step) -> anyhow::Result<()> {
        let end = self.end(step.path.from);
        let mut frame = [end.next, end.injector.mac].concat();
        if let Some(tag) = step.tag {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(step.ethertype());
        frame.extend(&step.packet);
        end.injector.send(&frame)
    }

    /// Sends a frame after which nothing of what was sent before can come, and returns what came.
    fn barrier(&mut self, family: Family, path: Path) -> anyhow::Result<Vec<Vec<u8>>> {
        self.barriers += 1;
        let mark = format!("barrier {}", self.barriers).into_bytes();
        let body = Body::Udp {
            lite: false,
            ports: (BARRIER, BARRIER),
            sum: Sum::Right,
            payload: mark.clone(),
        };
        let ends = case::ends(family, path, CLIENT.of(family));
        let packet = whole(&Header::plain(family), &body, ends);
        self.put_in(&Step::new(path, packet))?;
        let deadline = Instant::now() + PATIENCE;
        let tap = &self.end(path.to).tap;
        let mut heard = Vec::new();
        while Instant::now() < deadline {
            let Some(frame) = tap.next()? else { continue };
            if frame.ends_with(&mark) {
                return Ok(heard);
            }
            if is_compared(&frame) {
                heard.push(frame);
            }
        }
        anyhow::bail!(
            "{:?}: no frame came through {path:?} any more, {} others did",
            self.translator,
            heard.len()
        )
    }

    fn end(&self, place: Place) -> &End {
        match place {
            Place::Outside => &self.router,
            Place::Vm(guest, _) => &self.guests[guest],
        }
    }
}

/// Neighbour discovery and the bridge's own group reports are not.
fn is_compared(frame: &[u8]) -> bool {
    let is_to_one = frame.first().is_some_and(|byte| byte & 1 == 0);
    let is_ip = match frame.get(12..14) {
        Some([8, 0]) => true,
        Some([0x86, 0xdd]) => {
            frame.get(20) != Some(&58) || !matches!(frame.get(54), Some(133..=137))
        }
        _ => false,
    };
    is_to_one && is_ip
}

impl Drop for Chain {
    fn drop(&mut self) {
        // Every frame is judged byte by byte here, and a damaged quote shows an inside address on purpose.
        self.world.forgive_leaks();
    }
}

/// Starts the daemon and has it serve every EIP.
fn served(world: &World, delivery: &'static str, build: Build) -> anyhow::Result<Daemon> {
    let mut daemon = Daemon::start(
        world,
        DaemonOptions {
            delivery,
            // A veth with XDP on takes no packet of many segments.
            xdp_mode: match build.frames {
                WireFrames::Complete => "auto",
                WireFrames::Partial => "off",
            },
            ..DaemonOptions::default()
        },
    )?;
    for (plan, eip) in GUESTS {
        daemon.documents().put_vm(&plan)?;
        for (family, name) in [(Family::V4, "4"), (Family::V6, "6")] {
            let name = format!("{}-{name}", plan.name);
            let eip = eip.of(family);
            let primary = documents::binding(&name, eip, plan.name, "  primary: true\n");
            daemon
                .documents()
                .write(&format!("{name}.yaml"), &primary)?;
            daemon.wait_state(&eip.to_string(), "programmed")?;
        }
    }
    for eip in MORE_EIPS.into_iter().filter(|_| build.many_eips) {
        for family in Family::BOTH {
            let eip = eip.of(family);
            let name = eip.to_string().replace([':', '.'], "-");
            daemon.documents().put_binding(&name, eip, VM1.name)?;
            daemon.wait_state(&eip.to_string(), "programmed")?;
        }
    }
    Ok(daemon)
}

/// Makes two worlds alike to the byte, and their wires honest.
fn wire(world: &World, build: Build) -> anyhow::Result<()> {
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
    if build.frames == WireFrames::Complete {
        for guest in world.guests() {
            guest.ns.sh("ethtool -K eth0 tx off")?;
        }
    }
    // Frames are compared one by one.
    world.node.sh("ethtool -K up0 gro off")?;
    Ok(())
}

/// 1:1 NAT as an administrator would write it.
fn ruleset(build: Build) -> String {
    let tables = [(Family::V4, "ip"), (Family::V6, "ip6")].map(|(family, name)| {
        let more = MORE_EIPS.into_iter().filter(|_| build.many_eips);
        let primaries = GUESTS.map(|(plan, eip)| (plan.address.of(family), eip.of(family)));
        let all = more.map(|eip| (VM1.address.of(family), eip.of(family)));
        let inward = primaries.into_iter().chain(all);
        let inward = inward.map(|(vm, eip)| format!("{eip} : {vm}"));
        let outward = primaries.map(|(vm, eip)| format!("{vm} : {eip}"));
        let (inward, outward) = (inward.collect::<Vec<_>>().join(", "), outward.join(", "));
        // A VM's packet to an EIP of this node has both of its ends translated.
        format!(
            "table {name} oracle {{\n  \
             chain inward {{\n    type nat hook prerouting priority dstnat;\n    \
             dnat to {name} daddr map {{ {inward} }}\n  }}\n  \
             chain outward {{\n    type nat hook postrouting priority srcnat;\n    \
             oifname \"up0\" snat to {name} saddr map {{ {outward} }}\n    \
             ct status dnat snat to {name} saddr map {{ {outward} }}\n  }}\n  \
             chain forward {{\n    type filter hook forward priority filter;\n    \
             ct state invalid counter drop\n  }}\n}}\n",
        )
    });
    format!("flush ruleset\n{}", tables.concat())
}

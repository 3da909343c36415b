//! A client, a router and a hostile node with VMs and pods, each a network namespace.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    firewall::{self, Firewall, ForwardAccept},
    leak::LeakDetector,
    netns::{self, Ns},
    plan::{
        self, Attachment, CLIENT, GuestPlan, NODE_BRIDGE, NODE_MANAGEMENT, NODE_UPLINK,
        ROUTER_CLIENT, ROUTER_MANAGEMENT, ROUTER_UPLINK, mac_text,
    },
    sniff::Sniffer,
    uplink::Uplink,
    vlan::StandIn,
    wait,
};

/// Where the node's main default route points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DefaultRoute {
    /// Through the management network, away from the uplink: two gateways, the hard case.
    #[default]
    Management,
    /// Through the uplink: one network for everything.
    Uplink,
}

/// Who computes checksums and cuts segments on the router's port toward the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WireFrames {
    /// The sender does, as on a wire: full checksums, frames no larger than the MTU.
    #[default]
    Complete,
    /// Nobody does: the node receives `CHECKSUM_PARTIAL` super-packets, as from a virtual NIC.
    Partial,
}

/// Generic receive offload on the guests' side of their veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuestGro {
    /// The default of veth: the port does not take redirected XDP frames.
    #[default]
    Off,
    /// The port takes redirected XDP frames.
    On,
}

/// What kind of node to build.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Main default route.
    pub default_route: DefaultRoute,
    /// What the uplink is made of.
    pub uplink: Uplink,
    /// The node's firewall.
    pub firewall: Firewall,
    /// The advice for the stack lane.
    pub forward_accept: ForwardAccept,
    /// Frames toward the uplink.
    pub wire: WireFrames,
    /// Guests' receive offload.
    pub guest_gro: GuestGro,
    /// MTU of the guests' links.
    pub guest_mtu: u32,
    /// Which guests to raise.
    pub guests: Vec<GuestPlan>,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            default_route: DefaultRoute::default(),
            uplink: Uplink::default(),
            firewall: Firewall::default(),
            forward_accept: ForwardAccept::default(),
            wire: WireFrames::default(),
            guest_gro: GuestGro::default(),
            guest_mtu: 1500,
            guests: vec![plan::VM1, plan::VM2, plan::POD1, plan::POD2],
        }
    }
}

/// A VM or pod that is up.
#[derive(Debug)]
pub struct Guest {
    /// Its namespace.
    pub ns: Ns,
    /// Its addresses and place.
    pub plan: GuestPlan,
}

/// A running lab. Everything goes away when it is dropped; when the test panics it tells what it
/// knows first, and when it did not, leaks make it panic.
#[derive(Debug)]
pub struct World {
    // Sniffers first: their threads end before the namespaces do.
    watchers: Vec<(&'static str, Sniffer)>,
    stand_ins: Vec<StandIn>,
    leaks: LeakDetector,
    /// What the guests look like from outside is watched here and on the router.
    pub client: Ns,
    /// Routes the EIP network to the node.
    pub router: Ns,
    /// The hypervisor.
    pub node: Ns,
    guests: Vec<Guest>,
    options: WorldOptions,
    is_standing: bool,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl World {
    /// Raises a world of this process's own.
    ///
    /// # Errors
    /// Without root or when a tool is missing; what was made until then is removed.
    pub fn new(options: WorldOptions) -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            let _ = netns::sweep();
        }
        Self::named(&format!("eip-{}-{number}-", std::process::id()), options)
    }

    /// Raises a world whose namespaces begin with `prefix`.
    ///
    /// # Errors
    /// As [`World::new`]; also when one with this prefix stands.
    pub fn named(prefix: &str, options: WorldOptions) -> anyhow::Result<Self> {
        let client = Ns::create(&format!("{prefix}client"))?;
        let router = Ns::create(&format!("{prefix}router"))?;
        let node = Ns::create(&format!("{prefix}hv"))?;
        let guests = options
            .guests
            .iter()
            .map(|plan| {
                Ok(Guest {
                    ns: Ns::create(&format!("{prefix}{}", plan.name))?,
                    plan: *plan,
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut world = Self {
            watchers: Vec::new(),
            stand_ins: Vec::new(),
            leaks: LeakDetector::default(),
            client,
            router,
            node,
            guests,
            options,
            is_standing: false,
        };
        world.build(prefix).context("build the lab")?;
        world.watch().context("start the leak detector")?;
        world.settle()?;
        Ok(world)
    }

    /// Takes hold of a standing world. Dropping it leaves it standing.
    ///
    /// # Errors
    /// When a namespace of it is missing.
    pub fn open(prefix: &str, options: WorldOptions) -> anyhow::Result<Self> {
        let guests = options
            .guests
            .iter()
            .map(|plan| {
                Ok(Guest {
                    ns: Ns::open(&format!("{prefix}{}", plan.name))?,
                    plan: *plan,
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            watchers: Vec::new(),
            stand_ins: Vec::new(),
            leaks: LeakDetector::default(),
            client: Ns::open(&format!("{prefix}client"))?,
            router: Ns::open(&format!("{prefix}router"))?,
            node: Ns::open(&format!("{prefix}hv"))?,
            guests,
            options,
            is_standing: true,
        })
    }

    /// Leaves the namespaces standing when this value is dropped.
    pub fn keep(&mut self) {
        self.is_standing = true;
        for ns in [&mut self.client, &mut self.router, &mut self.node] {
            ns.keep();
        }
        for guest in &mut self.guests {
            guest.ns.keep();
        }
    }

    /// What it was built with.
    #[must_use]
    pub fn options(&self) -> &WorldOptions {
        &self.options
    }

    /// Every guest.
    #[must_use]
    pub fn guests(&self) -> &[Guest] {
        &self.guests
    }

    /// A guest by its plan.
    ///
    /// # Panics
    /// When the world was built without it: a mistake of the test.
    #[must_use]
    #[expect(
        clippy::panic,
        reason = "a mistake of the test, not a state of the lab"
    )]
    pub fn guest(&self, plan: GuestPlan) -> &Guest {
        self.guests
            .iter()
            .find(|guest| guest.plan.name == plan.name)
            .unwrap_or_else(|| panic!("this world has no {}", plan.name))
    }

    /// The leak detector, to tell it what is allowed or to ask what it saw.
    #[must_use]
    pub fn leaks(&self) -> &LeakDetector {
        &self.leaks
    }

    /// Forgets the leaks so far, with those of packets still on their way: after a test broke
    /// something that the agent has to repair.
    pub fn forgive_leaks(&self) {
        wait::pause(Duration::from_millis(150));
        self.leaks.forget();
    }

    /// What the router saw since the world stood.
    ///
    /// # Panics
    /// Never in a world made by [`World::new`].
    #[must_use]
    pub fn router_frames(&self) -> &Sniffer {
        self.watcher("router")
    }

    /// What the client saw since the world stood.
    ///
    /// # Panics
    /// Never in a world made by [`World::new`].
    #[must_use]
    pub fn client_frames(&self) -> &Sniffer {
        self.watcher("client")
    }

    #[expect(clippy::expect_used, reason = "every world that was built has both")]
    fn watcher(&self, name: &str) -> &Sniffer {
        self.watchers
            .iter()
            .find(|(watched, _)| *watched == name)
            .map(|(_, sniffer)| sniffer)
            .expect("a world that is watched")
    }

    fn build(&mut self, prefix: &str) -> anyhow::Result<()> {
        self.settings()?;
        let uplink = self.options.uplink;
        self.stand_ins = uplink.plug(&self.node, &self.router, prefix)?;
        self.outside_links()?;
        self.bridge()?;
        for guest in &self.guests {
            self.attach(guest)?;
        }
        self.node.nft(&firewall::ruleset(
            self.options.firewall,
            self.options.forward_accept,
        ))?;
        self.router.nft(&firewall::router_ruleset())?;
        Ok(())
    }

    /// Settings come before interfaces, which take them over from `default`.
    fn settings(&self) -> anyhow::Result<()> {
        let every = "ipv4/ping_group_range=0 2147483647
            ipv6/conf/default/accept_dad=0
            ipv6/conf/all/accept_ra=0
            ipv6/conf/default/accept_ra=0";
        for ns in [&self.client, &self.router, &self.node]
            .into_iter()
            .chain(self.guests.iter().map(|guest| &guest.ns))
        {
            ns.sysctl(every)?;
        }
        self.router.sysctl(
            "ipv4/ip_forward=1
            ipv6/conf/all/forwarding=1
            ipv4/icmp_ratelimit=0
            ipv6/icmp/ratelimit=0",
        )?;
        self.node.sysctl(
            "ipv4/ip_forward=1
            ipv6/conf/all/forwarding=1
            ipv4/conf/all/rp_filter=1
            ipv4/conf/default/rp_filter=1
            ipv4/conf/all/send_redirects=0
            ipv4/conf/default/send_redirects=0
            ipv4/icmp_errors_use_inbound_ifaddr=1
            ipv4/icmp_ratelimit=0
            ipv6/icmp/ratelimit=0",
        )?;
        for file in [
            "bridge/bridge-nf-call-iptables",
            "bridge/bridge-nf-call-ip6tables",
        ] {
            // Not every kernel has br_netfilter; with it the node is more hostile.
            let _ = self.node.sysctl(&format!("{file}=1"));
        }
        Ok(())
    }

    fn outside_links(&self) -> anyhow::Result<()> {
        let router = self.router.name();
        self.client.ip(&format!(
            "link add eth0 type veth peer name rc0 netns {router}
            addr add {}/24 dev eth0
            addr add {}/64 dev eth0 nodad
            link set eth0 up
            ",
            CLIENT.v4, CLIENT.v6
        ))?;
        self.node.ip(&format!(
            "link add mg0 type veth peer name rm0 netns {router}
            addr add {}/24 dev up0
            addr add {}/64 dev up0 nodad
            addr add {}/24 dev mg0
            addr add {}/64 dev mg0 nodad
            link set up0 up
            link set mg0 up
            ",
            NODE_UPLINK.v4, NODE_UPLINK.v6, NODE_MANAGEMENT.v4, NODE_MANAGEMENT.v6
        ))?;
        self.router.ip(&format!(
            "addr add {}/24 dev rc0
            addr add {}/64 dev rc0 nodad
            addr add {}/24 dev ru0
            addr add {}/64 dev ru0 nodad
            addr add {}/24 dev rm0
            addr add {}/64 dev rm0 nodad
            link set rc0 up
            link set ru0 up
            link set rm0 up
            route add {} via {}
            route add {} via {}
            ",
            ROUTER_CLIENT.v4,
            ROUTER_CLIENT.v6,
            ROUTER_UPLINK.v4,
            ROUTER_UPLINK.v6,
            ROUTER_MANAGEMENT.v4,
            ROUTER_MANAGEMENT.v6,
            plan::EIP_CIDR,
            NODE_UPLINK.v4,
            plan::EIP_CIDR6,
            NODE_UPLINK.v6
        ))?;
        self.client.ip(&format!(
            "route add default via {}\nroute add ::/0 via {}\n",
            ROUTER_CLIENT.v4, ROUTER_CLIENT.v6
        ))?;
        let gateway = match self.options.default_route {
            DefaultRoute::Management => ROUTER_MANAGEMENT,
            DefaultRoute::Uplink => ROUTER_UPLINK,
        };
        self.node.ip(&format!(
            "route add default via {}\nroute add ::/0 via {}\n",
            gateway.v4, gateway.v6
        ))?;
        // What a real NIC has.
        self.node.sh("ethtool -K up0 gro on")?;
        if self.options.wire == WireFrames::Complete {
            self.router.sh("ethtool -K ru0 tx off")?;
        }
        Ok(())
    }

    fn bridge(&self) -> anyhow::Result<()> {
        self.node.ip(&format!(
            "link add cni0 type bridge
            link set cni0 mtu {}
            addr add {}/24 dev cni0
            addr add {}/64 dev cni0 nodad
            link set cni0 up
            ",
            self.options.guest_mtu, NODE_BRIDGE.v4, NODE_BRIDGE.v6
        ))
    }

    /// Plugs a guest in: its veth, addresses and routes on both sides.
    ///
    /// # Errors
    /// When it is plugged in already.
    pub fn attach(&self, guest: &Guest) -> anyhow::Result<()> {
        let GuestPlan {
            address,
            port,
            attachment,
            mac,
            ..
        } = guest.plan;
        let (inside, mtu, mac) = (guest.ns.name(), self.options.guest_mtu, mac_text(mac));
        let common = format!(
            "link add {port} mtu {mtu} type veth peer name eth0 netns {inside} mtu {mtu} address {mac}\n"
        );
        match attachment {
            Attachment::Routed => {
                self.node.ip(&format!(
                    "{common}link set {port} address ee:ee:ee:ee:ee:ee
                    addr add fe80::1/64 dev {port} nodad
                    link set {port} up
                    route add {}/32 dev {port} scope link
                    route add {}/128 dev {port}
                    ",
                    address.v4, address.v6
                ))?;
                self.node.sysctl(&format!(
                    "ipv4/conf/{port}/proxy_arp=1\nipv4/neigh/{port}/proxy_delay=0"
                ))?;
                guest.ns.ip(&format!(
                    "addr add {}/32 dev eth0
                    addr add {}/128 dev eth0 nodad
                    link set eth0 up
                    route add 169.254.1.1 dev eth0 scope link
                    route add default via 169.254.1.1 dev eth0
                    route add ::/0 via fe80::1 dev eth0
                    ",
                    address.v4, address.v6
                ))?;
            }
            Attachment::BridgePort => {
                self.node.ip(&format!(
                    "{common}link set {port} master cni0\nlink set {port} up\n"
                ))?;
                guest.ns.ip(&format!(
                    "addr add {}/24 dev eth0
                    addr add {}/64 dev eth0 nodad
                    link set eth0 up
                    route add default via {}
                    route add ::/0 via {}
                    ",
                    address.v4, address.v6, NODE_BRIDGE.v4, NODE_BRIDGE.v6
                ))?;
            }
        }
        if self.options.guest_gro == GuestGro::On {
            guest.ns.sh("ethtool -K eth0 gro on")?;
        }
        Ok(())
    }

    /// Unplugs a guest: its veth and all routes over it are gone.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn detach(&self, guest: &Guest) -> anyhow::Result<()> {
        self.node.ip(&format!("link del {}\n", guest.plan.port))
    }

    fn watch(&mut self) -> anyhow::Result<()> {
        for (name, ns) in [("router", &self.router), ("client", &self.client)] {
            let leaks = self.leaks.clone();
            self.watchers
                .push((name, Sniffer::watch(ns, move |frame| leaks.look_at(frame))?));
        }
        Ok(())
    }

    /// A bridge port forwards only after its link came up and it was let in; an IPv6 address is one of
    /// the host's a moment after it was added.
    fn settle(&self) -> anyhow::Result<()> {
        let outside = [
            (&self.client, CLIENT.v6),
            (&self.router, ROUTER_CLIENT.v6),
            (&self.router, ROUTER_UPLINK.v6),
            (&self.router, ROUTER_MANAGEMENT.v6),
            (&self.node, NODE_UPLINK.v6),
            (&self.node, NODE_MANAGEMENT.v6),
            (&self.node, NODE_BRIDGE.v6),
        ];
        let guests = self.guests.iter();
        let guests = guests.map(|guest| (&guest.ns, guest.plan.address.v6));
        for (ns, address) in guests.chain(outside) {
            ns.wait_local(address)?;
        }
        for guest in &self.guests {
            if guest.plan.attachment != Attachment::BridgePort {
                continue;
            }
            let what = format!("{} forwards", guest.plan.port);
            wait::wait_until(Duration::from_secs(5), &what, || {
                self.node
                    .sh(&format!("ip -d link show {}", guest.plan.port))
                    .is_ok_and(|text| text.contains("state forwarding"))
            })?;
        }
        Ok(())
    }

    /// Everything that helps to understand a failure.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = String::from("==== the lab ====\n");
        for line in [
            "ip -br addr",
            "ip route show table all",
            "ip -6 route show table all",
            "ip rule",
            "ip -6 rule",
            "ip neigh",
            "bridge fdb show br cni0",
            "nft list ruleset",
            "nstat -az IpReversePathFilter TcpInCsumErrors UdpInCsumErrors IcmpOutDestUnreachs",
        ] {
            text += &self.node.report(line);
        }
        for (name, sniffer) in &self.watchers {
            text += &[
                "---- last frames at the ",
                name,
                " ----\n",
                &sniffer.tail(60),
            ]
            .concat();
        }
        for leak in self.leaks.leaks() {
            text += &["LEAK: ", &leak, "\n"].concat();
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.dump());
            return;
        }
        if self.is_standing {
            return;
        }
        // They hear to the end what was sent until now.
        self.watchers.clear();
        let leaks = self.leaks.leaks();
        assert!(
            leaks.is_empty(),
            "the outside saw what it must not see:\n{}",
            leaks.join("\n")
        );
    }
}

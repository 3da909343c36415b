//! The domain types every other module speaks in. No I/O, no clock, no kernel handles.
//!
//! Data flows one way through them:
//!
//! ```text
//! Facts (what the objects say) ──┐
//! NetworkView (what the node is) ─┼─> desired::compute ─> Desired ─┐
//! NodeSettings (flags) ───────────┘                                ├─> plan ─> Vec<Action> ─> DataPlane
//!                                   DataPlane::observe ─> Observed ┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    path::PathBuf,
};

use eip_common::{abi::Delivery, addr::Mac};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod announce;
mod peering;

pub use announce::{Announce, Announcement, Announcements};
pub use peering::{
    BfdSettings, Community, ExportRule, ExportSettings, NodeFact, PasswordSource, PeerAsn,
    PeerFact, PeerFamilies, PeerPlace, PeerReach, PeerSettings, Preference, RouteMarks, Secret,
};

/// Namespace and name of an object. Shown as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Namespace; `default` where a document names none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which lane a user asked for. `Auto` lets the agent take the fastest one that is right here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryChoice {
    /// `peer`, or `neigh` where the port asks for it.
    #[default]
    Auto,
    /// `bpf_redirect_peer`.
    Peer,
    /// `bpf_redirect_neigh`.
    Neigh,
    /// Through the kernel's stack.
    Stack,
    /// Translation in XDP, for ports that take XDP frames.
    Xdp,
}

impl DeliveryChoice {
    /// Name in objects and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Peer => "peer",
            Self::Neigh => "neigh",
            Self::Stack => "stack",
            Self::Xdp => "xdp",
        }
    }
}

/// Which XDP attachment is wanted on uplinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native, else generic, else none.
    #[default]
    Auto,
    /// In the driver, or fail.
    Native,
    /// In the kernel's generic path.
    Generic,
    /// No XDP program; tc does all.
    Off,
}

/// Which tc attachment is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TcMode {
    /// tcx where the kernel has it (6.6), else clsact.
    #[default]
    Auto,
    /// tcx, or fail.
    Tcx,
    /// clsact and a direct-action filter.
    Clsact,
}

/// Where an object was read from, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// Position of the document in it, from 1.
    pub document: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (document {})", self.file.display(), self.document)
    }
}

/// What the name of a pod begins with, where VMs and pods stand side by side.
pub const POD: &str = "pod/";

/// A target for people: what it is and its name.
#[must_use]
pub fn target_text(name: &ObjectName) -> String {
    let namespace = &name.namespace;
    match name.name.strip_prefix(POD) {
        Some(pod) => format!("Pod {namespace}/{pod}"),
        None => format!("VirtualMachineInstance {name}"),
    }
}

/// What the name in a binding is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// A `VirtualMachineInstance`.
    #[default]
    Vm,
    /// A plain `Pod`; its name begins with [`POD`], which no name of a VM can.
    Pod,
    /// An address of this node, whoever has it. Only root can write that down: nothing says whose
    /// address it is.
    Address(IpAddr),
}

/// What an `EipBinding` object asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingFact {
    /// The object.
    pub name: ObjectName,
    /// The elastic IP asked for.
    pub eip: IpAddr,
    /// The VM, in the same namespace; for an address, its text.
    pub vm: ObjectName,
    /// What it is the name of.
    #[serde(default)]
    pub kind: TargetKind,
    /// `spec.interface`: the VM's network the EIP leads to; the pod network without it.
    #[serde(default)]
    pub interface: Option<String>,
    /// `metadata.creationTimestamp` in seconds since the epoch; objects without one are older
    /// than those with one and ordered by name among themselves.
    pub created: Option<i64>,
    /// `metadata.generation`.
    pub generation: u64,
    /// `spec.primary`.
    pub primary: bool,
    /// `spec.delivery`, else the node's setting.
    pub delivery: Option<DeliveryChoice>,
    /// `spec.announce`, else the node's setting.
    pub announce: Option<Announce>,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// Its VM has just gone. Not for the next process.
    #[serde(skip)]
    pub moving: Moving,
}

/// The time around a move from one node to another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Moving {
    /// The other node serves it; what still comes here follows.
    pub left: Option<HandOver>,
}

/// A VM that another node serves already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// That node.
    pub node: String,
    /// Its address on a segment it shares with an uplink of this node, as it says.
    pub to: Option<IpAddr>,
    /// Peers are still told of this node too: nothing is missing while routers learn of the other one.
    pub is_announced: bool,
    /// When that node took over, in nanoseconds of `CLOCK_BOOTTIME`: a process that starts in the middle
    /// of it ends it when the one before would have.
    #[serde(default)]
    pub began: u64,
}

/// `status.phase` of a `VirtualMachineInstance`, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmPhase {
    /// Not running yet.
    Pending,
    /// The only phase in which its addresses mean anything.
    Running,
    /// `Succeeded` or `Failed`: whatever else the status says is stale.
    Final,
    /// A phase this version does not know.
    Unknown,
}

/// One entry of `status.interfaces[]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInterface {
    /// Name of the network in the VMI's spec; empty for guest-only interfaces.
    pub name: String,
    /// All addresses, the primary first.
    pub addresses: Vec<IpAddr>,
}

/// What a `VirtualMachineInstance` object reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmFact {
    /// The object.
    pub name: ObjectName,
    /// `metadata.uid`: a restarted VM is a new object of the same name.
    pub uid: Option<String>,
    /// `metadata.creationTimestamp` in seconds since the epoch, ordered as in [`BindingFact`].
    pub created: Option<i64>,
    /// `status.phase`.
    pub phase: VmPhase,
    /// `status.nodeName`.
    pub node: Option<String>,
    /// When it came here from another node, in seconds since the epoch, as far as is known.
    #[serde(default)]
    pub arrived: Option<i64>,
    /// `status.interfaces[]`, the pod network first where it can be told.
    pub interfaces: Vec<VmInterface>,
    /// Where it was read.
    pub origin: Option<Origin>,
}

/// An object that says which networks are internal to the cluster: a `Node` (pod networks) or a
/// `ServiceCIDR`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetFact {
    /// Kind of the object.
    pub kind: String,
    /// The object; both kinds are cluster-wide, their namespace means nothing.
    pub name: ObjectName,
    /// The networks.
    pub nets: Vec<IpNet>,
    /// Where it was read.
    pub origin: Option<Origin>,
}

/// A document that could not be understood. It hurts nobody but itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedDocument {
    /// Where it stands.
    pub origin: Origin,
    /// The object, when that much could be read.
    pub name: Option<ObjectName>,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Everything a source knows at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// All bindings.
    pub bindings: Vec<BindingFact>,
    /// All VMs.
    pub vms: Vec<VmFact>,
    /// Networks internal to the cluster, besides those of the settings.
    pub nets: Vec<NetFact>,
    /// What nodes say beside their networks.
    #[serde(default)]
    pub nodes: Vec<NodeFact>,
    /// All BGP peers.
    #[serde(default)]
    pub peers: Vec<PeerFact>,
    /// What was refused.
    pub refused: Vec<RefusedDocument>,
    /// The first full reading is done. Nothing is removed before that.
    pub complete: bool,
    /// When the reading that made them complete began, in nanoseconds of `CLOCK_BOOTTIME`: what had
    /// moved away by then is not in them. `None` where nobody else moves anything.
    #[serde(skip)]
    pub read_at: Option<u64>,
}

/// What flags, environment and discovery at start say about this node. Fixed for the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeSettings {
    /// Name VMIs use for this node.
    pub node_name: String,
    /// Interfaces toward the routers, by name.
    pub uplinks: Vec<String>,
    /// Next hop for IPv4 traffic of EIPs; without it routes decide.
    pub gateway4: Option<Ipv4Addr>,
    /// As `gateway4`, for IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Prefixes EIPs come from. Empty refuses every binding.
    pub eip_cidrs: Vec<IpNet>,
    /// Pod, service and node networks.
    pub internal_nets: Vec<IpNet>,
    /// Lane for bindings that name none.
    pub delivery: DeliveryChoice,
    /// How bindings that do not say it are announced.
    pub announce: Announce,
    /// XDP attachment.
    pub xdp_mode: XdpMode,
    /// tc attachment.
    pub tc_mode: TcMode,
    /// Table for EIP traffic where the main one leads elsewhere.
    pub route_table: u32,
}

/// A network interface of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// `IFLA_INFO_KIND`: `veth`, `bridge`, `vlan`, ...; empty for hardware.
    pub kind: String,
    /// Hardware address; `None` where it is not an Ethernet address.
    pub mac: Option<Mac>,
    /// MTU.
    pub mtu: u32,
    /// Bridge, bond or VRF it belongs to.
    pub master: Option<u32>,
    /// What makes it a VLAN interface.
    pub vlan: Option<Vlan>,
    /// Administratively up.
    pub is_up: bool,
}

/// Which frames of another interface belong to a VLAN interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// The interface below.
    pub below: u32,
    /// VLAN id of the tag that is taken off.
    pub id: u16,
    /// The tag is one of 802.1ad, not of 802.1Q.
    pub is_service: bool,
}

/// An address of the node itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// Interface.
    pub ifindex: u32,
    /// Address and prefix length.
    pub address: IpNet,
}

/// How the node routes to a VM address, from the kernel's own lookup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTo {
    /// Outgoing interface.
    pub ifindex: u32,
    /// Next hop, when the address is not directly on the interface.
    pub gateway: Option<IpAddr>,
    /// `unicast` route (not local, blackhole, unreachable, ...).
    pub is_unicast: bool,
}

/// A default route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRoute {
    /// Outgoing interface.
    pub ifindex: u32,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Metric, lower wins.
    pub metric: u32,
}

/// What the kernel says about the node at one moment; read, never written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkView {
    /// Interfaces by index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of the node.
    pub addresses: Vec<NodeAddress>,
    /// Resolved neighbours: (interface, address) to MAC.
    pub neighbours: BTreeMap<(u32, IpAddr), Mac>,
    /// Bridge forwarding entries: (bridge, MAC) to port.
    pub bridge_ports: BTreeMap<(u32, Mac), u32>,
    /// Route lookups for the VM addresses that were asked for; absent means no route.
    pub routes: BTreeMap<IpAddr, RouteTo>,
    /// Default routes of both families in the main table.
    pub default_routes: Vec<DefaultRoute>,
    /// Interfaces that carry somebody else's tc or tcx egress program.
    pub foreign_egress: BTreeSet<u32>,
    /// Interfaces of which the kernel says that they transmit redirected XDP frames.
    pub xdp_ports: BTreeSet<u32>,
}

/// Where a VM is on this node and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The VM's own host-side interface.
    pub port: u32,
    /// The interface the route points at.
    pub l3: u32,
    /// Largest L3 packet.
    pub mtu: u32,
    /// The VM's MAC; `None` until the neighbour is resolved (only `neigh` and `stack` work then).
    pub vm_mac: Option<Mac>,
    /// The L3 device's MAC.
    pub node_mac: Mac,
}

/// One EIP as it shall be, or is, in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingState {
    /// VM address of the same family.
    pub vm: IpAddr,
    /// Port.
    pub port: u32,
    /// L3 device.
    pub l3: u32,
    /// Link MTU.
    pub mtu: u32,
    /// VM's MAC; zero while unknown.
    pub vm_mac: Mac,
    /// Node's MAC.
    pub node_mac: Mac,
    /// Lane, as [`Delivery::name`].
    pub delivery: Lane,
    /// The VM's EIP for what it starts itself.
    pub is_primary: bool,
    /// The VM has other EIPs of this family (as [`VmState::has_many`]).
    pub shares_vm: bool,
    /// ARP and neighbour discovery are answered for it on the uplinks.
    pub answers_l2: bool,
    /// Generation of the object.
    pub generation: u32,
}

/// [`Delivery`] with the traits the daemon needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// [`Delivery::Stack`].
    Stack,
    /// [`Delivery::Peer`].
    Peer,
    /// [`Delivery::Neigh`].
    Neigh,
    /// [`Delivery::Xdp`].
    Xdp,
    /// [`Delivery::Forward`].
    Forward,
}

impl From<Lane> for Delivery {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Stack => Self::Stack,
            Lane::Peer => Self::Peer,
            Lane::Neigh => Self::Neigh,
            Lane::Xdp => Self::Xdp,
            Lane::Forward => Self::Forward,
        }
    }
}

impl From<Delivery> for Lane {
    fn from(delivery: Delivery) -> Self {
        match delivery {
            Delivery::Stack => Self::Stack,
            Delivery::Peer => Self::Peer,
            Delivery::Neigh => Self::Neigh,
            Delivery::Xdp => Self::Xdp,
            Delivery::Forward => Self::Forward,
        }
    }
}

/// One bound VM address as it shall be, or is, in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmState {
    /// Primary EIP of this family.
    pub eip: IpAddr,
    /// Port.
    pub port: u32,
    /// L3 device.
    pub l3: u32,
    /// More than one EIP of this family.
    pub has_many: bool,
    /// The primary EIP's lane is [`Lane::Stack`]: both directions of a binding share a lane.
    pub uses_stack: bool,
}

/// Flags of a prefix in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetState {
    /// Pod, service or node network.
    pub is_bypass: bool,
    /// EIPs come from it.
    pub is_eip_range: bool,
}

/// Next hops and limits the programs use for the whole node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GatewayState {
    /// Next hop for IPv4.
    pub gateway4: Option<Ipv4Addr>,
    /// Next hop for IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Interface of both; 0 without a gateway.
    pub ifindex: u32,
    /// Its MTU.
    pub mtu: u32,
}

/// A host route `eip via vm dev l3 onlink` in the main table, with our protocol number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostRoute {
    /// The EIP.
    pub eip: IpAddr,
    /// The VM: next hop, on the link by force.
    pub vm: IpAddr,
    /// L3 device.
    pub l3: u32,
}

/// What a policy rule matches besides its priority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleMatch {
    /// `iif NAME to NET`.
    ArrivingFor {
        /// Interface name.
        iif: String,
        /// Destination.
        to: IpNet,
    },
    /// `from NET`.
    From(IpNet),
    /// `to NET`.
    To(IpNet),
}

/// What a policy rule does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleAction {
    /// `lookup main suppress_prefixlength 0`: any route but the default.
    MainWithoutDefault,
    /// `lookup TABLE`.
    Table(u32),
    /// `unreachable`.
    Unreachable,
}

/// Priorities of our policy rules: every rule of ours is inside, and nobody else's is touched.
pub const RULE_PRIORITIES: RangeInclusive<u32> = 1180..=1209;

/// One of our policy rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Priority, inside our range.
    pub priority: u32,
    /// Match.
    pub matches: RuleMatch,
    /// Action.
    pub action: RuleAction,
}

/// As `ip rule` writes it.
impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.priority)?;
        match &self.matches {
            RuleMatch::ArrivingFor { iif, to } => write!(f, "to {to} iif {iif} ")?,
            RuleMatch::From(net) => write!(f, "from {net} ")?,
            RuleMatch::To(net) => write!(f, "to {net} ")?,
        }
        match &self.action {
            RuleAction::MainWithoutDefault => f.write_str("lookup main suppress_prefixlength 0"),
            RuleAction::Table(table) => write!(f, "lookup {table}"),
            RuleAction::Unreachable => f.write_str("unreachable"),
        }
    }
}

/// `default via gateway dev uplink` in our own table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableDefault {
    /// Table.
    pub table: u32,
    /// Next hop.
    pub gateway: IpAddr,
    /// Uplink.
    pub ifindex: u32,
}

/// What is attached to an uplink, or shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkState {
    /// Name, for people and pins.
    pub name: String,
    /// MTU the programs see.
    pub mtu: u32,
    /// Hardware address the programs answer ARP and neighbour discovery with; zero without one.
    pub mac: Mac,
}

/// Everything of ours in the kernel: what shall be there, and what the network is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// EIP map.
    pub bindings: BTreeMap<IpAddr, BindingState>,
    /// VM map.
    pub vms: BTreeMap<IpAddr, VmState>,
    /// Prefix maps.
    pub nets: BTreeMap<IpNet, NetState>,
    /// Config map.
    pub gateway: GatewayState,
    /// Uplinks with programs, by ifindex.
    pub uplinks: BTreeMap<u32, UplinkState>,
    /// Ports with a door, by ifindex.
    pub ports: BTreeSet<u32>,
    /// Host routes.
    pub routes: BTreeSet<HostRoute>,
    /// Policy rules.
    pub rules: BTreeSet<PolicyRule>,
    /// Defaults of our table.
    pub table_defaults: BTreeSet<TableDefault>,
    /// How each EIP of `bindings` is to be announced, once it is in the kernel.
    pub announcements: BTreeMap<IpAddr, Announcement>,
    /// What became of every binding object.
    pub outcomes: BTreeMap<ObjectName, Outcome>,
}

/// Everything of ours in the kernel: what is there, read back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// EIP map with the counter slot of each.
    pub bindings: BTreeMap<IpAddr, (BindingState, u32)>,
    /// VM map with the counter slot of each.
    pub vms: BTreeMap<IpAddr, (VmState, u32)>,
    /// Until when each slot of a binding is served: nanoseconds of `CLOCK_BOOTTIME`, 0 for ever.
    pub leases: BTreeMap<u32, u64>,
    /// Prefix maps.
    pub nets: BTreeMap<IpNet, NetState>,
    /// Config map; `None` when never written or of another ABI version.
    pub gateway: Option<GatewayState>,
    /// Uplinks whose attachments are all in place and run the programs of this process.
    pub uplinks: BTreeMap<u32, UplinkState>,
    /// Ports whose two programs are in place and those of this process.
    pub ports: BTreeSet<u32>,
    /// Attachments, pins or map entries that belong to nothing: stale interfaces, half-made doors.
    pub leftovers: BTreeSet<u32>,
    /// Routes of our protocol in the main table.
    pub routes: BTreeSet<HostRoute>,
    /// Rules in our priority range with our protocol.
    pub rules: BTreeSet<PolicyRule>,
    /// Defaults in our table.
    pub table_defaults: BTreeSet<TableDefault>,
}

impl Observed {
    /// The programs do not serve the EIP any more (or not yet): its lease has ended. Without a binding
    /// there is nothing to fence.
    #[must_use]
    pub fn is_fenced(&self, eip: &IpAddr, now: u64) -> bool {
        let until = |(_, slot): &(BindingState, u32)| self.leases.get(slot).copied();
        let until = self.bindings.get(eip).and_then(until).unwrap_or(0);
        until != 0 && until <= now
    }
}

/// What became of a binding object on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Outcome {
    /// It shall be in the kernel.
    Served {
        /// The VM's address.
        vm: IpAddr,
        /// For people: why the lane is not the one that was asked for.
        note: Option<String>,
    },
    /// The VM runs on another node: not ours to serve.
    Elsewhere {
        /// That node.
        node: String,
    },
    /// Nothing wrong with the binding, but its VM cannot be served yet.
    Waiting {
        /// Why.
        reason: WaitReason,
        /// For people: what was found, what is missing.
        message: String,
    },
    /// The binding cannot be served as it is written.
    Refused {
        /// Why.
        reason: RefuseReason,
        /// For people: what is wrong and what would be right.
        message: String,
    },
}

/// Why a binding waits. Names are part of the interface (status reasons later).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WaitReason {
    /// No such `VirtualMachineInstance`.
    VmNotFound,
    /// Its phase is not Running.
    VmNotRunning,
    /// It reports no address of the EIP's family.
    VmHasNoAddress,
    /// It has no network of the name the binding gives.
    InterfaceNotFound,
    /// The node has no route to its address.
    NoRoute,
    /// The route to its address goes through a gateway or is no unicast route: the VM is not here.
    NotLocal,
    /// It is behind a bridge and its neighbour or forwarding entry is not known yet.
    PortUnknown,
    /// The interface is of a kind no door can be put on.
    PortUnsupported,
}

/// Why a binding is refused. Names are part of the interface (status reasons later).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RefuseReason {
    /// The EIP is outside the EIP CIDRs.
    OutsideEipCidrs,
    /// The EIP is inside a pod, service or node network.
    InsideBypass,
    /// The EIP is the gateway.
    IsGateway,
    /// The EIP is the network address of its CIDR.
    IsNetworkAddress,
    /// The EIP is the broadcast address of its CIDR.
    IsBroadcastAddress,
    /// The EIP is an address of this node.
    IsNodeAddress,
    /// The EIP is not a unicast address anybody could be reached on.
    NotUnicast,
    /// The VM's address is outside the internal networks.
    VmOutsideInternalNets,
    /// An older binding holds the EIP.
    Conflict,
    /// Another VM on this node reports the same address.
    VmAddressConflict,
}

/// One change to the kernel. Data, so that a plan can be printed, tested and ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Write the config map.
    PutGateway(GatewayState),
    /// Write a prefix.
    PutNet(IpNet, NetState),
    /// Remove a prefix.
    RemoveNet(IpNet),
    /// Attach (or replace) XDP and tc programs of an uplink and write it to the uplink map.
    AttachUplink(u32, UplinkState),
    /// Take both programs off an uplink and out of the map.
    DetachUplink(u32),
    /// Attach (or replace) both programs of a door.
    AttachPort(u32),
    /// Take both programs off a port.
    DetachPort(u32),
    /// Remove pins and entries of an interface that is gone.
    RemoveLeftover(u32),
    /// Write an EIP with its counter slot; a slot that is new is zeroed first.
    PutBinding {
        /// The EIP.
        eip: IpAddr,
        /// Its state.
        state: BindingState,
        /// Counter slot.
        slot: u32,
        /// The slot had another owner or none.
        is_new_slot: bool,
    },
    /// Remove an EIP.
    RemoveBinding {
        /// The EIP.
        eip: IpAddr,
    },
    /// Write a VM address.
    PutVm {
        /// The address.
        vm: IpAddr,
        /// Its state.
        state: VmState,
        /// Counter slot of the primary EIP.
        slot: u32,
    },
    /// Remove a VM address and its flows.
    RemoveVm {
        /// The address.
        vm: IpAddr,
    },
    /// Install or replace a host route.
    PutRoute(HostRoute),
    /// Remove a host route.
    RemoveRoute(HostRoute),
    /// Add a rule.
    AddRule(PolicyRule),
    /// Remove a rule.
    RemoveRule(PolicyRule),
    /// Install or replace a default of our table.
    PutTableDefault(TableDefault),
    /// Remove a default of our table.
    RemoveTableDefault(TableDefault),
}

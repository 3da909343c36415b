//! What goes over the control socket: one set of types for the agent and for `eipctl`.
//!
//! Names are camelCase and stable: fields may be added, none changes its meaning. Everything is
//! spelled out for people and scripts alike: interfaces by name, MACs as text, reasons with what
//! they mean.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod bgp;

pub use bgp::{
    BgpBfd, BgpDrain, BgpError, BgpFamily, BgpListener, BgpPeer, BgpRefusal, BgpRoute,
    BgpRoutePeer, BgpRoutes, BgpStatus, DrainBody,
};

use crate::model::{Announce, DeliveryChoice, Lane};

/// How far a binding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindingPhase {
    /// In the kernel, as wanted.
    Programmed,
    /// In the kernel, which does not serve it: the agent did not renew it in time.
    Fenced,
    /// Wanted, and about to be programmed.
    Pending,
    /// Wanted, but the kernel refuses it at the moment; it is tried again.
    Failing,
    /// Its VM cannot be served yet.
    Waiting,
    /// Its VM runs on another node.
    Elsewhere,
    /// It cannot be served as it is written.
    Refused,
}

impl BindingPhase {
    /// Every phase, the good ones first.
    pub const ALL: [Self; 7] = [
        Self::Programmed,
        Self::Fenced,
        Self::Pending,
        Self::Failing,
        Self::Waiting,
        Self::Elsewhere,
        Self::Refused,
    ];

    /// Name for people and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Programmed => "programmed",
            Self::Fenced => "fenced",
            Self::Pending => "pending",
            Self::Failing => "failing",
            Self::Waiting => "waiting",
            Self::Elsewhere => "elsewhere",
            Self::Refused => "refused",
        }
    }
}

/// One binding object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The elastic IP.
    pub eip: IpAddr,
    /// Name of the VM, in the same namespace.
    pub vm: String,
    /// The VM's own address, once it is known.
    pub vm_address: Option<IpAddr>,
    /// How far it is.
    pub state: BindingPhase,
    /// Why it waits or is refused, as one word.
    pub reason: Option<String>,
    /// For people: what is wrong, what is missing, or what runs otherwise than asked for.
    pub message: Option<String>,
    /// The VM's EIP for what it starts itself: as programmed, else as asked for.
    pub primary: bool,
    /// The lane asked for; absent means the node's choice.
    pub requested_delivery: Option<DeliveryChoice>,
    /// The lane in use.
    pub delivery: Option<Lane>,
    /// Whether NetworkPolicy by iptables holds for its packets, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The announcement asked for; absent means the node's setting.
    pub requested_announce: Option<Announce>,
    /// How it is announced; absent means that it is not served here.
    pub announce: Option<Announce>,
    /// The VM's own host-side interface.
    pub port: Option<String>,
    /// The interface the route to the VM points at.
    pub l3_device: Option<String>,
    /// Largest packet of the VM's link.
    pub mtu: Option<u32>,
    /// The VM's MAC.
    pub vm_mac: Option<String>,
    /// `metadata.generation`.
    pub generation: u64,
    /// Where the object was read.
    pub origin: Option<String>,
    /// Other objects that ask for the same EIP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contenders: Vec<String>,
    /// `Programmed`, `Announced` and `Ready`; none for one that another node serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// BGP peers that are told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// Interfaces on whose segments neighbours are told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<String>,
    /// What BGP peers know of it; only when one binding is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<BgpRoute>,
    /// Somebody else on an uplink's segment says that the EIP is theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Conflict>,
    /// Packets and bytes so far; only when one binding is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// What happened to packets that were not simply carried; only when one binding is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasons: Option<Vec<ReasonCounter>>,
}

/// One aspect of a binding, as in the status of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word for programs.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Another owner of an EIP, heard by ARP or neighbour discovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conflict {
    /// Its hardware address.
    pub mac: String,
    /// The uplink it was heard on.
    pub uplink: String,
    /// The first time, in RFC 3339.
    pub since: String,
    /// How often.
    pub claims: u64,
}

/// Packets and bytes of one binding, bytes counted from the IP header on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Delivered to the VM.
    pub in_packets: u64,
    /// Delivered to the VM.
    pub in_bytes: u64,
    /// Sent by the VM with the EIP.
    pub out_packets: u64,
    /// Sent by the VM with the EIP.
    pub out_bytes: u64,
}

/// How often packets ended one way at one hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReasonCounter {
    /// `ingress` (network to VM) or `egress`.
    pub direction: String,
    /// Where in the packet path.
    pub hook: String,
    /// How the packets ended.
    pub reason: String,
    /// `pass`, `carry` or `drop`.
    pub class: String,
    /// How many.
    pub packets: u64,
    /// What it means.
    pub meaning: String,
    /// What to do about it.
    pub cure: String,
    /// Whose doing it was, where packets of one EIP are counted that its VM did not send as itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// Answer of `GET /v1/bindings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindingList {
    /// Every binding object, by EIP.
    pub bindings: Vec<Binding>,
}

/// Answer of `GET /v1/drops`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReasonList {
    /// The EIP asked for; absent means the whole node.
    pub eip: Option<IpAddr>,
    /// Counters that are not zero.
    pub reasons: Vec<ReasonCounter>,
}

/// Body of `POST /v1/bindings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BindBody {
    /// The elastic IP.
    pub eip: IpAddr,
    /// Name of the VM.
    pub vm: String,
    /// Namespace of both; `default` when left out.
    pub namespace: Option<String>,
    /// Name of the object; made from the EIP when left out.
    pub name: Option<String>,
    /// The VM's EIP for what it starts itself.
    #[serde(default)]
    pub primary: bool,
    /// The lane; the node's choice when left out.
    pub delivery: Option<DeliveryChoice>,
    /// How it is announced; the node's setting when left out.
    pub announce: Option<Announce>,
    /// How long to wait for the outcome, at most 60 000.
    #[serde(default)]
    pub wait_ms: u64,
}

/// Answer of `POST /v1/bindings`: the object is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindAnswer {
    /// Where it was written.
    pub file: String,
    /// What became of it so far; absent while no round has seen it.
    pub binding: Option<Binding>,
}

/// Answer of `DELETE /v1/bindings/{eip-or-name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnbindAnswer {
    /// Namespace of the object that was removed.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its EIP.
    pub eip: IpAddr,
    /// The kernel no longer has the EIP for it.
    pub unprogrammed: bool,
}

/// A prefix and what the node does with it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "answers to independent questions"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Net {
    /// The prefix.
    pub net: IpNet,
    /// Pod, service or node network: VMs talk to it with their own address.
    pub bypass: bool,
    /// Elastic IPs come from it.
    pub eip_range: bool,
    /// It shall be in the kernel.
    pub wanted: bool,
    /// It is in the kernel, as shown or otherwise.
    pub programmed: bool,
}

/// Answer of `GET /v1/nets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetList {
    /// Wanted and programmed prefixes.
    pub nets: Vec<Net>,
}

/// An interface toward the routers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UplinkStatus {
    /// Name.
    pub name: String,
    /// There is such an interface.
    pub present: bool,
    /// It is administratively up.
    pub up: bool,
    /// MTU.
    pub mtu: Option<u32>,
    /// Hardware address.
    pub mac: Option<String>,
    /// How XDP is attached; absent means not at all.
    pub xdp: Option<String>,
    /// How tc is attached; absent means not at all.
    pub tc: Option<String>,
}

/// A change that does not work at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailingChange {
    /// What was to be done.
    pub action: String,
    /// The EIP it concerns.
    pub eip: Option<IpAddr>,
    /// Why it does not work.
    pub error: String,
    /// Tries so far.
    pub attempts: u64,
}

/// A document nobody could read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedDocument {
    /// Where it stands.
    pub origin: String,
    /// The object, when that much could be read.
    pub object: Option<String>,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// How full a map is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapFill {
    /// Name.
    pub map: String,
    /// Entries in use.
    pub entries: u32,
    /// Room.
    pub capacity: u32,
}

/// Answer of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Version of the pinned maps.
    pub abi_version: u32,
    /// Where facts come from.
    pub source: String,
    /// Start of the process, in RFC 3339.
    pub since: String,
    /// Age of the process.
    pub uptime_seconds: u64,
    /// The sources have been read and a round has ended well: the node serves what it should.
    pub ready: bool,
    /// Why it is not ready.
    pub not_ready: Option<String>,
    /// The kernel is as desired.
    pub in_sync: bool,
    /// Rounds since start.
    pub rounds: u64,
    /// Changes made because somebody else had changed the kernel.
    pub repairs: u64,
    /// Duration of the last round.
    pub last_round_us: u64,
    /// What kept a whole round from running.
    pub round_error: Option<String>,
    /// How bindings that do not say it are announced.
    pub announce: Announce,
    /// Interfaces toward the routers.
    pub uplinks: Vec<UplinkStatus>,
    /// Next hop for IPv4; absent means that routes decide.
    pub gateway4: Option<IpAddr>,
    /// Next hop for IPv6; absent means that routes decide.
    pub gateway6: Option<IpAddr>,
    /// Bindings by state; every state is listed.
    pub bindings: BTreeMap<String, usize>,
    /// For how many EIPs NetworkPolicy by iptables holds, for people.
    #[serde(default)]
    pub policy: String,
    /// What does not work.
    pub failing: Vec<FailingChange>,
    /// Documents nobody could read.
    pub refused_documents: Vec<RefusedDocument>,
    /// What runs otherwise than asked for.
    pub notices: Vec<String>,
    /// How full the maps are.
    pub maps: Vec<MapFill>,
    /// BGP sessions, in short.
    #[serde(default)]
    pub bgp: BgpSummary,
}

/// BGP sessions, in short.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpSummary {
    /// Peers in force.
    pub peers: usize,
    /// Of them, with a session.
    pub established: usize,
    /// Peers that are refused.
    pub refused: usize,
    /// The node is drained.
    pub drained: bool,
    /// Why BGP does not run although there are peers.
    pub problem: Option<String>,
}

/// What a look at one link of the chain came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// As it should be.
    Ok,
    /// Broken.
    Bad,
    /// Not looked at, because something before it is broken or it does not apply.
    Skipped,
}

/// One link of the chain from an object to packets that arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainLink {
    /// Which.
    pub name: String,
    /// How it is.
    pub state: LinkState,
    /// What was found.
    pub found: String,
    /// What to do about it, when it is bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// What is worth knowing although it breaks nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Why one EIP works, or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The elastic IP.
    pub eip: IpAddr,
    /// The binding object; absent when there is none.
    pub binding: Option<String>,
    /// The chain, in the order in which things depend on each other.
    pub chain: Vec<ChainLink>,
    /// Name of the first broken link.
    pub broken: Option<String>,
}

/// Answer of `GET /v1/explain/{eip-vm-or-name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainAnswer {
    /// Name of the node that was looked at.
    pub node: String,
    /// Every EIP that was meant.
    pub explanations: Vec<Explanation>,
}

/// A packet, for people and scripts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PacketView {
    /// In one line.
    pub summary: String,
    /// Length of the frame.
    pub length: usize,
    /// Source address.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// Transport protocol.
    pub protocol: Option<u8>,
    /// Source port.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// TTL or hop limit.
    pub ttl: Option<u8>,
    /// Whether all of them hold; absent when not all of the packet is there.
    pub checksums: Option<String>,
    /// The packet that an ICMP error quotes, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quotes: Option<String>,
    /// Source MAC.
    pub source_mac: Option<String>,
    /// Destination MAC.
    pub destination_mac: Option<String>,
}

/// Body of `POST /v1/trace`: a packet to be followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TraceBody {
    /// Source address; the EIP of a VM on this node means that VM.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// Transport protocol by number.
    pub protocol: u8,
    /// Source port, or the identifier of an echo.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length of the IP packet; the shortest when left out.
    pub size: Option<u16>,
    /// No router may cut it up.
    pub dont_fragment: bool,
    /// TTL or hop limit.
    pub ttl: u8,
    /// It opens a connection.
    pub syn: bool,
    /// VLAN ids of the tags it comes with, from the outside in.
    #[serde(default)]
    pub vlan: Vec<u16>,
    /// It is this part of a larger datagram.
    #[serde(default)]
    pub fragment: Option<FragmentPart>,
    /// It is not this packet but the ICMP error about the answer to it.
    #[serde(default)]
    pub icmp_error: Option<IcmpErrorKind>,
    /// Where it comes in; found out when left out.
    pub interface: Option<String>,
}

/// A part of a datagram that was cut on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum FragmentPart {
    /// The first, with the ports.
    First,
    /// One behind it.
    Later,
}

/// What an ICMP error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum IcmpErrorKind {
    /// Nobody listens on the port.
    Unreachable,
    /// "Fragmentation needed", or "packet too big".
    TooLarge,
    /// The TTL or hop limit was used up.
    TimeExceeded,
}

/// What one program, or the kernel, did with the packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceHop {
    /// The hook, or `kernel`.
    pub hook: String,
    /// The interface it is on.
    pub interface: String,
    /// `pass`, `redirect`, `drop`, ...
    pub action: String,
    /// Why, as the counters would say.
    pub reason: Option<String>,
    /// What that means.
    pub meaning: String,
    /// The packet afterwards, when it was changed.
    pub after: Option<PacketView>,
    /// The program that is attached there has the same instructions as the one that was run.
    pub is_attached: Option<bool>,
}

/// The way of one packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceWay {
    /// The packet as it came.
    pub packet: PacketView,
    /// What was done with it.
    pub hops: Vec<TraceHop>,
    /// Where it ended, in a sentence.
    pub end: String,
    /// It got to the VM or out of an uplink; absent when the kernel decides.
    pub arrives: Option<bool>,
}

/// Answer of `POST /v1/trace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceAnswer {
    /// The packet's way.
    pub forward: TraceWay,
    /// The way of an answer to it, when it arrives.
    pub reply: Option<TraceWay>,
}

/// A packet that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SampleEvent {
    /// When, in RFC 3339.
    pub time: String,
    /// Where in the packet path.
    pub hook: String,
    /// How it ended.
    pub reason: String,
    /// `pass`, `carry` or `drop`.
    pub class: String,
    /// The interface.
    pub interface: String,
    /// The EIP it concerns.
    pub eip: Option<IpAddr>,
    /// The packet as the program left it.
    pub packet: PacketView,
}

/// A line of `GET /v1/drops/follow`; one with neither says that the agent is still there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FollowEvent {
    /// A packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleEvent>,
    /// Packets that would have been shown but were too many, since the last line that said so.
    pub lost: u64,
}

/// Body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// What did not work.
    pub error: String,
    /// Why.
    pub cause: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

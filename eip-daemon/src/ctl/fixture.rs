//! A report with a binding in every state, and counters to go with it, for the tests of this tree.

use std::{net::IpAddr, sync::Arc, time::Duration};

use eip_common::{
    abi::{BY_PORT, Sample, Traffic},
    reason::{Hook, Reason},
};
use futures::future::BoxFuture;
use tokio::sync::{Mutex, watch};

use super::{
    follow::Followers,
    state::{AgentState, Started},
};
use crate::{
    announce::{
        l2::{L2Announcer, L2Settings},
        peering::{BgpAnnouncer, BgpSettings, OnExit},
    },
    config::SourceSpec,
    dataplane::{
        Counters, DataPlaneError, ReasonCount, SlotReasonCount,
        examine::{Examiner, Question, Sighting},
        inspect::{AttachMode, Attachment, Inspector, MapFill},
        samples::{Sampler, Wanted},
        trace::{TraceError, Tracer},
    },
    model::{
        Announce, BindingFact, BindingState, DeliveryChoice, Facts, HostRoute, Lane, Link,
        NetState, NetworkView, NodeAddress, NodeSettings, ObjectName, Origin, Outcome,
        RefuseReason, RefusedDocument, RouteTo, TargetKind, TcMode, VmFact, VmInterface, VmPhase,
        VmState, WaitReason, XdpMode,
    },
    report::{BindingReport, Durations, FailingAction, Report},
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".into(),
        name: name.into(),
    }
}

fn fact(object: &str, eip: &str, vm: &str) -> BindingFact {
    BindingFact {
        moving: crate::model::Moving::default(),
        name: name(object),
        eip: ip(eip),
        vm: name(vm),
        kind: TargetKind::Vm,
        interface: None,
        created: Some(if object == "thief" { 2 } else { 1 }),
        generation: 1,
        primary: false,
        delivery: None,
        announce: None,
        origin: Some(Origin {
            file: "/etc/kube-eip/lab.yaml".into(),
            document: 1,
        }),
    }
}

fn binding(object: &str, eip: &str, vm: &str, outcome: Outcome) -> BindingReport {
    let fact = fact(object, eip, vm);
    BindingReport {
        is_fenced: false,
        fact,
        outcome,
        programmed: None,
        slot: None,
        error: None,
    }
}

fn state(vm: &str) -> BindingState {
    BindingState {
        vm: ip(vm),
        port: 7,
        l3: 7,
        mtu: 1450,
        vm_mac: [2, 0, 0, 0, 0, 10],
        node_mac: [2, 0, 0, 0, 0, 1],
        delivery: Lane::Peer,
        is_primary: true,
        shares_vm: false,
        answers_l2: false,
        generation: 1,
    }
}

fn served(vm: &str) -> Outcome {
    Outcome::Served {
        vm: ip(vm),
        note: None,
    }
}

fn all_bindings() -> Vec<BindingReport> {
    let mut web = binding("web", "203.0.113.10", "vm-a", served("10.0.0.10"));
    web.programmed = Some(state("10.0.0.10"));
    web.slot = Some(0);
    let mut failing = binding("failing", "203.0.113.13", "vm-e", served("10.0.0.13"));
    failing.error = Some("map EIP4_V1 is full: raise --max-bindings".into());
    let conflict = Outcome::Refused {
        reason: RefuseReason::Conflict,
        message: "default/web is older and holds it".into(),
    };
    let waiting = Outcome::Waiting {
        reason: WaitReason::VmNotFound,
        message: "no VirtualMachineInstance default/vm-d".into(),
    };
    let elsewhere = Outcome::Elsewhere {
        node: "node-b".into(),
    };
    vec![
        web,
        binding("thief", "203.0.113.10", "vm-b", conflict),
        binding("away", "203.0.113.11", "vm-c", elsewhere),
        binding("waiting", "203.0.113.12", "vm-d", waiting),
        failing,
    ]
}

fn link(ifindex: u32, name: &str, kind: &str) -> (u32, Link) {
    let link = Link {
        ifindex,
        name: name.into(),
        kind: kind.into(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        master: None,
        vlan: None,
        is_up: true,
    };
    (ifindex, link)
}

pub(crate) fn view() -> NetworkView {
    NetworkView {
        links: [link(2, "eth0", ""), link(7, "vm0", "veth")].into(),
        addresses: vec![NodeAddress {
            ifindex: 2,
            address: "192.0.2.9/24".parse().unwrap(),
        }],
        ..NetworkView::default()
    }
}

pub(crate) fn settings() -> NodeSettings {
    NodeSettings {
        node_name: "node-a".into(),
        uplinks: vec!["eth0".into(), "eth9".into()],
        gateway4: Some("192.0.2.1".parse().unwrap()),
        gateway6: None,
        eip_cidrs: vec!["203.0.113.0/24".parse().unwrap()],
        internal_nets: vec!["10.0.0.0/8".parse().unwrap()],
        delivery: DeliveryChoice::Auto,
        announce: Announce::Bgp,
        xdp_mode: XdpMode::Auto,
        tc_mode: TcMode::Auto,
        route_table: 201,
    }
}

/// One programmed binding, one that lost its EIP to it, one of another node, one without its VM
/// and one the kernel has no room for; one document nobody could read.
pub(crate) fn report() -> Report {
    let nets = [
        (
            "10.0.0.0/8".parse().unwrap(),
            NetState {
                is_bypass: true,
                is_eip_range: false,
            },
        ),
        (
            "203.0.113.0/24".parse().unwrap(),
            NetState {
                is_bypass: false,
                is_eip_range: true,
            },
        ),
    ];
    let announcement = crate::model::Announcement {
        binding: name("web"),
        by: Announce::Bgp,
        arrived: None,
    };
    let desired = crate::model::Desired {
        nets: nets.into(),
        announcements: [(ip("203.0.113.10"), announcement)].into(),
        bindings: [
            (ip("203.0.113.10"), state("10.0.0.10")),
            (ip("203.0.113.13"), state("10.0.0.13")),
        ]
        .into(),
        ..Default::default()
    };
    let observed = crate::model::Observed {
        nets: nets[..1].iter().copied().collect(),
        ..Default::default()
    };
    Report {
        facts_complete: true,
        in_sync: false,
        rounds: 42,
        repairs: 3,
        last_round: Duration::from_micros(1500),
        durations: Durations::default().and(Duration::from_micros(1500)),
        bindings: all_bindings(),
        refused: vec![RefusedDocument {
            origin: Origin {
                file: "/etc/kube-eip/bad.yaml".into(),
                document: 2,
            },
            name: None,
            problem: "spec.eip: missing".into(),
        }],
        failing: vec![FailingAction {
            action: "write EIP 203.0.113.13".into(),
            eip: Some(ip("203.0.113.13")),
            error: "map EIP4_V1 is full: raise --max-bindings".into(),
            attempts: 7,
        }],
        round_error: None,
        desired: Arc::new(desired),
        observed: Arc::new(observed),
        view: Arc::new(view()),
        settings: Some(Arc::new(settings())),
    }
}

/// The facts the report came from.
pub(crate) fn facts() -> Facts {
    let vm = VmFact {
        name: name("vm-a"),
        uid: None,
        created: Some(1),
        phase: VmPhase::Running,
        node: Some("node-a".into()),
        arrived: None,
        interfaces: vec![VmInterface {
            name: "default".into(),
            addresses: vec![ip("10.0.0.10")],
        }],
        origin: None,
    };
    let bindings = report()
        .bindings
        .into_iter()
        .map(|item| item.fact)
        .collect();
    Facts {
        nets: Vec::new(),
        nodes: Vec::new(),
        peers: Vec::new(),
        bindings,
        vms: vec![vm],
        refused: report().refused,
        complete: true,
        read_at: None,
    }
}

/// Counters that never move.
#[derive(Debug)]
pub(crate) struct StillCounters;

fn count(hook: Hook, reason: Reason, packets: u64) -> ReasonCount {
    ReasonCount {
        hook,
        reason,
        packets,
    }
}

impl Counters for StillCounters {
    fn reasons(&self) -> Result<Vec<ReasonCount>, DataPlaneError> {
        Ok(vec![
            count(Hook::DoorOut, Reason::SpoofedVm, 3),
            count(Hook::UplinkTc, Reason::DeliveredPeer, 1000),
            count(Hook::UplinkTc, Reason::Malformed, 0),
        ])
    }

    fn traffic(&self, slot: u32) -> Result<Traffic, DataPlaneError> {
        assert_eq!(slot, 0, "only web is programmed");
        Ok(Traffic {
            in_packets: 1000,
            in_bytes: 64_000,
            out_packets: 900,
            out_bytes: 50_000,
        })
    }

    fn all_binding_reasons(&self) -> Result<Vec<SlotReasonCount>, DataPlaneError> {
        let of = |slot, packets| SlotReasonCount {
            slot,
            count: count(Hook::DoorOut, Reason::SpoofedVm, packets),
        };
        let sent = SlotReasonCount {
            slot: BY_PORT | 7,
            count: count(Hook::DoorOut, Reason::SpoofedEip, 7),
        };
        Ok(vec![of(0, 3), of(99, 1), sent])
    }

    fn binding_reasons(&self, _slot: u32) -> Result<Vec<ReasonCount>, DataPlaneError> {
        Ok(vec![
            count(Hook::UplinkTc, Reason::TtlExceeded, 2),
            count(Hook::DoorOut, Reason::SpoofedVm, 3),
        ])
    }

    fn port_reasons(&self, _ifindex: u32) -> Result<Vec<ReasonCount>, DataPlaneError> {
        Ok(vec![count(Hook::DoorOut, Reason::SpoofedEip, 7)])
    }
}

/// One uplink with both programs, and one nearly full map.
#[derive(Debug)]
pub(crate) struct StillInspector;

impl Inspector for StillInspector {
    fn attachments(&self) -> Vec<Attachment> {
        let at = |hook, mode| Attachment {
            ifindex: 2,
            interface: "eth0".into(),
            hook,
            mode,
            link_id: Some(1),
            program_id: 11,
        };
        vec![
            at(Hook::UplinkXdp, AttachMode::XdpGeneric),
            at(Hook::UplinkTc, AttachMode::Tcx),
        ]
    }

    fn map_fill(&self) -> Result<Vec<MapFill>, DataPlaneError> {
        Ok(vec![MapFill {
            map: "EIP4_V1",
            entries: 3900,
            capacity: 4096,
        }])
    }

    fn notices(&self) -> Vec<String> {
        vec!["eth0: no native XDP, generic is used".into()]
    }
}

/// Sees everything of the report in place.
#[derive(Debug)]
pub(crate) struct StillExaminer;

impl Examiner for StillExaminer {
    fn look(&self, _question: Question) -> BoxFuture<'_, Result<Sighting, DataPlaneError>> {
        Box::pin(std::future::ready(Ok(sighting())))
    }

    fn tracer(&self) -> Result<Box<dyn Tracer>, TraceError> {
        Err(TraceError::OtherMap { map: "EIP4_V1" })
    }
}

/// Writes no samples.
#[derive(Debug)]
pub(crate) struct StillSampler;

impl Sampler for StillSampler {
    fn want(&self, _wanted: Option<Wanted>, _lasting: Duration) -> Result<(), DataPlaneError> {
        Ok(())
    }

    fn take(&self) -> Vec<Sample> {
        Vec::new()
    }

    fn lost(&self) -> Result<u64, DataPlaneError> {
        Ok(0)
    }

    fn clock(&self) -> u64 {
        0
    }
}

/// A kernel in which the binding of `web` works.
pub(crate) fn sighting() -> Sighting {
    let report = report();
    let mut kernel = (*report.observed).clone();
    let mut view = view();
    let (eip, vm) = (ip("203.0.113.10"), ip("10.0.0.10"));
    let through = |gateway| RouteTo {
        ifindex: 7,
        gateway,
        is_unicast: true,
    };
    view.neighbours = [((7, vm), state("10.0.0.10").vm_mac)].into();
    view.routes = [(eip, through(Some(vm))), (vm, through(None))].into();
    let gateway = RouteTo {
        ifindex: 2,
        ..through(None)
    };
    view.routes.insert(ip("192.0.2.1"), gateway);
    if let Some(port) = view.links.get_mut(&7) {
        port.mtu = state("10.0.0.10").mtu;
    }
    kernel.nets.clone_from(&report.desired.nets);
    kernel.bindings.insert(eip, (state("10.0.0.10"), 0));
    kernel.vms = report
        .desired
        .vms
        .iter()
        .map(|(vm, state)| (*vm, (state.clone(), 0)))
        .collect();
    let primary = VmState {
        eip,
        port: 7,
        l3: 7,
        has_many: false,
        uses_stack: false,
    };
    kernel.vms.entry(vm).or_insert((primary, 0));
    kernel.gateway = Some(report.desired.gateway.clone());
    kernel.rules.clone_from(&report.desired.rules);
    let route = HostRoute { eip, vm, l3: 7 };
    kernel.routes.insert(route);
    let at = |ifindex: u32, interface: &str, hook| Attachment {
        ifindex,
        interface: interface.into(),
        hook,
        mode: AttachMode::Tcx,
        link_id: Some(1),
        program_id: 11,
    };
    Sighting {
        view,
        running: [2, 7].into(),
        kernel,
        uplink_map: [2].into(),
        attachments: vec![
            at(2, "eth0", Hook::UplinkXdp),
            at(2, "eth0", Hook::UplinkTc),
            at(7, "vm0", Hook::DoorIn),
            at(7, "vm0", Hook::DoorOut),
        ],
        programs: Hook::ALL.map(|hook| (hook, 11)).into(),
        ..Sighting::default()
    }
}

/// A speaker without peers.
fn bgp() -> BgpAnnouncer {
    let settings = BgpSettings {
        node_name: "node-a".to_owned(),
        local_as: None,
        router_id: None,
        listen: Vec::new(),
        restart_time: Duration::from_mins(2),
        annotation_prefix: String::new(),
        state_directory: "/nonexistent".into(),
        on_exit: OnExit::Withdraw,
    };
    BgpAnnouncer::new(settings, Arc::default()).unwrap()
}

/// The agent of a node that published `report()` and nothing since.
pub(crate) fn agent() -> (Arc<AgentState>, watch::Sender<Arc<Report>>) {
    let (sender, reports) = watch::channel(Arc::new(report()));
    let (_, facts) = watch::channel(facts());
    let state = AgentState {
        reports,
        facts,
        counters: Arc::new(StillCounters),
        inspector: Arc::new(StillInspector),
        examiner: Arc::new(StillExaminer),
        followers: Arc::new(Followers::new(Arc::new(StillSampler))),
        settings: Arc::new(settings()),
        source: SourceSpec::Dir("/etc/kube-eip".into()),
        notices: Vec::new(),
        l2: L2Announcer::new(L2Settings::default(), &[]),
        started: Started::now(),
        bgp: bgp(),
        turn: Mutex::default(),
    };
    (Arc::new(state), sender)
}

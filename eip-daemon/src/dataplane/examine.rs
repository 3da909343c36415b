//! A look at the kernel of this moment, apart from the reconciler: for questions of people.
//!
//! Nothing is remembered and nothing is changed; only a VM that is not resolved is asked for, as any
//! packet to it would.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use aya::programs::TcAttachType;
use eip_common::{abi::program, reason::Hook};
use futures::future::BoxFuture;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::{
    DataPlaneError, adopt, attach,
    inspect::Attachment,
    maps::Maps,
    netlink::{
        Generic, RouteClient,
        filters::{self, Side},
        links::{self, Interface},
        lookup, routes, rules,
    },
    options::{link_directory, map_directory},
    trace::{KernelTracer, TraceError, Tracer},
    view::{self, Memory},
};
use crate::{
    clock,
    model::{NetworkView, Observed, RouteTo},
};

/// How long a VM has to answer, in steps of [`ANSWER_STEP`].
const ANSWER_STEPS: u32 = 6;
const ANSWER_STEP: Duration = Duration::from_millis(250);

/// What somebody asks about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// Addresses whose routes matter: EIPs.
    pub eips: BTreeSet<IpAddr>,
    /// Addresses of VMs: their routes, neighbours and ports matter.
    pub vms: BTreeSet<IpAddr>,
    /// Packets whose way out matters.
    pub ways: BTreeSet<Way>,
}

/// A packet the node forwards: where it comes in, from whom, to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Input interface.
    pub iif: u32,
    /// Source.
    pub from: IpAddr,
    /// Destination.
    pub to: IpAddr,
}

/// The direction of packets at an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Toward {
    /// From the wire, or from the VM behind a port, to the node.
    Node,
    /// From the node to the wire, or to the VM.
    Wire,
}

/// A tc program in the order in which the programs run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcProgram {
    /// Name; may be empty.
    pub name: String,
    /// Number.
    pub id: u32,
    /// One of ours, by its name.
    pub is_ours: bool,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Sighting {
    /// Interfaces, neighbours, routes; nothing is in it that the kernel does not say now.
    pub view: NetworkView,
    /// Interfaces that carry packets.
    pub running: BTreeSet<u32>,
    /// Everything of ours but attachments, read back.
    pub kernel: Observed,
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_time: u64,
    /// The interfaces in the uplink map.
    pub uplink_map: BTreeSet<u32>,
    /// Programs of ours that run.
    pub attachments: Vec<Attachment>,
    /// The programs this process loaded.
    pub programs: BTreeMap<Hook, u32>,
    /// All tc programs at the interfaces that carry ours, in order.
    pub tc: BTreeMap<(u32, Toward), Vec<TcProgram>>,
    /// How the kernel forwards the packets asked about; absent means not at all.
    pub ways: BTreeMap<Way, RouteTo>,
}

/// Looks when asked.
pub trait Examiner: Send + Sync {
    /// Looks at the node as it is now.
    fn look(&self, question: Question) -> BoxFuture<'_, Result<Sighting, DataPlaneError>>;

    /// Gets ready to run the programs on packets of one's own. Blocks for as long as loading takes.
    ///
    /// # Errors
    /// They cannot be loaded.
    fn tracer(&self) -> Result<Box<dyn Tracer>, TraceError>;
}

/// The examiner of a real kernel. Cheap: every look opens what it needs.
#[derive(Debug, Clone)]
pub(super) struct KernelExaminer {
    pub(super) bpffs: PathBuf,
    pub(super) programs: BTreeMap<Hook, u32>,
}

impl Examiner for KernelExaminer {
    fn look(&self, question: Question) -> BoxFuture<'_, Result<Sighting, DataPlaneError>> {
        Box::pin(self.examine(question))
    }

    fn tracer(&self) -> Result<Box<dyn Tracer>, TraceError> {
        Ok(Box::new(KernelTracer::open(&self.bpffs)?))
    }
}

impl KernelExaminer {
    async fn examine(&self, question: Question) -> Result<Sighting, DataPlaneError> {
        let client = RouteClient::new(NETLINK_ROUTE);
        let mut kernel = own(&client).await?;
        let maps = Maps::open(&map_directory(&self.bpffs))?;
        maps.read(&mut kernel)?;
        let interfaces = links::list(&client).await?;
        let directory = link_directory(&self.bpffs);
        let census = adopt::take_census(&client, &directory, &interfaces, None).await?;
        let attachments = census.attachments;
        // Last, because a VM may have to be waited for.
        let view = look(&client, &question).await?;
        Ok(Sighting {
            running: interfaces
                .values()
                .filter(|found| found.is_running)
                .map(|found| found.link.ifindex)
                .collect(),
            kernel,
            boot_time: clock::boot_time(),
            uplink_map: maps.uplinks()?.into_keys().collect(),
            tc: tc_programs(&client, &interfaces, &attachments, &view).await?,
            attachments,
            programs: self.programs.clone(),
            ways: ways(&client, &question.ways).await?,
            view,
        })
    }
}

/// Once, and again while a VM that was just asked for has time to answer.
async fn look(client: &RouteClient, question: &Question) -> Result<NetworkView, DataPlaneError> {
    let generic = Generic::new();
    let targets = question.eips.union(&question.vms).copied().collect();
    for step in 0.. {
        let memory = &mut Memory::default();
        let view = view::look(client, &generic, memory, &targets, Instant::now()).await?;
        let is_known = |vm: &IpAddr| {
            view.routes.get(vm).is_none_or(|route| {
                route.gateway.is_some() || view.neighbours.contains_key(&(route.ifindex, *vm))
            })
        };
        if step == ANSWER_STEPS || question.vms.iter().all(is_known) {
            return Ok(view);
        }
        tokio::time::sleep(ANSWER_STEP).await;
    }
    Ok(NetworkView::default())
}

async fn own(client: &RouteClient) -> Result<Observed, DataPlaneError> {
    let own = routes::list_own(client).await?;
    Ok(Observed {
        routes: own.hosts,
        table_defaults: own.table_defaults,
        rules: rules::list_own(client).await?,
        ..Observed::default()
    })
}

async fn ways(
    client: &RouteClient,
    wanted: &BTreeSet<Way>,
) -> Result<BTreeMap<Way, RouteTo>, DataPlaneError> {
    let mut found = BTreeMap::new();
    for way in wanted {
        if let Some(route) = lookup::look_up_way(client, way.iif, way.from, way.to).await? {
            found.insert(*way, route);
        }
    }
    Ok(found)
}

/// Every interface of ours, and the ports the routes to the VMs lead to.
async fn tc_programs(
    client: &RouteClient,
    interfaces: &BTreeMap<u32, Interface>,
    attachments: &[Attachment],
    view: &NetworkView,
) -> Result<BTreeMap<(u32, Toward), Vec<TcProgram>>, DataPlaneError> {
    let ours = attachments.iter().map(|at| at.ifindex);
    let wanted: BTreeSet<u32> = ours.chain(view::candidate_ports(view)).collect();
    let mut found = BTreeMap::new();
    for interface in wanted.iter().filter_map(|ifindex| interfaces.get(ifindex)) {
        for (toward, attach_type, side) in [
            (Toward::Node, TcAttachType::Ingress, Side::Ingress),
            (Toward::Wire, TcAttachType::Egress, Side::Egress),
        ] {
            let programs = at_hook(client, interface, attach_type, side).await?;
            found.insert((interface.link.ifindex, toward), programs);
        }
    }
    Ok(found)
}

/// Programs of others that see what comes in on interfaces of the kinds VMs and pods have, by interface.
/// What cannot be read is left out. Has to be called inside a tokio runtime.
pub async fn foreign_at_ports() -> BTreeMap<String, Vec<String>> {
    let client = RouteClient::new(NETLINK_ROUTE);
    let mut found = BTreeMap::new();
    let interfaces = links::list(&client).await.unwrap_or_default();
    let ports = interfaces.values().filter(|interface| {
        matches!(
            interface.link.kind.as_str(),
            "veth" | "netkit" | "tun" | "macvtap"
        )
    });
    for port in ports {
        let programs = at_hook(&client, port, TcAttachType::Ingress, Side::Ingress).await;
        let programs: Vec<_> = programs
            .unwrap_or_default()
            .into_iter()
            .filter(|program| !program.is_ours)
            .map(|program| format!("{} (id {})", program.name, program.id))
            .collect();
        if !programs.is_empty() {
            found.insert(port.link.name.clone(), programs);
        }
    }
    found
}

/// tcx programs run before the filters of the qdisc, and filters by their priority.
async fn at_hook(
    client: &RouteClient,
    interface: &Interface,
    attach_type: TcAttachType,
    side: Side,
) -> Result<Vec<TcProgram>, DataPlaneError> {
    let is_ours = |name: &str| program::ALL.contains(&name);
    // What cannot be read is left out: the answer is for a person who looks further.
    let tcx = attach::tcx_programs(&interface.link.name, attach_type).unwrap_or_default();
    let tcx = tcx.into_iter().map(|found| TcProgram {
        is_ours: is_ours(&found.name),
        name: found.name,
        id: found.id,
    });
    let mut filters = filters::list(client, interface.link.ifindex, side).await?;
    filters.sort_by_key(|filter| filter.priority);
    let filters = filters.into_iter().filter_map(|filter| {
        Some(TcProgram {
            is_ours: filter.is_ours(),
            id: filter.program_id?,
            name: filter.program.unwrap_or_default(),
        })
    });
    Ok(tcx.chain(filters).collect())
}

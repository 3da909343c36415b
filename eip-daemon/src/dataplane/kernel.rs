//! The data plane of a real kernel: puts the parts together and keeps what lives as long as they do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use eip_common::reason::Hook;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use tokio::sync::Notify;

use super::{
    Counters, DataPlane, DataPlaneError,
    adopt::{self, Census, DOOR_HOOKS, Judge, Standing},
    attach::{self, AttachError, Attacher, WithoutXdp},
    bpf::{OpenError, Programs},
    examine::{Examiner, KernelExaminer},
    inspect::{Attachment, Inspector, MapFill},
    maps::{KernelCounters, Maps},
    netlink::{EventTask, Generic, RouteClient, links, routes, rules, watch},
    options::{DataPlaneOptions, link_directory, map_directory},
    samples::{KernelSampler, Sampler},
    view::{self, Memory},
};
use crate::{
    clock,
    model::{Action, NetworkView, Observed, UplinkState},
};

/// Programs, maps, links, routes and rules of one node.
///
/// Dropping it leaves all of them in the kernel, at work: the next process takes them over.
pub struct KernelDataPlane {
    options: DataPlaneOptions,
    links: PathBuf,
    programs: Programs,
    maps: Maps,
    client: RouteClient,
    generic: Generic,
    memory: Memory,
    without_xdp: BTreeMap<u32, WithoutXdp>,
    standing: Standing,
    census: Census,
    /// Interfaces on which something was attached or taken off since the census.
    changed: BTreeSet<u32>,
    counters: Arc<KernelCounters>,
    sampler: Arc<KernelSampler>,
    shared: Arc<Shared>,
    events: Arc<Notify>,
    _listener: EventTask,
}

impl fmt::Debug for KernelDataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelDataPlane")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl KernelDataPlane {
    /// Loads the programs, takes over the maps an earlier process left, or makes them. Attaches
    /// nothing. Has to be called inside a tokio runtime.
    ///
    /// # Errors
    /// Each names what is missing and how to get it. Nothing was changed then.
    pub fn open(options: DataPlaneOptions) -> Result<Self, OpenError> {
        let (programs, notices) = Programs::load(&options)?;
        let directory = map_directory(&options.bpffs);
        let mut maps = Maps::open(&directory).map_err(OpenError::Maps)?;
        // An earlier version may have left uplinks without them.
        maps.follow_stations().map_err(OpenError::Maps)?;
        let mut left = Observed::default();
        maps.read(&mut left).map_err(OpenError::Maps)?;
        let memory = Memory::of_bindings(left.bindings.values().map(|(state, _slot)| state));
        let shared = Shared {
            maps: Maps::open(&directory).map_err(OpenError::Maps)?,
            attachments: Mutex::default(),
            notices: Mutex::default(),
        };
        for (index, notice) in notices.into_iter().enumerate() {
            shared.notice(format!("open {index}"), Some(notice));
        }
        let events = Arc::new(Notify::new());
        Ok(Self {
            links: link_directory(&options.bpffs),
            counters: Arc::new(KernelCounters::open(&directory).map_err(OpenError::Maps)?),
            sampler: Arc::new(KernelSampler::open(&directory).map_err(OpenError::Maps)?),
            options,
            programs,
            maps,
            client: RouteClient::new(NETLINK_ROUTE),
            generic: Generic::new(),
            memory,
            without_xdp: BTreeMap::new(),
            standing: Standing::default(),
            census: Census::default(),
            changed: BTreeSet::new(),
            shared: Arc::new(shared),
            _listener: watch(Arc::clone(&events)).map_err(OpenError::Events)?,
            events,
        })
    }

    /// Wakes the reconciler when the node's network changes. Coalesced.
    #[must_use]
    pub fn events(&self) -> Arc<Notify> {
        Arc::clone(&self.events)
    }

    /// The kernel's counters.
    #[must_use]
    pub fn counters(&self) -> Arc<dyn Counters> {
        Arc::<KernelCounters>::clone(&self.counters)
    }

    /// Read access to attachments and maps that outlives the move of `self` into the reconciler.
    #[must_use]
    pub fn inspector(&self) -> Arc<dyn Inspector> {
        Arc::<Shared>::clone(&self.shared)
    }

    /// The programs' samples.
    #[must_use]
    pub fn sampler(&self) -> Arc<dyn Sampler> {
        Arc::<KernelSampler>::clone(&self.sampler)
    }

    /// Looks at the kernel for people, apart from the reconciler.
    #[must_use]
    pub fn examiner(&self) -> Arc<dyn Examiner> {
        Arc::new(KernelExaminer {
            bpffs: self.options.bpffs.clone(),
            programs: self.programs.ids().clone(),
        })
    }

    /// What was attached when the kernel was last read.
    #[must_use]
    pub fn attachments(&self) -> Vec<Attachment> {
        self.shared.attachments()
    }

    fn attacher(&mut self) -> Attacher<'_> {
        Attacher {
            programs: &mut self.programs,
            client: &self.client,
            directory: &self.links,
            tc_mode: self.options.tc_mode,
            xdp_mode: self.options.xdp_mode,
        }
    }

    async fn attach_uplink(
        &mut self,
        ifindex: u32,
        state: &UplinkState,
    ) -> Result<(), DataPlaneError> {
        let interface = self.interface(ifindex).await?;
        let mut attacher = self.attacher();
        attacher.attach_tc(&interface, Hook::UplinkTc).await?;
        let without = attacher.attach_xdp(&interface).await?;
        self.remember_xdp(ifindex, &interface.link.name, without);
        // How the program came to run there is known only now.
        let flags = adopt::uplink_flags(&self.interface(ifindex).await?);
        self.maps.put_uplink(ifindex, state, flags)
    }

    /// Reported, never silent.
    fn remember_xdp(&mut self, ifindex: u32, interface: &str, without: Option<WithoutXdp>) {
        let notice = without.map(|without| match without {
            WithoutXdp::Foreign => format!(
                "{interface} runs an XDP program of somebody else, which is left alone: elastic IPs \
                 use tc only there"
            ),
            WithoutXdp::Unsupported => {
                format!("{interface} takes no XDP program: elastic IPs use tc only there")
            }
        });
        self.shared.notice(format!("xdp {ifindex}"), notice);
        match without {
            Some(without) => self.without_xdp.insert(ifindex, without),
            None => self.without_xdp.remove(&ifindex),
        };
    }

    async fn attach_port(&mut self, ifindex: u32) -> Result<(), DataPlaneError> {
        let interface = self.interface(ifindex).await?;
        let mut attacher = self.attacher();
        for hook in DOOR_HOOKS {
            attacher.attach_tc(&interface, hook).await?;
        }
        Ok(())
    }

    async fn detach(&mut self, ifindex: u32, hooks: &[Hook]) -> Result<(), DataPlaneError> {
        for hook in hooks {
            attach::detach(&self.client, &self.links, ifindex, *hook).await?;
        }
        Ok(())
    }

    async fn detach_uplink(&mut self, ifindex: u32) -> Result<(), DataPlaneError> {
        self.maps.remove_uplink(ifindex)?;
        self.remember_xdp(ifindex, "", None);
        self.detach(ifindex, &[Hook::UplinkXdp, Hook::UplinkTc])
            .await
    }

    /// Takes off what was stray at the last look; what is complete on the same interface stays.
    async fn remove_leftover(&mut self, ifindex: u32) -> Result<(), DataPlaneError> {
        let strays = self
            .standing
            .strays
            .iter()
            .filter(|(stray, _)| *stray == ifindex);
        let hooks: Vec<Hook> = strays.map(|(_, hook)| *hook).collect();
        self.maps.clear_port(ifindex)?;
        if self.standing.stray_entries.contains(&ifindex) {
            self.maps.remove_uplink(ifindex)?;
            self.remember_xdp(ifindex, "", None);
        }
        self.detach(ifindex, &hooks).await
    }

    async fn interface(&self, ifindex: u32) -> Result<links::Interface, DataPlaneError> {
        let found = links::find(&self.client, ifindex).await?;
        found.ok_or_else(|| AttachError::NoInterface { ifindex }.into())
    }

    /// Who is on which interface: all of them, or only those where this process has changed something.
    async fn observe_attachments(&mut self, is_whole: bool) -> Result<Standing, DataPlaneError> {
        let interfaces = links::list(&self.client).await?;
        let known = (!is_whole).then_some((&self.census, &self.changed));
        let census = adopt::take_census(&self.client, &self.links, &interfaces, known).await?;
        let judge = Judge {
            programs: &self.programs,
            interfaces: &interfaces,
            uplinks: &self.maps.uplinks()?,
            without_xdp: &self.without_xdp,
            tc_mode: self.options.tc_mode,
            xdp_mode: self.options.xdp_mode,
        };
        let standing = judge.judge(&census);
        self.shared.set_attachments(census.attachments.clone());
        self.census = census;
        self.changed.clear();
        Ok(standing)
    }

    async fn look(&mut self, is_whole: bool) -> Result<Observed, DataPlaneError> {
        self.standing = self.observe_attachments(is_whole).await?;
        let own = routes::list_own(&self.client).await?;
        let mut observed = Observed {
            uplinks: self.standing.uplinks.clone(),
            ports: self.standing.ports.clone(),
            leftovers: self.standing.leftovers(),
            routes: own.hosts,
            table_defaults: own.table_defaults,
            rules: rules::list_own(&self.client).await?,
            ..Observed::default()
        };
        self.maps.read(&mut observed)?;
        Ok(observed)
    }
}

impl DataPlane for KernelDataPlane {
    async fn view(
        &mut self,
        vm_addresses: &BTreeSet<IpAddr>,
    ) -> Result<NetworkView, DataPlaneError> {
        let Self {
            client,
            generic,
            memory,
            ..
        } = self;
        Ok(view::look(client, generic, memory, vm_addresses, Instant::now()).await?)
    }

    async fn observe(&mut self) -> Result<Observed, DataPlaneError> {
        self.look(true).await
    }

    async fn observe_own_changes(&mut self) -> Result<Observed, DataPlaneError> {
        self.look(false).await
    }

    async fn apply(&mut self, action: &Action) -> Result<(), DataPlaneError> {
        if let Action::AttachUplink(ifindex, _)
        | Action::DetachUplink(ifindex)
        | Action::AttachPort(ifindex)
        | Action::DetachPort(ifindex)
        | Action::RemoveLeftover(ifindex) = action
        {
            self.changed.insert(*ifindex);
        }
        match action {
            Action::PutGateway(state) => self.maps.put_gateway(state),
            Action::PutNet(net, state) => self.maps.put_net(*net, *state),
            Action::RemoveNet(net) => self.maps.remove_net(*net),
            Action::AttachUplink(ifindex, state) => self.attach_uplink(*ifindex, state).await,
            Action::DetachUplink(ifindex) => self.detach_uplink(*ifindex).await,
            Action::AttachPort(ifindex) => self.attach_port(*ifindex).await,
            Action::DetachPort(ifindex) => {
                self.maps.clear_port(*ifindex)?;
                self.detach(*ifindex, &DOOR_HOOKS).await
            }
            Action::RemoveLeftover(ifindex) => self.remove_leftover(*ifindex).await,
            Action::PutBinding {
                eip,
                state,
                slot,
                is_new_slot,
            } => {
                if *is_new_slot {
                    self.maps.clear_slot(*slot)?;
                }
                self.maps.put_binding(*eip, state, *slot)
            }
            Action::RemoveBinding { eip } => self.maps.remove_binding(*eip),
            Action::PutVm { vm, state, slot } => self.maps.put_vm(*vm, state, *slot),
            Action::RemoveVm { vm } => self.maps.remove_vm(*vm),
            Action::PutRoute(route) => Ok(routes::put_host(&self.client, route).await?),
            Action::RemoveRoute(route) => Ok(routes::remove_host(&self.client, route).await?),
            Action::AddRule(rule) => Ok(rules::add(&self.client, rule).await?),
            Action::RemoveRule(rule) => Ok(rules::remove(&self.client, rule).await?),
            Action::PutTableDefault(default) => {
                Ok(routes::put_table_default(&self.client, default).await?)
            }
            Action::RemoveTableDefault(default) => {
                Ok(routes::remove_table_default(&self.client, default).await?)
            }
        }
    }

    fn boot_time(&self) -> u64 {
        clock::boot_time()
    }

    fn renew(&mut self, slot: u32, until: u64) -> Result<(), DataPlaneError> {
        self.maps.renew(slot, until)
    }
}

/// What others read while the reconciler owns the data plane.
struct Shared {
    maps: Maps,
    attachments: Mutex<Vec<Attachment>>,
    notices: Mutex<BTreeMap<String, String>>,
}

impl Shared {
    fn set_attachments(&self, attachments: Vec<Attachment>) {
        *self
            .attachments
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = attachments;
    }

    /// Sets or ends a notice. It is logged when it begins and when it says something else.
    fn notice(&self, key: String, notice: Option<String>) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(notice) = notice else {
            notices.remove(&key);
            return;
        };
        if notices.get(&key) != Some(&notice) {
            tracing::warn!(notice, "the kernel side runs otherwise than asked for");
            notices.insert(key, notice);
        }
    }
}

impl Inspector for Shared {
    fn attachments(&self) -> Vec<Attachment> {
        self.attachments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn map_fill(&self) -> Result<Vec<MapFill>, DataPlaneError> {
        self.maps.fill()
    }

    fn notices(&self) -> Vec<String> {
        self.notices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }
}

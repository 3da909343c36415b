//! From a binding to the address of its VM on this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use super::{
    prefixes::{self, Prefixes},
    validate::refused,
};
use crate::model::{
    BindingFact, Facts, NodeSettings, ObjectName, Outcome, RefuseReason, TargetKind, VmFact,
    VmInterface, VmPhase, WaitReason, target_text,
};

/// The VMs by name, and who owns which address on this node.
pub(super) struct Targets<'a> {
    settings: &'a NodeSettings,
    vms: BTreeMap<&'a ObjectName, &'a VmFact>,
    owners: BTreeMap<IpAddr, &'a VmFact>,
}

impl<'a> Targets<'a> {
    pub(super) fn new(facts: &'a Facts, settings: &'a NodeSettings) -> Self {
        let vms = &facts.vms;
        let mut here: Vec<&VmFact> = vms.iter().filter(|vm| is_here(vm, settings)).collect();
        here.sort_by_key(|vm| (vm.created, &vm.name));
        let mut owners = BTreeMap::new();
        for vm in here.iter().copied() {
            for address in pod_addresses(vm) {
                owners.entry(address).or_insert(vm);
            }
        }
        // A network somebody asks for by name comes after all pod networks: what is claimed there takes
        // no pod's address.
        let mut asked: BTreeMap<&ObjectName, BTreeSet<&str>> = BTreeMap::new();
        for binding in &facts.bindings {
            if let Some(name) = &binding.interface {
                asked.entry(&binding.vm).or_default().insert(name);
            }
        }
        for vm in here {
            for name in asked.get(&vm.name).into_iter().flatten() {
                let found = interface(vm, Some(name)).into_iter();
                for address in found.flat_map(usable) {
                    owners.entry(address).or_insert(vm);
                }
            }
        }
        Self {
            settings,
            vms: vms.iter().map(|vm| (&vm.name, vm)).collect(),
            owners,
        }
    }

    /// When the binding's VM came from another node.
    pub(super) fn arrived(&self, binding: &BindingFact) -> Option<SystemTime> {
        let seconds = self.vms.get(&binding.vm)?.arrived?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
    }

    /// The VM's address of the EIP's family, when the VM runs here and the address is its own.
    pub(super) fn resolve(
        &self,
        binding: &BindingFact,
        prefixes: &Prefixes<'_>,
    ) -> Result<IpAddr, Outcome> {
        if let TargetKind::Address(address) = binding.kind {
            return at_address(address, binding.eip, prefixes);
        }
        let vm = self.vms.get(&binding.vm).ok_or_else(|| {
            waiting(
                WaitReason::VmNotFound,
                format!("no {}", target_text(&binding.vm)),
            )
        })?;
        self.is_to_be_served_here(vm)?;
        let family = Family::of(binding.eip);
        let asked = binding.interface.as_deref();
        let interface = interface(vm, asked);
        if let (None, Some(name)) = (interface, asked) {
            return Err(no_interface(vm, name));
        }
        let address = interface.and_then(|interface| address(interface, family));
        let address = address.ok_or_else(|| {
            let network = asked.map_or("pod network".to_owned(), |name| format!("network {name}"));
            waiting(
                WaitReason::VmHasNoAddress,
                format!(
                    "{} reports no {} address on its {network}",
                    target_text(&vm.name),
                    family.name()
                ),
            )
        })?;
        self.is_own(vm, address)?;
        is_internal(address, prefixes, || {
            format!("{address} of {}", target_text(&vm.name))
        })?;
        Ok(address)
    }

    fn is_to_be_served_here(&self, vm: &VmFact) -> Result<(), Outcome> {
        let not_running = |what: &str| {
            let message = format!("{} {what}", target_text(&vm.name));
            Err(waiting(WaitReason::VmNotRunning, message))
        };
        match vm.phase {
            VmPhase::Running => {}
            VmPhase::Pending => return not_running("is not running yet"),
            VmPhase::Final => return not_running("has ended"),
            VmPhase::Unknown => return not_running("is in an unknown phase"),
        }
        match &vm.node {
            Some(node) if *node == self.settings.node_name => Ok(()),
            Some(node) => Err(Outcome::Elsewhere { node: node.clone() }),
            None => not_running("names no node yet"),
        }
    }

    /// A guest can claim any address through its agent: the older VM keeps a contested one.
    fn is_own(&self, vm: &VmFact, address: IpAddr) -> Result<(), Outcome> {
        match self.owners.get(&address) {
            Some(owner) if owner.name != vm.name => Err(refused(
                RefuseReason::VmAddressConflict,
                format!(
                    "{address} of {} is also reported by the older {}",
                    target_text(&vm.name),
                    owner.name
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// An address that root wrote down. There is nobody to ask whose it is; whether it is on this node
/// is found out as for every other one.
fn at_address(address: IpAddr, eip: IpAddr, prefixes: &Prefixes<'_>) -> Result<IpAddr, Outcome> {
    if Family::of(address) != Family::of(eip) {
        return Err(waiting(
            WaitReason::VmHasNoAddress,
            format!("{address} is no {} address", Family::of(eip).name()),
        ));
    }
    is_internal(address, prefixes, || address.to_string())?;
    Ok(address)
}

fn is_internal(
    address: IpAddr,
    prefixes: &Prefixes<'_>,
    what: impl FnOnce() -> String,
) -> Result<(), Outcome> {
    if prefixes.bypass(address).is_some() && !prefixes::is_host_only(address) {
        return Ok(());
    }
    Err(refused(
        RefuseReason::VmOutsideInternalNets,
        format!(
            "{} is in no internal network: if it is a pod address, name its network with \
             --internal-net",
            what()
        ),
    ))
}

fn is_here(vm: &VmFact, settings: &NodeSettings) -> bool {
    vm.phase == VmPhase::Running && vm.node.as_ref() == Some(&settings.node_name)
}

/// The interface on the network of a name. Without a name that on the pod network, which sources put first:
/// others can carry whatever the guest likes, and are looked at only where a binding names them.
fn interface<'a>(vm: &'a VmFact, name: Option<&str>) -> Option<&'a VmInterface> {
    match name {
        None => vm.interfaces.first(),
        Some(name) => vm.interfaces.iter().find(|one| one.name == name),
    }
}

fn no_interface(vm: &VmFact, name: &str) -> Outcome {
    let named = vm.interfaces.iter().filter(|one| !one.name.is_empty());
    let known: Vec<&str> = named.map(|one| one.name.as_str()).collect();
    let known = if known.is_empty() {
        "none by name".to_owned()
    } else {
        known.join(", ")
    };
    waiting(
        WaitReason::InterfaceNotFound,
        format!(
            "{} has no network {name:?} (it has {known}): correct spec.interface, or leave it out for \
             the pod network",
            target_text(&vm.name)
        ),
    )
}

/// The first usable address of a family.
fn address(interface: &VmInterface, family: Family) -> Option<IpAddr> {
    interface.addresses.iter().copied().find(|address| {
        Family::of(*address) == family
            && !address.is_multicast()
            && !prefixes::is_host_only(*address)
    })
}

/// The addresses EIPs can be translated to: at most one per family.
fn usable(interface: &VmInterface) -> impl Iterator<Item = IpAddr> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| address(interface, family))
}

/// The addresses on the pod network that EIPs can be translated to: at most one per family.
pub fn pod_addresses(vm: &VmFact) -> impl Iterator<Item = IpAddr> {
    interface(vm, None).into_iter().flat_map(usable)
}

fn waiting(reason: WaitReason, message: String) -> Outcome {
    Outcome::Waiting { reason, message }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

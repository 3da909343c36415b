//! From a binding to the address of its VM on this node.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use super::{
    prefixes::{self, Prefixes},
    validate::refused,
};
use crate::model::{
    BindingFact, NodeSettings, ObjectName, Outcome, RefuseReason, TargetKind, VmFact, VmPhase,
    WaitReason, target_text,
};

/// The VMs by name, and who owns which address on this node.
pub(super) struct Targets<'a> {
    settings: &'a NodeSettings,
    vms: BTreeMap<&'a ObjectName, &'a VmFact>,
    owners: BTreeMap<IpAddr, &'a VmFact>,
}

impl<'a> Targets<'a> {
    pub(super) fn new(vms: &'a [VmFact], settings: &'a NodeSettings) -> Self {
        let mut here: Vec<&VmFact> = vms.iter().filter(|vm| is_here(vm, settings)).collect();
        here.sort_by_key(|vm| (vm.created, &vm.name));
        let mut owners = BTreeMap::new();
        for vm in here {
            for address in [Family::V4, Family::V6]
                .into_iter()
                .filter_map(|f| address(vm, f))
            {
                owners.entry(address).or_insert(vm);
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
        let address = address(vm, family).ok_or_else(|| {
            waiting(
                WaitReason::VmHasNoAddress,
                format!(
                    "{} reports no {} address on its pod network",
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

/// The first usable address of a family on the pod network. Sources put that network first; other
/// interfaces are never looked at, they can carry whatever the guest likes.
fn address(vm: &VmFact, family: Family) -> Option<IpAddr> {
    let interface = vm.interfaces.first()?;
    interface.addresses.iter().copied().find(|address| {
        Family::of(*address) == family
            && !address.is_multicast()
            && !prefixes::is_host_only(*address)
    })
}

/// The addresses EIPs can be translated to: at most one per family.
pub fn pod_addresses(vm: &VmFact) -> impl Iterator<Item = IpAddr> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| address(vm, family))
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

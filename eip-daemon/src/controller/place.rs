//! Where a VM is to be served, and at which address: the life of a VM as its objects show it.
//!
//! Pure. Phases end a binding, never addresses; an address counts only while a living virt-launcher
//! pod of this very VM has it on that node (a VM's own status may carry what its guest claims).
//!
//! A live migration is followed by its earliest safe sign: `targetNodeDomainReadyTimestamp` (the
//! guest runs on the target), else `nodeName`. Never by `completed`, which older releases set early
//! and newer ones late. What the status shows in between (the new node with the old address) is of
//! no consequence, because the address comes from the pod on that node.

use std::net::IpAddr;

use super::object::{Attachment, NetworkKind, Pod, Vm};
use crate::model::VmPhase;

/// What was granted before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// The node.
    pub(super) node: String,
    /// The address of the VM's pod there.
    pub(super) address: IpAddr,
    /// The VM.
    pub(super) uid: String,
}

/// Where a VM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Served here.
    At {
        /// Where, and as what.
        grant: Grant,
        /// For people: what does not fit, though it does no harm.
        note: Option<String>,
    },
    /// Nowhere.
    Nowhere {
        /// One word.
        reason: Reason,
        /// A sentence.
        message: String,
    },
}

/// Why a binding is not ready. Names are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// It works.
    Serving,
    /// The node has not reported yet.
    Pending,
    /// The spec cannot be used.
    Invalid,
    /// Another binding holds the elastic IP.
    Conflict,
    /// The object is on its way out.
    Deleting,
    /// No such VM.
    VmNotFound,
    /// The VM is not running.
    VmNotRunning,
    /// The VM has no address of the elastic IP's family.
    VmHasNoAddress,
    /// No such pod.
    PodNotFound,
    /// The pod is not running.
    PodNotRunning,
    /// The pod has no address of its own of the elastic IP's family.
    PodHasNoAddress,
    /// The VM claims an address that none of its pods has.
    AddressUnverified,
    /// The VM has no such network.
    InterfaceNotFound,
    /// Nobody who is trusted says which addresses are whose on that network.
    InterfaceUnverified,
}

impl Reason {
    /// As in the condition.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Serving => "Serving",
            Self::Pending => "Pending",
            Self::Invalid => "Invalid",
            Self::Conflict => "Conflict",
            Self::Deleting => "Deleting",
            Self::VmNotFound => "VmNotFound",
            Self::VmNotRunning => "VmNotRunning",
            Self::VmHasNoAddress => "VmHasNoAddress",
            Self::PodNotFound => "PodNotFound",
            Self::PodNotRunning => "PodNotRunning",
            Self::PodHasNoAddress => "PodHasNoAddress",
            Self::AddressUnverified => "AddressUnverified",
            Self::InterfaceNotFound => "InterfaceNotFound",
            Self::InterfaceUnverified => "InterfaceUnverified",
        }
    }
}

/// What is looked for: an address of a family, on a network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought<'a> {
    /// The elastic IP's family.
    pub(super) is_ipv4: bool,
    /// The network, as the VM's spec describes it.
    pub(super) network: &'a NetworkKind,
}

impl Sought<'_> {
    /// A pod's address there.
    fn of(&self, pod: &Pod) -> Option<IpAddr> {
        let mut of_family = self.addresses(pod).iter().copied();
        of_family.find(|address| address.is_ipv4() == self.is_ipv4)
    }

    fn addresses<'p>(&self, pod: &'p Pod) -> &'p [IpAddr] {
        let NetworkKind::Secondary {
            definition,
            interface,
        } = self.network
        else {
            return &pod.addresses;
        };
        let all = || pod.attachments.iter();
        let of_network = |one: &&Attachment| one.definition == *definition;
        let named = interface.as_ref();
        let exact = |one: &&Attachment| of_network(one) && Some(&one.interface) == named;
        // Two interfaces on one network can only be told apart by their name.
        let is_only = all().filter(of_network).count() == 1;
        let found = all()
            .find(exact)
            .or_else(|| all().find(|one| is_only && of_network(one)));
        found.map_or(&[], |found| &found.addresses)
    }
}

/// Finds the place of a VM for an elastic IP.
#[must_use]
pub(super) fn place(vm: &Vm, pods: &[&Pod], sought: Sought<'_>, before: Option<&Grant>) -> Place {
    let before = before.filter(|grant| grant.uid == vm.uid);
    match vm.phase {
        VmPhase::Pending => return nowhere(Reason::VmNotRunning, "the VM is not running yet"),
        VmPhase::Final => return nowhere(Reason::VmNotRunning, "the VM has ended"),
        VmPhase::Unknown => {
            return kept(before, pods, sought, || {
                let message = "the VM is in a phase that says nothing about where it runs";
                (Reason::VmNotRunning, message.to_owned())
            });
        }
        VmPhase::Running => {}
    }
    let (node, preferred) = node_of(vm);
    let Some(node) = node else {
        return kept(before, pods, sought, || {
            let message = "the VM's status names no node".to_owned();
            (Reason::VmNotRunning, message)
        });
    };
    match address_on(node, preferred, pods, sought) {
        Some(address) => Place::At {
            grant: Grant {
                node: node.to_owned(),
                address,
                uid: vm.uid.clone(),
            },
            note: doubt(vm, pods, sought),
        },
        None => kept(before, pods, sought, || {
            missing_address(vm, node, pods, sought)
        }),
    }
}

/// Another node on which the VM has a living pod: where it migrates to, or where it came from.
#[must_use]
pub(super) fn other_node(grant: Option<&Grant>, pods: &[&Pod]) -> Option<String> {
    let grant = grant?;
    pods.iter()
        .filter(|pod| !pod.addresses.is_empty())
        .filter_map(|pod| Some((pod.created, &pod.name, pod.node.as_ref()?)))
        .filter(|(_, _, node)| **node != grant.node)
        .max()
        .map(|(_, _, node)| node.clone())
}

/// The node by the earliest safe sign, and the pod that is meant on it when the status names one.
fn node_of(vm: &Vm) -> (Option<&str>, Option<&str>) {
    let migration = vm.migration.as_ref();
    let arrived = migration.filter(|migration| {
        let is_ready = migration
            .target_node_domain_ready_timestamp
            .as_ref()
            .is_some_and(|time| !time.is_empty());
        is_ready && !migration.failed
    });
    let target = arrived.and_then(|migration| migration.target_node.as_deref());
    let node = target
        .filter(|node| !node.is_empty())
        .or(vm.node.as_deref());
    let pod = migration
        .filter(|migration| node.is_some() && migration.target_node.as_deref() == node)
        .and_then(|migration| migration.target_pod.as_deref());
    (node, pod)
}

fn address_on(
    node: &str,
    preferred: Option<&str>,
    pods: &[&Pod],
    sought: Sought<'_>,
) -> Option<IpAddr> {
    let here = pods.iter().filter(|pod| pod.node.as_deref() == Some(node));
    here.filter_map(|pod| Some((pod, sought.of(pod)?)))
        .max_by_key(|(pod, _)| {
            let is_preferred = Some(pod.name.name.as_str()) == preferred;
            (is_preferred, pod.created, &pod.name)
        })
        .map(|(_, address)| address)
}

fn of_family(addresses: &[IpAddr], is_ipv4: bool) -> Option<IpAddr> {
    addresses
        .iter()
        .copied()
        .find(|address| address.is_ipv4() == is_ipv4)
}

/// What was granted stays as long as the pod it was granted for lives: the next sign will come.
fn kept(
    before: Option<&Grant>,
    pods: &[&Pod],
    sought: Sought<'_>,
    why_not: impl FnOnce() -> (Reason, String),
) -> Place {
    let still_there = before.filter(|grant| {
        pods.iter().any(|pod| {
            let is_there = pod.node.as_ref() == Some(&grant.node);
            is_there && sought.addresses(pod).contains(&grant.address)
        }) && grant.address.is_ipv4() == sought.is_ipv4
    });
    let (reason, message) = why_not();
    match still_there {
        Some(grant) => Place::At {
            grant: grant.clone(),
            note: Some(format!("{message}; its place stays as it was")),
        },
        None => Place::Nowhere { reason, message },
    }
}

fn missing_address(vm: &Vm, node: &str, pods: &[&Pod], sought: Sought<'_>) -> (Reason, String) {
    let is_ipv4 = sought.is_ipv4;
    let family = if is_ipv4 { "IPv4" } else { "IPv6" };
    if let NetworkKind::Secondary { definition, .. } = sought.network {
        let message = format!(
            "the VM's pod on {node} has no {family} address on {definition} (its annotation \
             network-status says which it has)"
        );
        return (Reason::VmHasNoAddress, message);
    }
    if let Some(claim) = of_family(&vm.claims, is_ipv4) {
        let known = pods
            .iter()
            .any(|pod| pod.addresses.contains(&claim) && pod.node.is_some());
        let place = if known {
            format!("its pod with that address is not on {node}")
        } else {
            format!("no virt-launcher pod of it on {node} has that address")
        };
        return (
            Reason::AddressUnverified,
            format!("the VM's status claims {claim}, but {place}"),
        );
    }
    (
        Reason::VmHasNoAddress,
        format!("the VM's pod on {node} has no {family} address"),
    )
}

/// The status claims an address no pod of the VM has. In a migration it may lag behind.
fn doubt(vm: &Vm, pods: &[&Pod], sought: Sought<'_>) -> Option<String> {
    if *sought.network != NetworkKind::Pod {
        return None;
    }
    let claim = of_family(&vm.claims, sought.is_ipv4)?;
    let is_known = pods.iter().any(|pod| pod.addresses.contains(&claim));
    (!is_known).then(|| {
        format!("the VM's status claims {claim}, which no pod of it has: the pod's address is used")
    })
}

fn nowhere(reason: Reason, message: &str) -> Place {
    Place::Nowhere {
        reason,
        message: message.to_owned(),
    }
}

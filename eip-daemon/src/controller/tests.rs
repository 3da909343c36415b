//! The controller's pure parts: VM lives as KubeVirt shows them, and a model with random histories.

mod interfaces;
mod life;
mod model;
mod nodes;
mod pods;

use std::net::IpAddr;

use super::{
    object::{Binding, Pod, Vm},
    place::Grant,
};
use crate::{
    model::{ObjectName, VmPhase},
    source::objects::{EipBindingSpec, EipBindingStatus, MigrationState},
};

fn name(namespace: &str, name: &str) -> ObjectName {
    ObjectName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn running(uid: &str, node: &str) -> Vm {
    Vm {
        uid: uid.to_owned(),
        phase: VmPhase::Running,
        node: Some(node.to_owned()),
        ..Vm::default()
    }
}

fn pod(pod: &str, vm: &str, node: &str, addresses: &[&str]) -> Pod {
    Pod {
        name: name("ns", pod),
        vm: vm.to_owned(),
        node: Some(node.to_owned()),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        attachments: Vec::new(),
        created: 0,
    }
}

fn binding(namespace: &str, own: &str, eip: &str, vm: &str) -> Binding {
    Binding {
        name: name(namespace, own),
        uid: format!("uid-of-{namespace}-{own}"),
        resource_version: "1".to_owned(),
        created: 0,
        generation: 1,
        is_deleting: false,
        finalizers: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        spec: Ok(EipBindingSpec {
            eip: Some(eip.to_owned()),
            vmi: Some(vm.to_owned()),
            ..EipBindingSpec::default()
        }),
        status: EipBindingStatus::default(),
    }
}

fn grant(uid: &str, node: &str, address: &str) -> Grant {
    Grant {
        node: node.to_owned(),
        address: ip(address),
        uid: uid.to_owned(),
    }
}

fn migration(target: &str, is_ready: bool) -> MigrationState {
    MigrationState {
        target_node: Some(target.to_owned()),
        target_pod: Some("to".to_owned()),
        target_node_domain_ready_timestamp: is_ready.then(|| "2026-01-01T00:00:00Z".to_owned()),
        ..MigrationState::default()
    }
}

//! Which of a VM's networks an elastic IP leads to.

use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::{ip, name};
use crate::{
    controller::{
        object::{Binding, Pod, Vm},
        registry::Registry,
        verdict::{Verdict, decide},
    },
    source::objects::EipBindingSpec,
};

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

/// A VM on the pod network and on two of Multus, which its pod has in another order.
fn vm() -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm", "namespace": "ns", "uid": "u"},
        "spec": {"networks": [
            {"name": "blue", "multus": {"networkName": "blue-net"}},
            {"name": "green", "multus": {"networkName": "infra/green-net"}},
            {"name": "default", "pod": {}}
        ]},
        "status": {"phase": "Running", "nodeName": "n1", "interfaces": [
            {"name": "blue", "ipAddress": "10.9.9.9", "podInterfaceName": "pod-blue"},
            {"name": "default", "ipAddress": "10.0.0.5"}
        ]}
    })
}

fn attachments() -> Value {
    json!([
        {"name": "cni", "interface": "eth0", "ips": ["10.0.0.5"], "default": true},
        {"name": "infra/green-net", "interface": "pod-green", "ips": ["fd07::7", "10.7.0.7"]},
        {"name": "ns/blue-net", "interface": "pod-blue", "ips": ["10.8.0.8"]}
    ])
}

fn launcher(status: &str) -> DynamicObject {
    object(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "virt-launcher", "namespace": "ns", "uid": "p",
            "labels": {"kubevirt.io/created-by": "u"},
            "annotations": {"k8s.v1.cni.cncf.io/network-status": status},
            "ownerReferences": [{"apiVersion": "kubevirt.io/v1",
                                 "kind": "VirtualMachineInstance", "name": "vm", "uid": "u"}]
        },
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}]}
    }))
}

fn verdict(interface: Option<&str>, eip: &str, status: &str, is_trusted: bool) -> Verdict {
    let mut registry = Registry::new(is_trusted);
    let own = name("ns", "b");
    let binding = Binding {
        spec: Ok(EipBindingSpec {
            eip: Some(eip.to_owned()),
            vmi: Some("vm".to_owned()),
            interface: interface.map(str::to_owned),
            ..EipBindingSpec::default()
        }),
        ..super::binding("ns", "b", eip, "vm")
    };
    registry.put_binding(&own, binding);
    registry.put_vm(&name("ns", "vm"), Vm::read(&object(vm())));
    registry.put_pod(Pod::read(&launcher(status)).unwrap());
    decide(&registry, &own).unwrap()
}

#[test]
fn a_network_is_chosen_by_its_name_and_its_address_is_the_pods() {
    let status = attachments().to_string();
    for (interface, eip, address) in [
        (None, "203.0.113.10", "10.0.0.5"),
        (Some("default"), "203.0.113.10", "10.0.0.5"),
        // What the VM's status claims there counts for nothing.
        (Some("blue"), "203.0.113.10", "10.8.0.8"),
        (Some("green"), "203.0.113.10", "10.7.0.7"),
        (Some("green"), "2001:db8::10", "fd07::7"),
    ] {
        let grant = verdict(interface, eip, &status, true).grant;
        assert_eq!(grant.unwrap().address, ip(address), "{interface:?}");
    }
}

#[test]
fn a_network_the_vm_does_not_have_is_told_with_those_it_has() {
    let verdict = verdict(Some("red"), "203.0.113.10", "[]", true);
    assert_eq!(verdict.reason, "InterfaceNotFound");
    assert!(verdict.message.contains("blue, green, default"));
    assert_eq!(
        (verdict.grant, verdict.held),
        (None, Some(ip("203.0.113.10")))
    );
}

#[test]
fn annotations_are_not_believed_unless_that_was_asked_for() {
    let status = attachments().to_string();
    let refused = verdict(Some("blue"), "203.0.113.10", &status, false);
    assert_eq!(refused.reason, "InterfaceUnverified");
    assert!(refused.message.contains("--trust-network-status"));
    // The pod network has its address from the kubelet.
    let served = verdict(Some("default"), "203.0.113.10", &status, false);
    assert_eq!(served.grant.unwrap().address, ip("10.0.0.5"));
}

#[test]
fn an_annotation_that_says_nothing_usable_grants_nothing() {
    let elsewhere = json!([{"name": "other/blue-net", "interface": "net1", "ips": ["10.8.0.8"]}]);
    let no_address = json!([{"name": "ns/blue-net", "interface": "pod-blue", "ips": ["soon"]}]);
    // Neither of them has the name that the VM's status gives.
    let twice = json!([
        {"name": "ns/blue-net", "interface": "net1", "ips": ["10.8.0.8"]},
        {"name": "ns/blue-net", "interface": "net2", "ips": ["10.8.0.9"]}
    ]);
    for status in [
        "nonsense".to_owned(),
        "{}".to_owned(),
        "[7]".to_owned(),
        elsewhere.to_string(),
        no_address.to_string(),
        twice.to_string(),
    ] {
        let verdict = verdict(Some("blue"), "203.0.113.10", &status, true);
        assert_eq!(verdict.reason, "VmHasNoAddress", "{status}");
        assert!(
            verdict.message.contains("ns/blue-net"),
            "{}",
            verdict.message
        );
    }
}

#[test]
fn what_a_guest_agent_does_with_an_unreadable_status_changes_no_network() {
    let mut broken = vm();
    broken["status"] = json!("Running");
    assert_eq!(Vm::read(&object(broken)).networks.len(), 3);
}

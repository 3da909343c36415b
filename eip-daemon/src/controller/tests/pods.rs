//! Plain pods as targets.

use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::{ip, name};
use crate::{
    controller::{
        object::{Binding, Pod, Vm, pod_as_target},
        registry::Registry,
        verdict::{Verdict, decide},
    },
    source::objects::{EipBindingSpec, TargetSpec},
};

fn object(change: impl FnOnce(&mut Value)) -> DynamicObject {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "ns", "uid": "u1",
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIP": "10.0.0.5",
                   "podIPs": [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}]}
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn verdict(kind: &str, eip: &str, pod: Option<&DynamicObject>) -> Verdict {
    let mut registry = Registry::default();
    let binding = Binding {
        spec: Ok(EipBindingSpec {
            eip: Some(eip.to_owned()),
            target: Some(TargetSpec {
                kind: kind.to_owned(),
                name: "web".to_owned(),
            }),
            ..EipBindingSpec::default()
        }),
        ..super::binding("ns", "b", eip, "unused")
    };
    registry.put_binding(&name("ns", "b"), binding);
    if let Some(pod) = pod {
        let target = pod_as_target(&name("ns", "web"));
        registry.put_vm(&target, Vm::of_pod(pod));
        registry.put_pod(Pod::plain(pod));
    }
    decide(&registry, &name("ns", "b")).unwrap()
}

#[test]
fn a_running_pod_is_granted_where_it_is_with_its_own_address_of_the_family() {
    for (eip, address) in [("203.0.113.10", "10.0.0.5"), ("2001:db8::10", "fd00::5")] {
        let grant = verdict("Pod", eip, Some(&object(|_| {}))).grant.unwrap();
        assert_eq!((&*grant.node, &*grant.uid), ("n1", "u1"));
        assert_eq!(grant.address, ip(address));
    }
}

#[test]
fn a_pod_that_cannot_be_served_says_why() {
    let without_address = |pod: &mut Value| pod["status"] = json!({"phase": "Running"});
    let with_phase =
        |phase: &'static str| move |pod: &mut Value| pod["status"]["phase"] = json!(phase);
    for (pod, reason) in [
        (None, "PodNotFound"),
        (Some(object(with_phase("Pending"))), "PodNotRunning"),
        (Some(object(with_phase("Succeeded"))), "PodNotRunning"),
        (Some(object(with_phase("Failed"))), "PodNotRunning"),
        (Some(object(without_address)), "PodHasNoAddress"),
        (
            Some(object(|pod| pod["spec"]["hostNetwork"] = json!(true))),
            "PodHasNoAddress",
        ),
    ] {
        let verdict = verdict("Pod", "203.0.113.10", pod.as_ref());
        assert_eq!(verdict.grant, None, "{reason}");
        assert_eq!(verdict.reason, reason);
        assert!(
            verdict.message.contains("Pod ns/web"),
            "{}",
            verdict.message
        );
        assert_eq!(
            verdict.held,
            Some(ip("203.0.113.10")),
            "it keeps its address"
        );
    }
}

#[test]
fn a_vm_of_the_pods_name_and_a_bare_address_are_something_else() {
    let pod = object(|_| {});
    let as_vm = verdict("VirtualMachineInstance", "203.0.113.10", Some(&pod));
    assert_eq!(as_vm.reason, "VmNotFound");
    assert_eq!(
        verdict("Address", "203.0.113.10", Some(&pod)).reason,
        "Invalid"
    );
}

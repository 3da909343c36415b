//! What KubeVirt and the kubelet would write.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// KubeVirt's definition of a VM, as far as the API server has to know it. As in KubeVirt, it has no
/// status subresource.
#[must_use]
pub fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "virtualmachineinstances.kubevirt.io"},
        "spec": {
            "group": "kubevirt.io",
            "scope": "Namespaced",
            "names": {
                "kind": "VirtualMachineInstance",
                "plural": "virtualmachineinstances",
                "singular": "virtualmachineinstance",
                "shortNames": ["vmi"]
            },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true
                }}
            }]
        }
    })
}

/// A node, with the pod network it has.
#[must_use]
pub fn node(name: &str, pod_cidr: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubevirt.io/schedulable": "true"}},
        "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]}
    })
}

/// A running VM.
#[must_use]
pub fn running(name: &str, node: &str, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {
            "name": name, "namespace": "default", "labels": {"kubevirt.io/nodeName": node}
        },
        "spec": {"networks": [{"name": "default", "pod": {}}]},
        "status": {
            "phase": "Running",
            "nodeName": node,
            "interfaces": [{"name": "default", "ipAddress": address}]
        }
    })
}

/// The virt-launcher pod of a VM; its status is written on its own.
#[must_use]
pub fn launcher(name: &str, vm: &str, uid: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": uid},
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
                "name": vm, "uid": uid, "controller": true
            }]
        },
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "compute", "image": "none"}]
        }
    })
}

/// A plain pod; its status is written on its own.
#[must_use]
pub fn pod(name: &str, node: &str, is_host_network: bool) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": node,
            "hostNetwork": is_host_network,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "web", "image": "none"}]
        }
    })
}

/// A binding to a plain pod.
#[must_use]
pub fn pod_binding(name: &str, eip: Ipv4Addr, pod: &str) -> Value {
    json!({
        "apiVersion": "virteip.github.com/v1",
        "kind": "EipBinding",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"eip": eip, "target": {"kind": "Pod", "name": pod}}
    })
}

/// A binding.
#[must_use]
pub fn binding(name: &str, eip: Ipv4Addr, vm: &str) -> Value {
    json!({
        "apiVersion": "virteip.github.com/v1",
        "kind": "EipBinding",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"eip": eip, "vmi": vm}
    })
}

/// What KubeVirt says of a migration, step by step; each is one update of the VM.
#[derive(Debug, Clone, Copy)]
pub enum Sign {
    /// The target's pod is ready, and the source begins to send.
    HandOff,
    /// The guest runs on the target.
    DomainReady,
    /// Node and label; the address is still the old one.
    Flip,
    /// It is over.
    Completed,
    /// The last two at once: the order of KubeVirt 1.2.
    FlipAndCompleted,
    /// The address at last.
    NewAddress(Ipv4Addr),
    /// It did not work, and the VM stays where it was.
    Failed,
}

impl Sign {
    /// The order of newer releases, up to the address.
    pub const NEW_ORDER: [Self; 4] = [
        Self::HandOff,
        Self::DomainReady,
        Self::Flip,
        Self::Completed,
    ];

    /// The update, for a migration to a pod on a node.
    #[must_use]
    pub fn update(self, node: &str, pod: &str) -> Value {
        let time = "2026-01-01T00:00:00Z";
        let migration = |state: Value| json!({"status": {"migrationState": state}});
        let flip = |state: Value| {
            json!({
                "metadata": {"labels": {"kubevirt.io/nodeName": node}},
                "status": {"nodeName": node, "migrationState": state}
            })
        };
        match self {
            Self::HandOff => json!({
                "metadata": {"labels": {"kubevirt.io/migrationTargetNodeName": node}},
                "status": {"migrationState": {
                    "migrationUid": node, "targetNode": node, "targetPod": pod,
                    "targetNodeDomainReadyTimestamp": null, "completed": false, "failed": false
                }}
            }),
            Self::DomainReady => migration(json!({"targetNodeDomainReadyTimestamp": time})),
            Self::Flip => flip(json!({"endTimestamp": time})),
            Self::Completed => migration(json!({"completed": true})),
            Self::FlipAndCompleted => flip(json!({"completed": true})),
            Self::NewAddress(address) => {
                let interface = json!({"name": "default", "ipAddress": address});
                json!({"status": {"interfaces": [interface]}})
            }
            Self::Failed => migration(json!({"failed": true, "completed": true})),
        }
    }
}

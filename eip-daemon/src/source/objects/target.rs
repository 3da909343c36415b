//! `spec.target` of a binding: what an elastic IP belongs to, where `spec.vmi` does not say it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ObjectError, SUBDOMAIN, VM_KIND, is_subdomain, required};
use crate::model::{ObjectName, POD, TargetKind};

/// `spec.target.kind` of a VM, which `spec.vmi` names more shortly.
pub const TARGET_VM: &str = VM_KIND;
/// `spec.target.kind` of a plain pod.
pub const TARGET_POD: &str = "Pod";
/// `spec.target.kind` of an address that root vouches for; in documents of a node only.
pub const TARGET_ADDRESS: &str = "Address";

/// What an elastic IP belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct TargetSpec {
    /// `VirtualMachineInstance` or `Pod`.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self in ['VirtualMachineInstance', 'Pod']",
        "message": "spec.target.kind has to be VirtualMachineInstance or Pod"
    }]), length(max = 32))]
    pub kind: String,
    /// Its name, in the binding's own namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl TargetSpec {
    /// Kind and name, for a binding in `namespace`.
    ///
    /// # Errors
    /// A kind nobody knows, or a name no object of it can have.
    pub(super) fn resolve(&self, namespace: &str) -> Result<(TargetKind, ObjectName), ObjectError> {
        const NAME: &str = "spec.target.name";
        let name = required(
            Some(&self.name),
            NAME,
            "the name of what the EIP belongs to",
        )?;
        let kind = match self.kind.as_str() {
            TARGET_VM => TargetKind::Vm,
            TARGET_POD => TargetKind::Pod,
            TARGET_ADDRESS => {
                let address = name.parse();
                let expected = "an IP address like 10.244.1.10";
                TargetKind::Address(
                    address.map_err(|_| ObjectError::invalid(NAME, name, expected))?,
                )
            }
            other => {
                let expected = "one of VirtualMachineInstance, Pod, Address";
                return Err(ObjectError::invalid("spec.target.kind", other, expected));
            }
        };
        if matches!(kind, TargetKind::Vm | TargetKind::Pod) && !is_subdomain(name) {
            return Err(ObjectError::invalid(NAME, name, SUBDOMAIN));
        }
        Ok((
            kind,
            ObjectName {
                namespace: namespace.to_owned(),
                name: match kind {
                    TargetKind::Pod => format!("{POD}{name}"),
                    TargetKind::Vm | TargetKind::Address(_) => name.clone(),
                },
            },
        ))
    }
}

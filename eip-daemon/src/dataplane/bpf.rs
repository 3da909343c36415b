//! Loads the compiled programs onto the pinned maps.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use eip_common::{abi::program, reason::Hook};
use nix::{
    sys::{
        resource::{RLIM_INFINITY, Resource, setrlimit},
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::geteuid,
};

use super::{
    DataPlaneError,
    maps::{
        pin_path,
        shape::{BadPin, PinProblem, check_pins, shapes},
    },
    options::{DataPlaneOptions, link_directory, map_directory},
};

/// Why the kernel side cannot start. Fate of each: the process stops and says what to do; nothing in
/// the kernel was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Programs and routes are root's.
    #[error("load kernel programs: run as root (or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)")]
    NotPrivileged,
    /// No BPF file system there.
    #[error("no BPF file system at {path}: mount one with `mount -t bpf bpf {path}`")]
    BpffsNotMounted {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Our directory in it cannot be made.
    #[error("make directory {path}")]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something this version cannot use is pinned under the name of a map.
    #[error(
        "pinned map {path} cannot be used: run `eip-daemon cleanup` (traffic of elastic IPs stops \
         until the restart), or remove that pin"
    )]
    BadPin {
        /// The pin.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PinProblem,
    },
    /// The compiled programs themselves are damaged.
    #[error("read the compiled programs")]
    Object(#[source] aya_obj::ParseError),
    /// The kernel refused a map, or the object as a whole.
    #[error("load maps and programs")]
    Load(#[source] EbpfError),
    /// The kernel refused a program.
    #[error("load program {program} (Linux 6.1 and newer take it)")]
    Program {
        /// Its name.
        program: &'static str,
        /// The cause, with the verifier's log.
        #[source]
        source: ProgramError,
    },
    /// The object lacks a program it should have.
    #[error("program {program} is not in the compiled programs")]
    NoSuchProgram {
        /// Its name.
        program: &'static str,
    },
    /// A map that was just pinned cannot be opened.
    #[error("open the pinned maps")]
    Maps(#[source] DataPlaneError),
    /// Changes of the network cannot be followed.
    #[error("listen to network changes")]
    Events(#[source] io::Error),
}

impl From<BadPin> for OpenError {
    fn from(BadPin { path, problem }: BadPin) -> Self {
        Self::BadPin {
            path,
            source: problem,
        }
    }
}

/// The loaded programs of this process.
#[derive(Debug)]
pub(super) struct Programs {
    ebpf: Ebpf,
    ids: BTreeMap<Hook, u32>,
}

/// Which program belongs to a hook.
pub(super) const fn program_name(hook: Hook) -> &'static str {
    match hook {
        Hook::UplinkXdp => program::UPLINK_XDP,
        Hook::UplinkTc => program::UPLINK_TC,
        Hook::DoorIn => program::DOOR_IN,
        Hook::DoorOut => program::DOOR_OUT,
    }
}

impl Programs {
    /// Loads everything onto the maps that are pinned, or pins new ones. The notices say what is
    /// otherwise than configured.
    pub(super) fn load(options: &DataPlaneOptions) -> Result<(Self, Vec<String>), OpenError> {
        check_place(&options.bpffs)?;
        let directory = map_directory(&options.bpffs);
        let shapes = shapes(crate::EBPF_OBJECT, options).map_err(OpenError::Object)?;
        let pins = check_pins(&directory, &shapes)?;
        make_directory(&directory)?;
        make_directory(&link_directory(&options.bpffs))?;
        lift_memory_limit();
        let mut loader = loader();
        for (name, shape) in &shapes {
            loader.map_pin_path(name, pin_path(&directory, name));
            loader.map_max_entries(name, shape.max_entries);
        }
        let mut ebpf = loader.load(crate::EBPF_OBJECT).map_err(OpenError::Load)?;
        let mut ids = BTreeMap::new();
        for hook in Hook::ALL {
            ids.insert(hook, load_program(&mut ebpf, hook)?);
        }
        Ok((Self { ebpf, ids }, pins.notices))
    }

    /// The kernel's numbers for all of them.
    pub(super) const fn ids(&self) -> &BTreeMap<Hook, u32> {
        &self.ids
    }

    /// The kernel's number for the program of a hook.
    pub(super) fn id(&self, hook: Hook) -> u32 {
        self.ids.get(&hook).copied().unwrap_or(0)
    }

    /// The program of a tc hook.
    pub(super) fn classifier(&mut self, hook: Hook) -> Result<&mut SchedClassifier, ProgramError> {
        let program = self.ebpf.program_mut(program_name(hook));
        program.ok_or(ProgramError::NotLoaded)?.try_into()
    }

    /// The program of the XDP hook.
    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, ProgramError> {
        let program = self.ebpf.program_mut(program_name(Hook::UplinkXdp));
        program.ok_or(ProgramError::NotLoaded)?.try_into()
    }
}

/// Without the kernel's own types: they are tens of megabytes when read, and nothing in our programs is relocated
/// by them.
pub(super) fn loader<'a>() -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader
}

/// Takes every program through the kernel's verifier, with maps of its own that vanish again.
///
/// # Errors
/// The kernel refuses a map or a program.
pub fn try_programs() -> Result<(), OpenError> {
    lift_memory_limit();
    let mut ebpf = loader().load(crate::EBPF_OBJECT).map_err(OpenError::Load)?;
    for hook in Hook::ALL {
        load_program(&mut ebpf, hook)?;
    }
    Ok(())
}

fn load_program(ebpf: &mut Ebpf, hook: Hook) -> Result<u32, OpenError> {
    let name = program_name(hook);
    let program = ebpf
        .program_mut(name)
        .ok_or(OpenError::NoSuchProgram { program: name })?;
    let loaded = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded
        .and_then(|()| Ok(program.info()?.id()))
        .map_err(|source| OpenError::Program {
            program: name,
            source,
        })
}

/// Looks before anything is made: what is missing is said as such, not as a failing system call.
fn check_place(bpffs: &Path) -> Result<(), OpenError> {
    if !is_bpffs(bpffs) {
        return Err(OpenError::BpffsNotMounted {
            path: bpffs.to_owned(),
        });
    }
    // Capabilities without root work too; then the kernel decides.
    if !geteuid().is_root() && fs::read_dir(bpffs).is_err() {
        return Err(OpenError::NotPrivileged);
    }
    Ok(())
}

/// A BPF file system is mounted there.
pub(super) fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn make_directory(path: &Path) -> Result<(), OpenError> {
    fs::create_dir_all(path).map_err(|source| OpenError::PinDirectory {
        path: path.to_owned(),
        source,
    })
}

/// Kernels before 5.11 charge maps to the locked memory of the user.
fn lift_memory_limit() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "the limit of locked memory stays as it is");
    }
}

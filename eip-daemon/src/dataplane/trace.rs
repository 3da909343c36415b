//! Runs the programs on a packet of one's own, by `BPF_PROG_TEST_RUN`: nothing is sent, nothing counted.
//!
//! The attached programs themselves would count the packet and remember its flow, and their counters
//! move with everybody's traffic, so the reason of one packet could not be told. Therefore the same
//! instructions are loaded once more: on the *same* pinned maps where they read what decides (EIPs, VMs,
//! prefixes, uplinks, config), and on maps of their own where they write (flows, fragments, counters),
//! which vanish with the trace. That it is the same code is not believed but compared: the kernel's tag
//! is a hash of the instructions without the maps.

use std::path::PathBuf;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapInfo, PerCpuArray},
    programs::{
        Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp, loaded_programs,
    },
};
use eip_common::{
    abi::{FlowKey, map},
    addr::{Ipv4Wire, Ipv6Wire},
    parse::{self, ETHERNET_LEN, Headers},
    reason::{Hook, Reason, counter_index},
};

use super::{
    DataPlaneError,
    bpf::{self, program_name},
    maps::{failed, open, pin_path},
    options::map_directory,
};

/// Maps that decide, and that no program writes.
const DECIDING: [&str; 9] = [
    map::EIP4,
    map::EIP6,
    map::VM4,
    map::VM6,
    map::NETS4,
    map::NETS6,
    map::UPLINKS,
    map::STATIONS,
    map::CONFIG,
];
/// Maps of the trace's own need no more room than this.
const SMALL: [&str; 5] = [
    map::FLOW4,
    map::FLOW6,
    map::FRAG4,
    map::FRAG6,
    map::EIP_REASONS,
];
const SMALL_ENTRIES: u32 = 1024;
/// More than any program adds to a packet.
const HEADROOM: usize = 256;
/// `__sk_buff` up to and with `gso_size`, and where the interfaces stand in it (`linux/bpf.h`).
const SKB_CONTEXT: usize = 192;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

/// What a program did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceAction {
    /// On to the next program, then the kernel.
    Pass,
    /// Gone.
    Drop,
    /// To another interface, past the kernel.
    Redirect,
    /// Back out of where it came from, XDP only.
    Reflect,
}

/// One program's work on one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// What it did.
    pub action: TraceAction,
    /// Why; `None` for a program that counted nothing.
    pub reason: Option<Reason>,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// Why a packet cannot be traced. Fate: told to who asked.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The programs cannot be loaded once more.
    #[error("load the programs for a trace")]
    Load(#[source] aya::EbpfError),
    /// One of them cannot.
    #[error("load {program} for a trace")]
    Program {
        /// Its name.
        program: &'static str,
        /// The cause.
        #[source]
        source: ProgramError,
    },
    /// The kernel does not run it on this packet.
    #[error("run {program} on the packet")]
    Run {
        /// Its name.
        program: &'static str,
        /// The cause.
        #[source]
        source: ProgramError,
    },
    /// It works on another map than the attached programs.
    #[error("the trace would not use the pinned map {map}: restart the agent")]
    OtherMap {
        /// Its name.
        map: &'static str,
    },
    /// A map.
    #[error(transparent)]
    Maps(#[from] DataPlaneError),
}

/// Runs programs on packets. One trace: what one run remembers the next one finds.
pub trait Tracer: Send {
    /// Runs the program of a hook on a frame, as if it came on this interface.
    ///
    /// # Errors
    /// It cannot be loaded or run.
    fn run(&mut self, hook: Hook, ifindex: u32, frame: &[u8]) -> Result<Ran, TraceError>;

    /// Whether an attached program has the same instructions.
    ///
    /// # Errors
    /// It cannot be loaded.
    fn is_same_code(&mut self, hook: Hook, attached: u32) -> Result<bool, TraceError>;
}

/// On the real kernel.
pub(super) struct KernelTracer {
    ebpf: Ebpf,
    directory: PathBuf,
    loaded: Vec<Hook>,
}

impl KernelTracer {
    /// Nothing is attached, and nothing is left when it is dropped.
    pub(super) fn open(bpffs: &std::path::Path) -> Result<Self, TraceError> {
        let directory = map_directory(bpffs);
        let mut loader = bpf::loader();
        for name in DECIDING {
            loader.map_pin_path(name, pin_path(&directory, name));
        }
        for name in SMALL {
            loader.map_max_entries(name, SMALL_ENTRIES);
        }
        let ebpf = loader.load(crate::EBPF_OBJECT).map_err(TraceError::Load)?;
        let tracer = Self {
            ebpf,
            directory,
            loaded: Vec::new(),
        };
        tracer.check_maps()?;
        Ok(tracer)
    }

    /// aya works on a map of its own when it cannot open a pin.
    fn check_maps(&self) -> Result<(), TraceError> {
        for name in DECIDING {
            let path = pin_path(&self.directory, name);
            let pinned = MapInfo::from_pin(path).map(|info| info.id()).ok();
            let used = self.ebpf.map(name).and_then(id_of);
            if pinned.is_none() || pinned != used {
                return Err(TraceError::OtherMap { map: name });
            }
        }
        Ok(())
    }

    fn load(&mut self, hook: Hook) -> Result<&mut Program, TraceError> {
        let name = program_name(hook);
        let refused = |source| TraceError::Program {
            program: name,
            source,
        };
        let program = self.ebpf.program_mut(name);
        let program = program.ok_or_else(|| refused(ProgramError::NotLoaded))?;
        if !self.loaded.contains(&hook) {
            match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                _ => Err(ProgramError::UnexpectedProgramType),
            }
            .map_err(refused)?;
            self.loaded.push(hook);
        }
        Ok(program)
    }

    /// The reason that was counted last at a hook, by what moved since `before`.
    fn reasons(&self, hook: Hook) -> Result<Vec<u64>, TraceError> {
        let map = self.ebpf.map(map::REASONS);
        let map = map.ok_or(TraceError::OtherMap { map: map::REASONS })?;
        let counters = PerCpuArray::<&MapData, u64>::try_from(map)
            .map_err(|source| failed(map::REASONS, source))?;
        let mut counts = Vec::new();
        for reason in Reason::ALL {
            let values = counters
                .get(&counter_index(hook, reason), 0)
                .map_err(|source| failed(map::REASONS, source))?;
            counts.push(values.iter().sum());
        }
        Ok(counts)
    }

    /// What the attached programs remember of the flow this packet is part of, for this trace too.
    fn recall(&mut self, frame: &[u8]) -> Result<(), TraceError> {
        let available = u32::try_from(frame.len().saturating_sub(ETHERNET_LEN)).unwrap_or(0);
        if let Ok(headers) = parse::ipv4(frame, ETHERNET_LEN, available) {
            self.recall_in::<Ipv4Wire>(map::FLOW4, &flow_key(&headers))?;
        }
        if let Ok(headers) = parse::ipv6(frame, ETHERNET_LEN, available) {
            self.recall_in::<Ipv6Wire>(map::FLOW6, &flow_key(&headers))?;
        }
        Ok(())
    }

    fn recall_in<A>(&mut self, name: &'static str, key: &FlowKey<A>) -> Result<(), TraceError>
    where
        A: aya::Pod,
    {
        let pinned: HashMap<MapData, FlowKey<A>, A> = open(&self.directory, name)?;
        let Ok(eip) = pinned.get(key, 0) else {
            return Ok(());
        };
        let own = self.ebpf.map_mut(name);
        let own = own.ok_or(TraceError::OtherMap { map: name })?;
        let mut own = HashMap::<&mut MapData, FlowKey<A>, A>::try_from(own)
            .map_err(|source| failed(name, source))?;
        own.insert(key, eip, 0)
            .map_err(|source| failed(name, source).into())
    }
}

impl Tracer for KernelTracer {
    fn run(&mut self, hook: Hook, ifindex: u32, frame: &[u8]) -> Result<Ran, TraceError> {
        if hook == Hook::DoorOut {
            self.recall(frame)?;
        }
        let before = self.reasons(hook)?;
        let mut out = vec![0; frame.len() + HEADROOM];
        let mut context = [0; SKB_CONTEXT];
        let index = ifindex.to_ne_bytes();
        for at in [INGRESS_IFINDEX, IFINDEX] {
            context
                .iter_mut()
                .skip(at)
                .zip(index)
                .for_each(|(to, from)| *to = from);
        }
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            // The kernel refuses an interface without registered queues here. The XDP program asks for
            // its interface only where it would answer itself: tc gives that answer in a trace.
            ctx_in: (hook != Hook::UplinkXdp).then_some(&context),
            ..TestRunOptions::new()
        };
        let result = match self.load(hook)? {
            Program::Xdp(program) => Xdp::test_run(program, options),
            Program::SchedClassifier(program) => SchedClassifier::test_run(program, options),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        let program = program_name(hook);
        let result = result.map_err(|source| TraceError::Run { program, source })?;
        out.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
        let after = self.reasons(hook)?;
        let moved = Reason::ALL
            .into_iter()
            .zip(before.iter().zip(&after))
            .find(|(_, (before, after))| before != after);
        Ok(Ran {
            action: action(hook, result.return_value),
            reason: moved.map(|(reason, _)| reason),
            frame: out,
        })
    }

    fn is_same_code(&mut self, hook: Hook, attached: u32) -> Result<bool, TraceError> {
        let program = program_name(hook);
        let own = match self.load(hook)? {
            Program::Xdp(program) => program.info(),
            Program::SchedClassifier(program) => program.info(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        let own = own.map_err(|source| TraceError::Program { program, source })?;
        let mut running = loaded_programs().flatten();
        let other = running.find(|info| info.id() == attached);
        Ok(other.is_some_and(|other| other.tag() == own.tag()))
    }
}

fn action(hook: Hook, code: u32) -> TraceAction {
    match (hook, code) {
        (Hook::UplinkXdp, 1) | (Hook::UplinkTc | Hook::DoorIn | Hook::DoorOut, 2) => {
            TraceAction::Drop
        }
        (Hook::UplinkXdp, 3) => TraceAction::Reflect,
        (Hook::UplinkXdp, 4) | (_, 7) => TraceAction::Redirect,
        _ => TraceAction::Pass,
    }
}

const fn flow_key<A: Copy>(headers: &Headers<A>) -> FlowKey<A> {
    FlowKey {
        vm: headers.source,
        peer: headers.destination,
        vm_port: headers.transport.source,
        peer_port: headers.transport.destination,
        protocol: headers.protocol,
        reserved: [0; 3],
    }
}

fn id_of(map: &aya::maps::Map) -> Option<u32> {
    use aya::maps::Map;
    let (Map::HashMap(data) | Map::LpmTrie(data) | Map::Array(data)) = map else {
        return None;
    };
    data.info().map(|info| info.id()).ok()
}

//! Samples of packets, written by the programs while somebody looks.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use eip_common::abi::{Quota, Sample, Watch, map};
use nix::time::{ClockId, clock_gettime};

use super::{
    DataPlaneError,
    maps::{failed, open},
};

/// Which packets somebody wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// A bit for every reason.
    pub reasons: u64,
    /// A bit for every hook.
    pub hooks: u32,
    /// Only of the binding with this slot and of what is on this port.
    pub only: Option<(u32, u32)>,
    /// Samples a second and CPU.
    pub rate: u32,
}

/// The programs' samples.
pub trait Sampler: Send + Sync {
    /// Has the programs write samples of these packets, for so long; of none without.
    ///
    /// # Errors
    /// The map cannot be written.
    fn want(&self, wanted: Option<Wanted>, lasting: Duration) -> Result<(), DataPlaneError>;

    /// What was written since the last call.
    fn take(&self) -> Vec<Sample>;

    /// Samples that were not written, since the maps exist.
    ///
    /// # Errors
    /// The map cannot be read.
    fn lost(&self) -> Result<u64, DataPlaneError>;

    /// Now, on the clock of the samples, in nanoseconds.
    fn clock(&self) -> u64;
}

/// The pinned maps.
pub(super) struct KernelSampler {
    watch: Mutex<Array<MapData, Watch>>,
    ring: Mutex<RingBuf<MapData>>,
    quota: PerCpuArray<MapData, Quota>,
}

impl KernelSampler {
    /// Nothing is written until somebody wants it, whatever an earlier process wanted.
    pub(super) fn open(directory: &Path) -> Result<Self, DataPlaneError> {
        let sampler = Self {
            watch: Mutex::new(open(directory, map::WATCH)?),
            ring: Mutex::new(open(directory, map::SAMPLES)?),
            quota: open(directory, map::QUOTA)?,
        };
        sampler.want(None, Duration::ZERO)?;
        sampler.take();
        Ok(sampler)
    }
}

impl Sampler for KernelSampler {
    fn want(&self, wanted: Option<Wanted>, lasting: Duration) -> Result<(), DataPlaneError> {
        let lasting = u64::try_from(lasting.as_nanos()).unwrap_or(u64::MAX);
        let watch = wanted.map_or_else(Watch::default, |wanted| Watch {
            until: self.clock().saturating_add(lasting),
            reasons: wanted.reasons,
            hooks: wanted.hooks,
            slot: wanted
                .only
                .map_or(eip_common::abi::NO_SLOT, |(slot, _)| slot),
            port: wanted.only.map_or(0, |(_, port)| port),
            rate: wanted.rate,
        });
        let mut map = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        map.set(0, watch, 0)
            .map_err(|source| failed(map::WATCH, source))
    }

    fn take(&self) -> Vec<Sample> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut samples = Vec::new();
        while let Some(item) = ring.next() {
            samples.extend(Sample::from_bytes(&item));
        }
        samples
    }

    fn lost(&self) -> Result<u64, DataPlaneError> {
        let quotas = self.quota.get(&0, 0);
        let quotas = quotas.map_err(|source| failed(map::QUOTA, source))?;
        Ok(quotas.iter().map(|quota| quota.lost).sum())
    }

    fn clock(&self) -> u64 {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
        let now = now.unwrap_or_default().as_nanos();
        u64::try_from(now).unwrap_or(u64::MAX)
    }
}

//! The counters, on handles of their own: read by `eipctl` and metrics while the reconciler owns the
//! data plane.

use std::path::Path;

use aya::maps::{MapData, PerCpuArray, PerCpuHashMap};
use eip_common::{
    abi::{BY_PORT, EipReasonKey, Traffic, map},
    reason::{Hook, Reason, counter_index},
};

use super::{failed, is_absent, open};
use crate::dataplane::{Counters, DataPlaneError, ReasonCount, SlotReasonCount};

/// The pinned counters.
pub(crate) struct KernelCounters {
    reasons: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, Traffic>,
    binding_reasons: PerCpuHashMap<MapData, EipReasonKey, u64>,
}

impl KernelCounters {
    /// Opens what is pinned in a directory.
    pub(crate) fn open(directory: &Path) -> Result<Self, DataPlaneError> {
        Ok(Self {
            reasons: open(directory, map::REASONS)?,
            traffic: open(directory, map::TRAFFIC)?,
            binding_reasons: open(directory, map::EIP_REASONS)?,
        })
    }
}

impl Counters for KernelCounters {
    fn reasons(&self) -> Result<Vec<ReasonCount>, DataPlaneError> {
        let mut counts = Vec::new();
        for (hook, reason) in everywhere() {
            let index = counter_index(hook, reason);
            let values = self
                .reasons
                .get(&index, 0)
                .map_err(|source| failed(map::REASONS, source))?;
            push_count(&mut counts, hook, reason, values.iter().sum());
        }
        Ok(counts)
    }

    fn traffic(&self, slot: u32) -> Result<Traffic, DataPlaneError> {
        let values = self
            .traffic
            .get(&slot, 0)
            .map_err(|source| failed(map::TRAFFIC, source))?;
        Ok(values.iter().fold(Traffic::default(), |sum, one| Traffic {
            in_packets: sum.in_packets.wrapping_add(one.in_packets),
            in_bytes: sum.in_bytes.wrapping_add(one.in_bytes),
            out_packets: sum.out_packets.wrapping_add(one.out_packets),
            out_bytes: sum.out_bytes.wrapping_add(one.out_bytes),
        }))
    }

    fn all_binding_reasons(&self) -> Result<Vec<SlotReasonCount>, DataPlaneError> {
        let mut counts = Vec::new();
        for entry in &self.binding_reasons {
            let (key, values) = entry.map_err(|source| failed(map::EIP_REASONS, source))?;
            let known = Hook::from_byte(key.hook).zip(Reason::from_byte(key.reason));
            // What a newer version counted has no name here.
            let Some((hook, reason)) = known else {
                continue;
            };
            let packets = values.iter().sum();
            let count = ReasonCount {
                hook,
                reason,
                packets,
            };
            counts.push(SlotReasonCount {
                slot: key.slot,
                count,
            });
        }
        Ok(counts)
    }

    fn binding_reasons(&self, slot: u32) -> Result<Vec<ReasonCount>, DataPlaneError> {
        let mut counts = Vec::new();
        for (hook, reason) in everywhere() {
            let key = EipReasonKey {
                slot,
                hook: hook as u8,
                reason: reason as u8,
                reserved: [0; 2],
            };
            match self.binding_reasons.get(&key, 0) {
                Ok(values) => push_count(&mut counts, hook, reason, values.iter().sum()),
                Err(error) if is_absent(&error) => {}
                Err(source) => return Err(failed(map::EIP_REASONS, source)),
            }
        }
        Ok(counts)
    }

    fn port_reasons(&self, ifindex: u32) -> Result<Vec<ReasonCount>, DataPlaneError> {
        self.binding_reasons(BY_PORT | ifindex)
    }
}

fn everywhere() -> impl Iterator<Item = (Hook, Reason)> {
    Hook::ALL
        .into_iter()
        .flat_map(|hook| Reason::ALL.into_iter().map(move |reason| (hook, reason)))
}

fn push_count(counts: &mut Vec<ReasonCount>, hook: Hook, reason: Reason, packets: u64) {
    if packets > 0 {
        counts.push(ReasonCount {
            hook,
            reason,
            packets,
        });
    }
}

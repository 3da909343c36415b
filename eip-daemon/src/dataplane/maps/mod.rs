//! The pinned maps, typed: what the reconciler writes and reads back.
//!
//! The handles are opened from the pins, so every part of the process (and a test) can have its own.
//! Only the data plane writes bindings, VMs, prefixes, uplinks and config; the programs write flows,
//! fragments and counters.

pub(crate) mod convert;
mod counters;
mod family;
pub(super) mod shape;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya::{
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
pub(super) use counters::KernelCounters;
use eip_common::{
    abi::{BY_PORT, Config, EipReasonKey, Lease, Traffic, Uplink, map},
    addr::{Ipv4Wire, Ipv6Wire, Mac},
    reason::{Hook, Reason},
};
use family::FamilyMaps;
use ipnet::IpNet;

use super::{DataPlaneError, inspect::MapFill};
use crate::model::{BindingState, GatewayState, NetState, Observed, UplinkState, VmState};

/// All maps the daemon writes.
pub(crate) struct Maps {
    v4: FamilyMaps<Ipv4Wire>,
    v6: FamilyMaps<Ipv6Wire>,
    uplinks: HashMap<MapData, u32, Uplink>,
    stations: HashMap<MapData, Mac, u32>,
    config: Array<MapData, Config>,
    traffic: PerCpuArray<MapData, Traffic>,
    leases: Array<MapData, Lease>,
    reasons: PerCpuHashMap<MapData, EipReasonKey, u64>,
}

impl Maps {
    /// Opens what is pinned in a directory.
    pub(crate) fn open(directory: &Path) -> Result<Self, DataPlaneError> {
        Ok(Self {
            v4: FamilyMaps::open(directory, family::NAMES4)?,
            v6: FamilyMaps::open(directory, family::NAMES6)?,
            uplinks: open(directory, map::UPLINKS)?,
            stations: open(directory, map::STATIONS)?,
            config: open(directory, map::CONFIG)?,
            traffic: open(directory, map::TRAFFIC)?,
            leases: open(directory, map::LEASES)?,
            reasons: open(directory, map::EIP_REASONS)?,
        })
    }

    /// Reads bindings, VMs, prefixes and config into what was observed.
    pub(crate) fn read(&self, observed: &mut Observed) -> Result<(), DataPlaneError> {
        self.v4.read(observed)?;
        self.v6.read(observed)?;
        let config = self
            .config
            .get(&0, 0)
            .map_err(|source| failed(map::CONFIG, source))?;
        observed.gateway = convert::gateway(&config);
        for (_, slot) in observed.bindings.values() {
            let lease = match self.leases.get(slot, 0) {
                Ok(lease) => lease,
                // Somebody wrote a slot that nobody has.
                Err(MapError::OutOfBounds { .. }) => continue,
                Err(source) => return Err(failed(map::LEASES, source)),
            };
            observed.leases.insert(*slot, lease.until);
        }
        Ok(())
    }

    /// Lets a binding be served until then.
    pub(crate) fn renew(&mut self, slot: u32, until: u64) -> Result<(), DataPlaneError> {
        let written = self.leases.set(slot, Lease { until }, 0);
        written.map_err(|source| failed(map::LEASES, source))
    }

    /// How full the maps are that can fill up.
    pub(crate) fn fill(&self) -> Result<Vec<MapFill>, DataPlaneError> {
        Ok([self.v4.fill()?, self.v6.fill()?].concat())
    }

    /// The uplink map, by ifindex.
    pub(crate) fn uplinks(&self) -> Result<BTreeMap<u32, Uplink>, DataPlaneError> {
        let entries = read_all(map::UPLINKS, self.uplinks.iter())?;
        Ok(entries.into_iter().collect())
    }

    /// Writes an uplink. `flags` are about its attachment: [`Uplink::flags`].
    pub(crate) fn put_uplink(
        &mut self,
        ifindex: u32,
        state: &UplinkState,
        flags: u8,
    ) -> Result<(), DataPlaneError> {
        let value = Uplink {
            mtu: state.mtu,
            mac: state.mac,
            flags,
            reserved: 0,
        };
        let written = self.uplinks.insert(ifindex, value, 0);
        written.map_err(|source| failed(map::UPLINKS, source))?;
        self.follow_stations()
    }

    /// Removes an uplink.
    pub(crate) fn remove_uplink(&mut self, ifindex: u32) -> Result<(), DataPlaneError> {
        removed(map::UPLINKS, self.uplinks.remove(&ifindex))?;
        self.follow_stations()
    }

    /// Makes the stations those of the uplinks, which may share one: a VLAN has that of its device.
    pub(crate) fn follow_stations(&mut self) -> Result<(), DataPlaneError> {
        let uplinks = self.uplinks()?;
        let wanted = uplinks.values().map(|uplink| uplink.mac);
        let wanted: BTreeSet<Mac> = wanted.filter(|mac| *mac != Mac::default()).collect();
        let there = read_all(map::STATIONS, self.stations.iter())?;
        let there: BTreeSet<Mac> = there.into_iter().map(|(mac, _)| mac).collect();
        for mac in there.difference(&wanted) {
            removed(map::STATIONS, self.stations.remove(mac))?;
        }
        for mac in wanted.difference(&there) {
            let written = self.stations.insert(mac, 1, 0);
            written.map_err(|source| failed(map::STATIONS, source))?;
        }
        Ok(())
    }

    /// Writes the config.
    pub(crate) fn put_gateway(&mut self, state: &GatewayState) -> Result<(), DataPlaneError> {
        let written = self.config.set(0, convert::config(state), 0);
        written.map_err(|source| failed(map::CONFIG, source))
    }

    /// Writes a prefix.
    pub(crate) fn put_net(&mut self, net: IpNet, state: NetState) -> Result<(), DataPlaneError> {
        match net {
            IpNet::V4(_) => self.v4.put_net(net, state),
            IpNet::V6(_) => self.v6.put_net(net, state),
        }
    }

    /// Removes a prefix.
    pub(crate) fn remove_net(&mut self, net: IpNet) -> Result<(), DataPlaneError> {
        match net {
            IpNet::V4(_) => self.v4.remove_net(net),
            IpNet::V6(_) => self.v6.remove_net(net),
        }
    }

    /// Writes a binding.
    pub(crate) fn put_binding(
        &mut self,
        eip: IpAddr,
        state: &BindingState,
        slot: u32,
    ) -> Result<(), DataPlaneError> {
        match eip {
            IpAddr::V4(_) => self.v4.put_binding(eip, state, slot),
            IpAddr::V6(_) => self.v6.put_binding(eip, state, slot),
        }
    }

    /// Removes a binding.
    pub(crate) fn remove_binding(&mut self, eip: IpAddr) -> Result<(), DataPlaneError> {
        match eip {
            IpAddr::V4(_) => self.v4.remove_binding(eip),
            IpAddr::V6(_) => self.v6.remove_binding(eip),
        }
    }

    /// Writes a VM.
    pub(crate) fn put_vm(
        &mut self,
        address: IpAddr,
        state: &VmState,
        slot: u32,
    ) -> Result<(), DataPlaneError> {
        match address {
            IpAddr::V4(_) => self.v4.put_vm(address, state, slot),
            IpAddr::V6(_) => self.v6.put_vm(address, state, slot),
        }
    }

    /// Removes a VM with its flows and fragments: the address may be another VM's tomorrow.
    pub(crate) fn remove_vm(&mut self, address: IpAddr) -> Result<(), DataPlaneError> {
        match address {
            IpAddr::V4(_) => self.v4.remove_vm(address),
            IpAddr::V6(_) => self.v6.remove_vm(address),
        }
    }

    /// Starts the counters of a slot at zero: it had another owner, or an earlier life.
    pub(crate) fn clear_slot(&mut self, slot: u32) -> Result<(), DataPlaneError> {
        let zeroes = zeroes().map_err(|source| failed(map::TRAFFIC, source))?;
        self.traffic
            .set(slot, zeroes, 0)
            .map_err(|source| match source {
                MapError::OutOfBounds { .. } => DataPlaneError::MapFull { map: map::TRAFFIC },
                source => failed(map::TRAFFIC, source),
            })?;
        self.clear_reasons(slot)
    }

    /// Forgets what was counted for senders behind a port: its number may be another's tomorrow.
    pub(crate) fn clear_port(&mut self, ifindex: u32) -> Result<(), DataPlaneError> {
        self.clear_reasons(BY_PORT | ifindex)
    }

    fn clear_reasons(&mut self, slot: u32) -> Result<(), DataPlaneError> {
        for key in exceptional_keys(slot) {
            removed(map::EIP_REASONS, self.reasons.remove(&key))?;
        }
        Ok(())
    }
}

fn zeroes() -> Result<PerCpuValues<Traffic>, MapError> {
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    Ok(PerCpuValues::try_from(vec![Traffic::default(); cpus])?)
}

fn exceptional_keys(slot: u32) -> impl Iterator<Item = EipReasonKey> {
    let reasons = || {
        Reason::ALL
            .into_iter()
            .filter(|reason| reason.is_exception())
    };
    Hook::ALL.into_iter().flat_map(move |hook| {
        reasons().map(move |reason| EipReasonKey {
            slot,
            hook: hook as u8,
            reason: reason as u8,
            reserved: [0; 2],
        })
    })
}

/// Where a map is pinned.
pub(crate) fn pin_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(name)
}

pub(super) fn open<M: TryFrom<Map, Error = MapError>>(
    directory: &Path,
    name: &'static str,
) -> Result<M, DataPlaneError> {
    MapData::from_pin(pin_path(directory, name))
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(|source| failed(name, source))
}

/// Entries of a map that others write meanwhile: one that vanishes between its key and its value is
/// left out.
fn read_all<K, V>(
    map: &'static str,
    entries: impl Iterator<Item = Result<(K, V), MapError>>,
) -> Result<Vec<(K, V)>, DataPlaneError> {
    entries
        .filter(|entry| !matches!(entry, Err(MapError::KeyNotFound)))
        .collect::<Result<_, _>>()
        .map_err(|source| failed(map, source))
}

/// What is not there needs no removing.
fn removed(map: &'static str, result: Result<(), MapError>) -> Result<(), DataPlaneError> {
    match result {
        Err(error) if !is_absent(&error) => Err(failed(map, error)),
        _ => Ok(()),
    }
}

fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound | MapError::ElementNotFound)
        || os_error(error) == Some(nix::libc::ENOENT)
}

/// A hash map is full with `E2BIG`, a trie with `ENOSPC`.
pub(super) fn failed(map: &'static str, source: MapError) -> DataPlaneError {
    match os_error(&source) {
        Some(nix::libc::E2BIG | nix::libc::ENOSPC) => DataPlaneError::MapFull { map },
        _ => DataPlaneError::Map { map, source },
    }
}

fn os_error(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::IoError(error) => error.raw_os_error(),
        _ => None,
    }
}

/// The operating system's error at the root of whatever aya wrapped around it.
pub(super) fn root_os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    let mut found = None;
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            found = error.raw_os_error().or(found);
        }
        cause = error.source();
    }
    found
}

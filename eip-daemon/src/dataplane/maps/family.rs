//! The maps of one address family.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use aya::maps::{HashMap, IterableMap, LpmTrie, MapData};
use eip_common::{
    abi::{Binding, FlowKey, FragmentKey, Net, Vm, map},
    addr::{Ipv4Wire, Ipv6Wire},
};
use ipnet::IpNet;

use super::{
    DataPlaneError,
    convert::{self, Wire},
    failed, open, read_all, removed,
};
use crate::dataplane::inspect::MapFill;
use crate::model::{BindingState, NetState, Observed, VmState};

/// Names of a family's maps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    eip: &'static str,
    vm: &'static str,
    nets: &'static str,
    flow: &'static str,
    fragment: &'static str,
}

pub(super) const NAMES4: Names = Names {
    eip: map::EIP4,
    vm: map::VM4,
    nets: map::NETS4,
    flow: map::FLOW4,
    fragment: map::FRAG4,
};
pub(super) const NAMES6: Names = Names {
    eip: map::EIP6,
    vm: map::VM6,
    nets: map::NETS6,
    flow: map::FLOW6,
    fragment: map::FRAG6,
};

/// The types whose bytes a map may hold, for one family. Written out because `Pod` is promised for
/// each of them on its own.
pub(super) trait Family: Wire + Eq {}

impl Family for Ipv4Wire {}
impl Family for Ipv6Wire {}

pub(super) struct FamilyMaps<A: Family> {
    names: Names,
    eips: HashMap<MapData, A, Binding<A>>,
    vms: HashMap<MapData, A, Vm<A>>,
    nets: LpmTrie<MapData, A, Net>,
    flows: HashMap<MapData, FlowKey<A>, A>,
    fragments: HashMap<MapData, FragmentKey<A>, A>,
}

impl<A: Family> FamilyMaps<A> {
    pub(super) fn open(directory: &Path, names: Names) -> Result<Self, DataPlaneError> {
        Ok(Self {
            names,
            eips: open(directory, names.eip)?,
            vms: open(directory, names.vm)?,
            nets: open(directory, names.nets)?,
            flows: open(directory, names.flow)?,
            fragments: open(directory, names.fragment)?,
        })
    }

    pub(super) fn read(&self, observed: &mut Observed) -> Result<(), DataPlaneError> {
        let bindings = read_all(self.names.eip, self.eips.iter())?;
        observed.bindings.extend(
            bindings
                .iter()
                .map(|(eip, value)| (eip.to_ip(), convert::binding_state(value))),
        );
        let vms = read_all(self.names.vm, self.vms.iter())?;
        observed.vms.extend(
            vms.iter()
                .map(|(address, value)| (address.to_ip(), convert::vm_state(value))),
        );
        observed.nets.extend(self.read_nets()?);
        Ok(())
    }

    fn read_nets(&self) -> Result<BTreeMap<IpNet, NetState>, DataPlaneError> {
        let nets = read_all(self.names.nets, self.nets.iter())?;
        let known = nets
            .iter()
            .filter_map(|(key, value)| Some((convert::net(key)?, convert::net_state(*value))));
        Ok(known.collect())
    }

    pub(super) fn put_binding(
        &mut self,
        eip: IpAddr,
        state: &BindingState,
        slot: u32,
    ) -> Result<(), DataPlaneError> {
        let mixed = DataPlaneError::MixedFamilies { eip, vm: state.vm };
        let (Some(key), Some(value)) = (A::from_ip(eip), convert::binding::<A>(state, slot)) else {
            return Err(mixed);
        };
        self.eips
            .insert(key, value, 0)
            .map_err(|source| failed(self.names.eip, source))
    }

    pub(super) fn remove_binding(&mut self, eip: IpAddr) -> Result<(), DataPlaneError> {
        let Some(key) = A::from_ip(eip) else {
            return Ok(());
        };
        removed(self.names.eip, self.eips.remove(&key))
    }

    pub(super) fn put_vm(
        &mut self,
        address: IpAddr,
        state: &VmState,
        slot: u32,
    ) -> Result<(), DataPlaneError> {
        let mixed = DataPlaneError::MixedFamilies {
            eip: state.eip,
            vm: address,
        };
        let (Some(key), Some(value)) = (A::from_ip(address), convert::vm::<A>(state, slot)) else {
            return Err(mixed);
        };
        self.vms
            .insert(key, value, 0)
            .map_err(|source| failed(self.names.vm, source))
    }

    /// The VM goes first: after that no program writes a flow of it any more.
    pub(super) fn remove_vm(&mut self, address: IpAddr) -> Result<(), DataPlaneError> {
        let Some(key) = A::from_ip(address) else {
            return Ok(());
        };
        removed(self.names.vm, self.vms.remove(&key))?;
        forget(self.names.flow, &mut self.flows, |flow| flow.vm == key)?;
        forget(self.names.fragment, &mut self.fragments, |fragment| {
            fragment.vm == key
        })
    }

    pub(super) fn put_net(&mut self, net: IpNet, state: NetState) -> Result<(), DataPlaneError> {
        let Some(key) = convert::prefix::<A>(net) else {
            return Ok(());
        };
        let written = self.nets.insert(&key, convert::net_flags(state), 0);
        written.map_err(|source| failed(self.names.nets, source))
    }

    /// How full the maps are that can fill up. Flows come and go meanwhile: their number is rough.
    pub(super) fn fill(&self) -> Result<[MapFill; 4], DataPlaneError> {
        let Names {
            eip,
            vm,
            nets,
            flow,
            fragment: _,
        } = self.names;
        Ok([
            fill(eip, self.eips.map(), self.eips.keys().count())?,
            fill(vm, self.vms.map(), self.vms.keys().count())?,
            fill(nets, self.nets.map(), self.nets.keys().count())?,
            fill(flow, self.flows.map(), self.count_flows()?)?,
        ])
    }

    /// Bounded, because an iteration may begin anew when the entry it stands on is evicted.
    fn count_flows(&self) -> Result<usize, DataPlaneError> {
        let bound = capacity(self.names.flow, self.flows.map())?;
        Ok(self
            .flows
            .keys()
            .take(usize::try_from(bound).unwrap_or(usize::MAX))
            .count())
    }

    pub(super) fn remove_net(&mut self, net: IpNet) -> Result<(), DataPlaneError> {
        let Some(key) = convert::prefix::<A>(net) else {
            return Ok(());
        };
        removed(self.names.nets, self.nets.remove(&key))
    }
}

/// Removes the entries with such keys. Programs write the map meanwhile, and an iteration may begin
/// anew when the entry it stands on is evicted: what was not met within twice the size of the map is
/// left to eviction.
fn forget<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &mut HashMap<MapData, K, V>,
    is_meant: impl Fn(&K) -> bool,
) -> Result<(), DataPlaneError> {
    let bound = capacity(name, map.map())?.saturating_mul(2);
    let keys: Vec<K> = map
        .keys()
        .take(usize::try_from(bound).unwrap_or(usize::MAX))
        .filter_map(Result::ok)
        .filter(is_meant)
        .collect();
    for key in keys {
        removed(name, map.remove(&key))?;
    }
    Ok(())
}

fn capacity(name: &'static str, map: &MapData) -> Result<u32, DataPlaneError> {
    let info = map.info().map_err(|source| failed(name, source))?;
    Ok(info.max_entries())
}

fn fill(name: &'static str, map: &MapData, entries: usize) -> Result<MapFill, DataPlaneError> {
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    Ok(MapFill {
        map: name,
        entries,
        capacity: capacity(name, map)?,
    })
}

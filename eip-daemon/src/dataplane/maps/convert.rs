//! Between the domain types and what stands in the maps. Pure, and total in both directions: bytes a
//! newer version or a hand wrote become a value that differs from what is desired, never a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::lpm_trie::Key;
use eip_common::{
    abi::{
        ABI_VERSION, BINDING_ANSWER_L2, BINDING_PRIMARY, BINDING_SHARES_VM, Binding,
        CONFIG_GATEWAY4, CONFIG_GATEWAY6, Config, Delivery, NET_BYPASS, NET_EIP, Net, VM_MANY_EIPS,
        VM_STACK_LANE, Vm,
    },
    addr::{Ipv4Wire, Ipv6Wire},
};
use ipnet::IpNet;

use crate::model::{BindingState, GatewayState, Lane, NetState, VmState};

/// A map address: four or sixteen bytes in wire order.
pub(crate) trait Wire: aya::Pod {
    /// For everybody else.
    fn to_ip(self) -> IpAddr;
    /// `None` for an address of the other family.
    fn from_ip(address: IpAddr) -> Option<Self>;
}

impl Wire for Ipv4Wire {
    fn to_ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self))
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        }
    }
}

impl Wire for Ipv6Wire {
    fn to_ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self))
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.octets()),
        }
    }
}

/// What the EIP map holds for a binding; `None` when the VM's address is of another family.
pub(crate) fn binding<A: Wire>(state: &BindingState, slot: u32) -> Option<Binding<A>> {
    let primary = if state.is_primary { BINDING_PRIMARY } else { 0 };
    let shares = if state.shares_vm {
        BINDING_SHARES_VM
    } else {
        0
    };
    let answers = if state.answers_l2 {
        BINDING_ANSWER_L2
    } else {
        0
    };
    Some(Binding {
        vm: A::from_ip(state.vm)?,
        port_ifindex: state.port,
        l3_ifindex: state.l3,
        slot,
        generation: state.generation,
        mtu: state.mtu,
        vm_mac: state.vm_mac,
        node_mac: state.node_mac,
        delivery: Delivery::from(state.delivery) as u8,
        flags: primary | shares | answers,
        reserved: [0; 2],
    })
}

/// A binding and its counter slot, read back.
pub(crate) fn binding_state<A: Wire>(value: &Binding<A>) -> (BindingState, u32) {
    let state = BindingState {
        vm: value.vm.to_ip(),
        port: value.port_ifindex,
        l3: value.l3_ifindex,
        mtu: value.mtu,
        vm_mac: value.vm_mac,
        node_mac: value.node_mac,
        delivery: Lane::from(Delivery::from_byte(value.delivery)),
        is_primary: value.flags & BINDING_PRIMARY != 0,
        shares_vm: value.flags & BINDING_SHARES_VM != 0,
        answers_l2: value.flags & BINDING_ANSWER_L2 != 0,
        generation: value.generation,
    };
    (state, value.slot)
}

/// What the VM map holds; `None` when the EIP is of another family.
pub(crate) fn vm<A: Wire>(state: &VmState, slot: u32) -> Option<Vm<A>> {
    let many = if state.has_many { VM_MANY_EIPS } else { 0 };
    let stack = if state.uses_stack { VM_STACK_LANE } else { 0 };
    Some(Vm {
        eip: A::from_ip(state.eip)?,
        port_ifindex: state.port,
        l3_ifindex: state.l3,
        slot,
        flags: many | stack,
    })
}

/// A VM and the counter slot of its primary EIP, read back.
pub(crate) fn vm_state<A: Wire>(value: &Vm<A>) -> (VmState, u32) {
    let state = VmState {
        eip: value.eip.to_ip(),
        port: value.port_ifindex,
        l3: value.l3_ifindex,
        has_many: value.flags & VM_MANY_EIPS != 0,
        uses_stack: value.flags & VM_STACK_LANE != 0,
    };
    (state, value.slot)
}

/// Key of a prefix; `None` for one of the other family.
pub(crate) fn prefix<A: Wire>(net: IpNet) -> Option<Key<A>> {
    Some(Key::new(
        u32::from(net.prefix_len()),
        A::from_ip(net.network())?,
    ))
}

/// A prefix read back; `None` for a length the family does not have.
pub(crate) fn net<A: Wire>(key: &Key<A>) -> Option<IpNet> {
    let length = u8::try_from(key.prefix_len()).ok()?;
    IpNet::new(key.data().to_ip(), length).ok()
}

/// What a prefix map holds.
pub(crate) const fn net_flags(state: NetState) -> Net {
    let bypass = if state.is_bypass { NET_BYPASS } else { 0 };
    let range = if state.is_eip_range { NET_EIP } else { 0 };
    Net {
        flags: bypass | range,
    }
}

/// Flags of a prefix, read back.
pub(crate) const fn net_state(value: Net) -> NetState {
    NetState {
        is_bypass: value.flags & NET_BYPASS != 0,
        is_eip_range: value.flags & NET_EIP != 0,
    }
}

/// What the config map holds.
pub(crate) fn config(state: &GatewayState) -> Config {
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    Config {
        abi_version: ABI_VERSION,
        flags: flag(state.gateway4.is_some(), CONFIG_GATEWAY4)
            | flag(state.gateway6.is_some(), CONFIG_GATEWAY6),
        gateway_ifindex: state.ifindex,
        gateway_mtu: state.mtu,
        gateway4: state.gateway4.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
        gateway6: state.gateway6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets(),
    }
}

/// The config read back; `None` for one that was never written or by another ABI version.
pub(crate) fn gateway(value: &Config) -> Option<GatewayState> {
    if value.abi_version != ABI_VERSION {
        return None;
    }
    let is_set = |flag: u32| value.flags & flag != 0;
    Some(GatewayState {
        gateway4: is_set(CONFIG_GATEWAY4).then(|| value.gateway4.into()),
        gateway6: is_set(CONFIG_GATEWAY6).then(|| value.gateway6.into()),
        ifindex: value.gateway_ifindex,
        mtu: value.gateway_mtu,
    })
}

#[cfg(test)]
mod tests {
    use eip_common::{
        abi::{Binding, Config, Vm},
        addr::{Ipv4Wire, Ipv6Wire},
    };
    use proptest::prelude::*;

    use super::*;

    fn lane() -> impl Strategy<Value = Lane> {
        prop::sample::select(vec![Lane::Stack, Lane::Peer, Lane::Neigh, Lane::Xdp])
    }

    fn binding_of(vm: IpAddr) -> impl Strategy<Value = BindingState> {
        let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
        let macs = (any::<[u8; 6]>(), any::<[u8; 6]>());
        (numbers, macs, lane(), any::<(bool, bool, bool)>()).prop_map(
            move |(
                (port, l3, mtu, generation),
                (vm_mac, node_mac),
                delivery,
                (is_primary, shares_vm, answers_l2),
            )| {
                BindingState {
                    vm,
                    port,
                    l3,
                    mtu,
                    vm_mac,
                    node_mac,
                    delivery,
                    is_primary,
                    shares_vm,
                    answers_l2,
                    generation,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_binding_is_read_back_as_it_was_written(
            state in any::<[u8; 4]>().prop_flat_map(|vm| binding_of(vm.into())),
            slot: u32,
        ) {
            let value = binding::<Ipv4Wire>(&state, slot).unwrap();
            prop_assert_eq!(binding_state(&value), (state.clone(), slot));
            prop_assert_eq!(binding::<Ipv6Wire>(&state, slot), None);
        }

        #[test]
        fn an_ipv6_binding_is_read_back_as_it_was_written(
            state in any::<[u8; 16]>().prop_flat_map(|vm| binding_of(vm.into())),
            slot: u32,
        ) {
            let value = binding::<Ipv6Wire>(&state, slot).unwrap();
            prop_assert_eq!(binding_state(&value), (state.clone(), slot));
            prop_assert_eq!(binding::<Ipv4Wire>(&state, slot), None);
        }

        #[test]
        fn a_vm_is_read_back_as_it_was_written(
            eip: [u8; 4], port: u32, l3: u32, slot: u32, has_many: bool, uses_stack: bool,
        ) {
            let state = VmState { eip: eip.into(), port, l3, has_many, uses_stack };
            let value = vm::<Ipv4Wire>(&state, slot).unwrap();
            prop_assert_eq!(vm_state(&value), (state, slot));
        }

        #[test]
        fn a_prefix_is_read_back_as_it_was_written(address: [u8; 16], length in 0..=128_u8) {
            let wanted = IpNet::new(address.into(), length).unwrap().trunc();
            prop_assert_eq!(net(&prefix::<Ipv6Wire>(wanted).unwrap()), Some(wanted));
            prop_assert!(prefix::<Ipv4Wire>(wanted).is_none());
        }

        #[test]
        fn whatever_stands_in_a_map_can_be_read(
            bytes: [u8; 6], number: u32, delivery: u8, flags: u8, word: u32,
        ) {
            let value = Binding {
                vm: [0_u8; 4],
                port_ifindex: number,
                l3_ifindex: number,
                slot: number,
                generation: number,
                mtu: number,
                vm_mac: bytes,
                node_mac: bytes,
                delivery,
                flags,
                reserved: [delivery; 2],
            };
            let _state = binding_state(&value);
            let vm = Vm {
                eip: [0_u8; 16],
                port_ifindex: number,
                l3_ifindex: number,
                slot: number,
                flags: word,
            };
            let _state = vm_state(&vm);
            let _net = net(&Key::new(word, [1_u8; 4]));
            let _state = net_state(Net { flags: word });
        }
    }

    #[test]
    fn every_set_of_gateways_is_read_back_as_it_was_written() {
        for gateway4 in [None, Some(Ipv4Addr::new(192, 0, 2, 1))] {
            for gateway6 in [None, Some(Ipv6Addr::LOCALHOST)] {
                let state = GatewayState {
                    gateway4,
                    gateway6,
                    ifindex: 3,
                    mtu: 1500,
                };
                assert_eq!(gateway(&config(&state)), Some(state));
            }
        }
    }

    #[test]
    fn every_prefix_flag_is_read_back_as_it_was_written() {
        for is_bypass in [false, true] {
            for is_eip_range in [false, true] {
                let state = NetState {
                    is_bypass,
                    is_eip_range,
                };
                assert_eq!(net_state(net_flags(state)), state);
            }
        }
    }

    #[test]
    fn a_config_of_another_abi_version_counts_as_never_written() {
        let mut value: Config = config(&GatewayState::default());
        value.abi_version = ABI_VERSION + 1;
        assert_eq!(gateway(&value), None);
        value.abi_version = 0;
        assert_eq!(gateway(&value), None);
    }
}

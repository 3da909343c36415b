//! One copy of the programs with maps of its own.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, time::Duration};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, HashMap, LpmTrie, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf,
        lpm_trie::Key,
    },
    programs::{Program, SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp},
    util::nr_cpus,
};
use eip_common::{
    abi::{
        ABI_VERSION, BINDING_PRIMARY, BINDING_SHARES_VM, Binding, CONFIG_GATEWAY4, CONFIG_GATEWAY6,
        Config, Delivery, EipReasonKey, FlowKey, Lease, NET_BYPASS, NET_EIP, Net, Quota, Sample,
        Traffic, Uplink, VM_MANY_EIPS, VM_STACK_LANE, Vm, Watch, map, program,
    },
    reason::{Hook, Reason, counter_index},
};

use nix::time::{ClockId, clock_gettime};

use crate::{packet::ip, packet6::ip6};

/// The interface a test packet is on: loopback of the test's own namespace.
pub const PORT: u32 = 1;
/// Any other interface.
pub const OTHER_PORT: u32 = 77;
/// MAC of the VM in every binding here.
pub const VM_MAC: [u8; 6] = [0x0a, 0, 0, 0, 0, 0xaa];
/// MAC of the node's side in every binding here.
pub const DOOR_MAC: [u8; 6] = [0x0a, 0, 0, 0, 0, 0xbb];

/// MAC of every uplink here.
pub const UPLINK_MAC: [u8; 6] = [0x0a, 0, 0, 0, 0, 0xcc];

/// What a program decided, in the words of both program types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// On to the kernel (and other programs before it).
    Pass,
    /// Dropped.
    Drop,
    /// Redirected, or sent back.
    Redirect,
}

/// What became of one packet.
#[derive(Debug)]
pub struct Run {
    /// The decision.
    pub action: Action,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Counters that moved: hook, reason and by how much.
    pub moved: BTreeMap<(Hook, Reason), u64>,
    /// Per-binding counters that moved: slot, hook, reason and by how much.
    pub moved_for: BTreeMap<(u32, Hook, Reason), u64>,
    /// Traffic counters that moved: slot and difference.
    pub traffic: BTreeMap<u32, Traffic>,
    hook: Hook,
}

impl Run {
    /// Asserts that the packet ended exactly for `reason`, and that no other counter moved.
    #[track_caller]
    pub fn ended(&self, reason: Reason) -> &Self {
        let expected = BTreeMap::from([((self.hook, reason), 1)]);
        assert_eq!(self.moved, expected, "reasons counted");
        let expected: BTreeMap<_, _> = self
            .moved_for
            .iter()
            .filter(|((_, _, counted), _)| *counted == reason)
            .collect();
        assert_eq!(
            expected.len(),
            self.moved_for.len(),
            "reasons counted for the binding"
        );
        self
    }

    /// Asserts the decision.
    #[track_caller]
    pub fn with(&self, action: Action) -> &Self {
        assert_eq!(self.action, action, "action");
        self
    }

    /// Asserts the packet that came out.
    #[track_caller]
    pub fn leaving(&self, packet: &[u8]) -> &Self {
        assert!(
            self.packet == packet,
            "packet differs\n got: {}\nwant: {}",
            hex(&self.packet),
            hex(packet)
        );
        self
    }

    /// Asserts the traffic counted: slot, packets in, packets out. Bytes are those of the IP packet.
    #[track_caller]
    pub fn carried(&self, expected: &[(u32, u64, u64)]) -> &Self {
        let got: Vec<_> = self
            .traffic
            .iter()
            .map(|(slot, traffic)| (*slot, traffic.in_packets, traffic.out_packets))
            .collect();
        assert_eq!(got, expected, "traffic counted");
        self
    }
}

/// Bytes for a failure message.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The programs, their maps, and what they counted so far.
pub struct World {
    ebpf: Ebpf,
    reasons: BTreeMap<(Hook, Reason), u64>,
    binding_reasons: BTreeMap<(u32, Hook, Reason), u64>,
    traffic: BTreeMap<u32, Traffic>,
    slots: u32,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Programs with empty maps.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_bindings(64)
    }

    /// Programs with room for that many bindings.
    #[must_use]
    pub fn with_max_bindings(max: u32) -> Self {
        let mut loader = EbpfLoader::new();
        for name in [
            map::EIP4,
            map::EIP6,
            map::VM4,
            map::VM6,
            map::TRAFFIC,
            map::LEASES,
        ] {
            loader.map_max_entries(name, max);
        }
        loader
            .map_max_entries(map::FLOW4, 1024)
            .map_max_entries(map::FLOW6, 1024);
        let mut ebpf = loader
            .load(eip_daemon::EBPF_OBJECT)
            .expect("the object loads");
        for name in program::ALL {
            let program = ebpf.program_mut(name).expect("the object has the program");
            if name == program::UPLINK_XDP {
                let program: &mut Xdp = program.try_into().expect("an XDP program");
                program.load().expect("the verifier accepts it");
            } else {
                let program: &mut SchedClassifier = program.try_into().expect("a tc program");
                program.load().expect("the verifier accepts it");
            }
        }
        let mut world = Self {
            ebpf,
            reasons: BTreeMap::new(),
            binding_reasons: BTreeMap::new(),
            traffic: BTreeMap::new(),
            slots: 0,
        };
        world.put_config(Config {
            abi_version: ABI_VERSION,
            flags: 0,
            gateway_ifindex: 0,
            gateway_mtu: 0,
            gateway4: [0; 4],
            gateway6: [0; 16],
        });
        world
    }

    /// A node as most tests want it: pods 10.244.0.0/16 in bypass, EIPs from 203.0.113.0/24, a
    /// gateway.
    #[must_use]
    pub fn node() -> Self {
        let mut world = Self::new();
        world.net("10.244.0.0/16", NET_BYPASS);
        world.net("203.0.113.0/24", NET_EIP);
        world.gateway("192.0.2.1", 1500);
        world
    }

    /// The same node with both families: pods `fd00:10:244::/48`, EIPs from `2001:db8:e::/64`.
    #[must_use]
    pub fn dual_stack_node() -> Self {
        let mut world = Self::node();
        world.net("fd00:10:244::/48", NET_BYPASS);
        world.net("2001:db8:e::/64", NET_EIP);
        world.put_config(Config {
            abi_version: ABI_VERSION,
            flags: CONFIG_GATEWAY4 | CONFIG_GATEWAY6,
            gateway_ifindex: OTHER_PORT,
            gateway_mtu: 1500,
            gateway4: ip("192.0.2.1"),
            gateway6: ip6("2001:db8:f::1"),
        });
        world
    }

    /// Writes a prefix.
    pub fn net(&mut self, prefix: &str, flags: u32) {
        let (address, len) = prefix.split_once('/').expect("a prefix");
        let len = len.parse().expect("a length");
        match address.parse().expect("an address") {
            IpAddr::V4(address) => self.put_net(map::NETS4, len, address.octets(), flags),
            IpAddr::V6(address) => self.put_net(map::NETS6, len, address.octets(), flags),
        }
    }

    fn put_net<A: Pod>(&mut self, name: &str, len: u32, address: A, flags: u32) {
        let map = self.ebpf.map_mut(name).expect("map");
        let mut map: LpmTrie<&mut MapData, A, Net> = map.try_into().expect("a trie");
        map.insert(&Key::new(len, address), Net { flags }, 0)
            .expect("room for a prefix");
    }

    /// Sets the gateway, on an uplink with this MTU.
    pub fn gateway(&mut self, address: &str, mtu: u32) {
        self.put_config(Config {
            abi_version: ABI_VERSION,
            flags: CONFIG_GATEWAY4,
            gateway_ifindex: OTHER_PORT,
            gateway_mtu: mtu,
            gateway4: ip(address),
            gateway6: [0; 16],
        });
    }

    /// Sets a gateway of each family, on an uplink with this MTU.
    pub fn gateways(&mut self, address4: &str, address6: [u8; 16], mtu: u32) {
        self.put_config(Config {
            abi_version: ABI_VERSION,
            flags: CONFIG_GATEWAY4 | CONFIG_GATEWAY6,
            gateway_ifindex: OTHER_PORT,
            gateway_mtu: mtu,
            gateway4: ip(address4),
            gateway6: address6,
        });
    }

    /// No gateway: routes decide.
    pub fn without_gateway(&mut self) {
        self.put_config(Config {
            abi_version: ABI_VERSION,
            flags: 0,
            gateway_ifindex: 0,
            gateway_mtu: 0,
            gateway4: [0; 4],
            gateway6: [0; 16],
        });
    }

    /// Makes an interface an uplink.
    pub fn uplink(&mut self, ifindex: u32, mtu: u32) {
        self.uplink_with(ifindex, mtu, 0);
    }

    /// Makes an interface an uplink with these flags.
    pub fn uplink_with(&mut self, ifindex: u32, mtu: u32, flags: u8) {
        let map = self.ebpf.map_mut(map::UPLINKS).expect("map");
        let mut map: HashMap<&mut MapData, u32, Uplink> = map.try_into().expect("a hash map");
        let uplink = Uplink {
            mtu,
            mac: UPLINK_MAC,
            flags,
            reserved: 0,
        };
        map.insert(ifindex, uplink, 0).expect("room");
        self.station(UPLINK_MAC);
    }

    /// A hardware address of an uplink of this node, not necessarily of the one the test looks at.
    pub fn station(&mut self, mac: [u8; 6]) {
        let map = self.ebpf.map_mut(map::STATIONS).expect("map");
        let mut map: HashMap<&mut MapData, [u8; 6], u32> = map.try_into().expect("a hash map");
        map.insert(mac, 1, 0).expect("room");
    }

    /// Lets the lease of a binding end at this time of `CLOCK_BOOTTIME`, in nanoseconds.
    pub fn lease(&mut self, slot: u32, until: u64) {
        let map = self.ebpf.map_mut(map::LEASES).expect("map");
        let mut map: Array<&mut MapData, Lease> = map.try_into().expect("an array");
        map.set(slot, Lease { until }, 0).expect("a slot");
    }

    fn put_config(&mut self, config: Config) {
        let map = self.ebpf.map_mut(map::CONFIG).expect("map");
        let mut map: Array<&mut MapData, Config> = map.try_into().expect("an array");
        map.set(0, config, 0).expect("room");
    }

    /// Binds an EIP to a VM behind [`PORT`], as the VM's primary one. Gives the counter slot.
    pub fn bind(&mut self, eip: &str, vm: &str, delivery: Delivery) -> u32 {
        self.bind_at(eip, vm, delivery, PORT)
    }

    /// As [`Self::bind`], behind another port.
    pub fn bind_at(&mut self, eip: &str, vm: &str, delivery: Delivery, port: u32) -> u32 {
        match (parsed(eip), parsed(vm)) {
            (IpAddr::V4(eip), IpAddr::V4(vm)) => {
                self.bind_addresses(eip.octets(), vm.octets(), delivery, port)
            }
            (IpAddr::V6(eip), IpAddr::V6(vm)) => {
                self.bind_addresses(eip.octets(), vm.octets(), delivery, port)
            }
            (eip, vm) => panic!("{eip} and {vm} are of two families"),
        }
    }

    fn bind_addresses<A: Wire>(&mut self, eip: A, vm: A, delivery: Delivery, port: u32) -> u32 {
        let slot = self.slots;
        self.slots += 1;
        self.put(
            A::EIPS,
            eip,
            binding(vm, delivery, port, slot, BINDING_PRIMARY),
        );
        let flags = if delivery == Delivery::Stack {
            VM_STACK_LANE
        } else {
            0
        };
        let value = Vm {
            eip,
            port_ifindex: port,
            l3_ifindex: port,
            slot,
            flags,
        };
        self.put(A::VMS, vm, value);
        slot
    }

    /// Adds a second EIP to a VM that has one. Gives the counter slot of the second.
    pub fn bind_second(&mut self, first: &str, second: &str, vm: &str, delivery: Delivery) -> u32 {
        match (parsed(first), parsed(second), parsed(vm)) {
            (IpAddr::V4(first), IpAddr::V4(second), IpAddr::V4(vm)) => {
                self.share(first.octets(), second.octets(), vm.octets(), delivery)
            }
            (IpAddr::V6(first), IpAddr::V6(second), IpAddr::V6(vm)) => {
                self.share(first.octets(), second.octets(), vm.octets(), delivery)
            }
            (first, second, vm) => panic!("{first}, {second} and {vm} are of two families"),
        }
    }

    fn share<A: Wire>(&mut self, first: A, second: A, vm: A, delivery: Delivery) -> u32 {
        let slot = self.slots;
        self.slots += 1;
        let shared = binding(vm, delivery, PORT, slot, BINDING_SHARES_VM);
        self.put(A::EIPS, second, shared);
        let flags = BINDING_PRIMARY | BINDING_SHARES_VM;
        let primary = binding(vm, delivery, PORT, slot - 1, flags);
        self.put(A::EIPS, first, primary);
        let value = Vm {
            eip: first,
            port_ifindex: PORT,
            l3_ifindex: PORT,
            slot: slot - 1,
            flags: VM_MANY_EIPS,
        };
        self.put(A::VMS, vm, value);
        slot
    }

    /// Writes an EIP as it stands.
    pub fn put_binding(&mut self, eip: &str, value: Binding<[u8; 4]>) {
        self.put(map::EIP4, ip(eip), value);
    }

    /// Writes an IPv6 EIP as it stands.
    pub fn put_binding6(&mut self, eip: [u8; 16], value: Binding<[u8; 16]>) {
        let map = self.ebpf.map_mut(map::EIP6).expect("map");
        let mut map: HashMap<&mut MapData, [u8; 16], Binding<[u8; 16]>> =
            map.try_into().expect("a hash map");
        map.insert(eip, value, 0).expect("room for a binding");
    }

    /// Writes a VM as it stands.
    pub fn put_vm(&mut self, vm: &str, value: Vm<[u8; 4]>) {
        self.put(map::VM4, ip(vm), value);
    }

    /// Writes a VM with IPv6 as it stands.
    pub fn put_vm6(&mut self, vm: [u8; 16], value: Vm<[u8; 16]>) {
        self.put(map::VM6, vm, value);
    }

    fn put<K: Pod, V: Pod>(&mut self, name: &str, key: K, value: V) {
        let map = self.ebpf.map_mut(name).expect("map");
        let mut map: HashMap<&mut MapData, K, V> = map.try_into().expect("a hash map");
        map.insert(key, value, 0).expect("room for an entry");
    }

    /// The EIP remembered for a conversation.
    #[must_use]
    pub fn flow<A: Wire>(&self, key: &FlowKey<A>) -> Option<A>
    where
        FlowKey<A>: Pod,
    {
        let map = self.ebpf.map(A::FLOWS).expect("map");
        let map: HashMap<&MapData, FlowKey<A>, A> = map.try_into().expect("a map");
        map.get(key, 0).ok()
    }

    /// Sends a packet through a hook.
    pub fn send(&mut self, hook: Hook, packet: &[u8]) -> Run {
        self.send_with(hook, packet, &[])
    }

    /// Sends a super-packet: `segment` payload bytes per segment.
    pub fn send_segmented(&mut self, hook: Hook, packet: &[u8], segment: u32) -> Run {
        // __sk_buff: gso_segs stands at byte 164, gso_size at byte 176.
        let mut context = [0; 192];
        context[164..168].copy_from_slice(&2_u32.to_ne_bytes());
        context[176..180].copy_from_slice(&segment.to_ne_bytes());
        self.send_with(hook, packet, &context)
    }

    fn send_with(&mut self, hook: Hook, packet: &[u8], context: &[u8]) -> Run {
        let mut out = vec![0; packet.len() + 256];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: if context.is_empty() {
                None
            } else {
                Some(context)
            },
            ..TestRunOptions::new()
        };
        let result = self.test_run(hook, options);
        out.truncate(result.data_size_out as usize);
        let action = match (hook, result.return_value) {
            (Hook::UplinkXdp, 2) | (_, u32::MAX | 0) => Action::Pass,
            (Hook::UplinkXdp, 1) | (_, 2) => Action::Drop,
            (Hook::UplinkXdp, 3 | 4) | (_, 7) => Action::Redirect,
            (hook, code) => panic!("{} returned {code}", hook.name()),
        };
        let moved = self.moved();
        let moved_for = self.moved_for();
        let traffic = self.moved_traffic();
        Run {
            action,
            packet: out,
            moved,
            moved_for,
            traffic,
            hook,
        }
    }

    /// As if every CPU had told that many senders in this second that their packet is too large.
    pub fn answered_before(&mut self, answers: u32) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
        let nanoseconds = Duration::from(now).as_nanos();
        let quota = Quota {
            window: u64::try_from(nanoseconds >> 30).expect("a small number"),
            lost: 0,
            taken: 0,
            answers,
        };
        let map = self.ebpf.map_mut(map::QUOTA).expect("map");
        let mut map: PerCpuArray<&mut MapData, Quota> = map.try_into().expect("an array");
        let cpus = nr_cpus().expect("the CPUs of the machine");
        let values = PerCpuValues::try_from(vec![quota; cpus]).expect("a value for each");
        map.set(0, values, 0).expect("room");
    }

    /// Has the programs write samples.
    pub fn watch(&mut self, watch: Watch) {
        let map = self.ebpf.map_mut(map::WATCH).expect("map");
        let mut map: Array<&mut MapData, Watch> = map.try_into().expect("an array");
        map.set(0, watch, 0).expect("room");
    }

    /// The samples written since the last look.
    pub fn samples(&mut self) -> Vec<Sample> {
        let map = self.ebpf.map_mut(map::SAMPLES).expect("map");
        let mut ring: RingBuf<&mut MapData> = map.try_into().expect("a ring buffer");
        std::iter::from_fn(|| {
            let item = ring.next()?;
            Some(Sample::from_bytes(&item).expect("a sample"))
        })
        .collect()
    }

    /// Samples that were not written.
    #[must_use]
    pub fn lost_samples(&self) -> u64 {
        let map = self.ebpf.map(map::QUOTA).expect("map");
        let map: PerCpuArray<&MapData, Quota> = map.try_into().expect("an array");
        let quotas = map.get(&0, 0).expect("a quota");
        quotas.iter().map(|quota| quota.lost).sum()
    }

    /// Packets that ended for a reason since the programs were loaded.
    #[must_use]
    pub fn total(&self, hook: Hook, reason: Reason) -> u64 {
        let map = self.ebpf.map(map::REASONS).expect("map");
        let map: PerCpuArray<&MapData, u64> = map.try_into().expect("an array");
        map.get(&counter_index(hook, reason), 0)
            .expect("a counter")
            .iter()
            .sum()
    }

    /// Runs a program with the caller's own options; gives the nanoseconds per run.
    pub fn timed_run(&self, hook: Hook, options: TestRunOptions<'_>) -> u64 {
        u64::try_from(self.test_run(hook, options).duration.as_nanos()).expect("a short run")
    }

    /// How many instructions the verifier has followed in each program.
    #[must_use]
    pub fn verified(&self) -> BTreeMap<&'static str, u32> {
        let count = |name: &'static str| {
            let info = match self.ebpf.program(name).expect("program") {
                Program::Xdp(program) => program.info(),
                Program::SchedClassifier(program) => program.info(),
                _ => panic!("{name} is of another kind"),
            };
            let info = info.expect("the kernel describes it");
            (
                name,
                info.verified_instruction_count().expect("kernel 5.16"),
            )
        };
        program::ALL.into_iter().map(count).collect()
    }

    fn test_run(&self, hook: Hook, options: TestRunOptions<'_>) -> TestRunResult {
        let name = match hook {
            Hook::UplinkXdp => program::UPLINK_XDP,
            Hook::UplinkTc => program::UPLINK_TC,
            Hook::DoorIn => program::DOOR_IN,
            Hook::DoorOut => program::DOOR_OUT,
        };
        let program = self.ebpf.program(name).expect("program");
        let result = if hook == Hook::UplinkXdp {
            let program: &Xdp = program.try_into().expect("an XDP program");
            program.test_run(options)
        } else {
            let program: &SchedClassifier = program.try_into().expect("a tc program");
            program.test_run(options)
        };
        result.expect("the kernel runs the program")
    }

    fn moved(&mut self) -> BTreeMap<(Hook, Reason), u64> {
        let map = self.ebpf.map(map::REASONS).expect("map");
        let map: PerCpuArray<&MapData, u64> = map.try_into().expect("an array");
        let mut now = BTreeMap::new();
        for hook in Hook::ALL {
            for reason in Reason::ALL {
                let counts = map.get(&counter_index(hook, reason), 0).expect("a counter");
                now.insert((hook, reason), counts.iter().sum());
            }
        }
        difference(&mut self.reasons, now)
    }

    fn moved_for(&mut self) -> BTreeMap<(u32, Hook, Reason), u64> {
        let map = self.ebpf.map(map::EIP_REASONS).expect("map");
        let map: PerCpuHashMap<&MapData, EipReasonKey, u64> = map.try_into().expect("a map");
        let now = map
            .iter()
            .map(|entry| {
                let (key, counts) = entry.expect("an entry");
                let hook = Hook::from_byte(key.hook).expect("a hook");
                let reason = Reason::from_byte(key.reason).expect("a reason");
                ((key.slot, hook, reason), counts.iter().sum())
            })
            .collect();
        difference(&mut self.binding_reasons, now)
    }

    fn moved_traffic(&mut self) -> BTreeMap<u32, Traffic> {
        let map = self.ebpf.map(map::TRAFFIC).expect("map");
        let map: PerCpuArray<&MapData, Traffic> = map.try_into().expect("an array");
        let mut moved = BTreeMap::new();
        for slot in 0..self.slots {
            let mut now = Traffic::default();
            for cpu in map.get(&slot, 0).expect("a slot").iter() {
                now.in_packets += cpu.in_packets;
                now.in_bytes += cpu.in_bytes;
                now.out_packets += cpu.out_packets;
                now.out_bytes += cpu.out_bytes;
            }
            let before = self.traffic.insert(slot, now).unwrap_or_default();
            if now != before {
                let difference = Traffic {
                    in_packets: now.in_packets - before.in_packets,
                    in_bytes: now.in_bytes - before.in_bytes,
                    out_packets: now.out_packets - before.out_packets,
                    out_bytes: now.out_bytes - before.out_bytes,
                };
                moved.insert(slot, difference);
            }
        }
        moved
    }
}

fn difference<K: Ord + Copy>(
    before: &mut BTreeMap<K, u64>,
    now: BTreeMap<K, u64>,
) -> BTreeMap<K, u64> {
    let moved = now
        .iter()
        .map(|(key, count)| (*key, count - before.get(key).copied().unwrap_or(0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    *before = now;
    moved
}

/// An address as the maps hold it.
pub trait Wire: Pod {
    /// Map of its EIPs.
    const EIPS: &str;
    /// Map of its VMs.
    const VMS: &str;
    /// Map of its flows.
    const FLOWS: &str;
}

impl Wire for [u8; 4] {
    const EIPS: &str = map::EIP4;
    const VMS: &str = map::VM4;
    const FLOWS: &str = map::FLOW4;
}

impl Wire for [u8; 16] {
    const EIPS: &str = map::EIP6;
    const VMS: &str = map::VM6;
    const FLOWS: &str = map::FLOW6;
}

fn parsed(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A binding with the MACs and MTU of these tests.
#[must_use]
pub fn binding<A>(vm: A, delivery: Delivery, port: u32, slot: u32, flags: u8) -> Binding<A> {
    Binding {
        vm,
        port_ifindex: port,
        l3_ifindex: port,
        slot,
        generation: 1,
        mtu: 1400,
        vm_mac: VM_MAC,
        node_mac: DOOR_MAC,
        delivery: delivery as u8,
        flags,
        reserved: [0; 2],
    }
}

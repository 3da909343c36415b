//! The pinned maps and typed access to them.
//!
//! Values are copied out at lookup: the daemon replaces entries while packets flow, and a copy is
//! read once and then consistent with itself. The programs write flows, fragments and counters;
//! everything else only the daemon writes.

use core::mem::MaybeUninit;

use aya_ebpf::{
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap, PerCpuArray, RingBuf, lpm_trie::Key,
    },
    macros::btf_map,
};
use eip_common::{
    abi::{
        Binding, CONFIG_GATEWAY4, CONFIG_GATEWAY6, Config, DEFAULT_MAX_BINDINGS, DEFAULT_MAX_FLOWS,
        EipReasonKey, FlowKey, FragmentKey, Lease, MAX_ANSWERS, MAX_EIP_REASONS, MAX_FRAGMENTS,
        MAX_NETS, MAX_UPLINKS, Net, Quota, SAMPLES_BYTES, Sample, Traffic, UPLINK_SENDS_XDP,
        Uplink, Vm, Watch,
    },
    addr::{Ipv4Wire, Ipv6Wire, Mac},
    neighbour::is_station,
    reason::{COUNTERS, Hook, Reason, counter_index},
};

use crate::packet::{NextHop, NextHopAddress, boot_time};

const BINDINGS: usize = DEFAULT_MAX_BINDINGS as usize;
const FLOWS: usize = DEFAULT_MAX_FLOWS as usize;
const FRAGMENTS: usize = MAX_FRAGMENTS as usize;
const NETS: usize = MAX_NETS as usize;

#[btf_map]
static EIP4_V1: HashMap<Ipv4Wire, Binding<Ipv4Wire>, BINDINGS> = HashMap::new();
#[btf_map]
static EIP6_V1: HashMap<Ipv6Wire, Binding<Ipv6Wire>, BINDINGS> = HashMap::new();
#[btf_map]
static VM4_V1: HashMap<Ipv4Wire, Vm<Ipv4Wire>, BINDINGS> = HashMap::new();
#[btf_map]
static VM6_V1: HashMap<Ipv6Wire, Vm<Ipv6Wire>, BINDINGS> = HashMap::new();
#[btf_map]
static NETS4_V1: LpmTrie<Ipv4Wire, Net, NETS> = LpmTrie::new();
#[btf_map]
static NETS6_V1: LpmTrie<Ipv6Wire, Net, NETS> = LpmTrie::new();
#[btf_map]
static FLOW4_V1: LruHashMap<FlowKey<Ipv4Wire>, Ipv4Wire, FLOWS> = LruHashMap::new();
#[btf_map]
static FLOW6_V1: LruHashMap<FlowKey<Ipv6Wire>, Ipv6Wire, FLOWS> = LruHashMap::new();
#[btf_map]
static FRAG4_V1: LruHashMap<FragmentKey<Ipv4Wire>, Ipv4Wire, FRAGMENTS> = LruHashMap::new();
#[btf_map]
static FRAG6_V1: LruHashMap<FragmentKey<Ipv6Wire>, Ipv6Wire, FRAGMENTS> = LruHashMap::new();
#[btf_map]
static UPLINKS_V1: HashMap<u32, Uplink, { MAX_UPLINKS as usize }> = HashMap::new();
#[btf_map]
static STATIONS_V1: HashMap<Mac, u32, { MAX_UPLINKS as usize }> = HashMap::new();
#[btf_map]
static CONFIG_V1: Array<Config, 1> = Array::new();
#[btf_map]
static TRAFFIC_V1: PerCpuArray<Traffic, BINDINGS> = PerCpuArray::new();
#[btf_map]
static LEASES_V1: Array<Lease, BINDINGS> = Array::new();
#[btf_map]
static REASONS_V1: PerCpuArray<u64, { COUNTERS as usize }> = PerCpuArray::new();
#[btf_map]
static EIP_REASONS_V1: LruPerCpuHashMap<EipReasonKey, u64, { MAX_EIP_REASONS as usize }> =
    LruPerCpuHashMap::new();
#[btf_map]
static WATCH_V1: Array<Watch, 1> = Array::new();
#[btf_map]
static SAMPLES_V1: RingBuf<Sample, { SAMPLES_BYTES as usize }> = RingBuf::new();
#[btf_map]
static QUOTA_V1: PerCpuArray<Quota, 1> = PerCpuArray::new();

/// Next hop of everything that leaves, when the operator named one.
pub(crate) struct Gateway<A> {
    /// Where.
    pub(crate) hop: NextHop<A>,
    /// MTU of that interface.
    pub(crate) mtu: u32,
}

/// The little of a binding that answering for it takes: the stack has no room for all of it.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    /// Its counter slot.
    pub(crate) slot: u32,
    /// [`Binding::flags`].
    pub(crate) flags: u8,
}

/// An address family: which maps its addresses live in.
pub(crate) trait Address: NextHopAddress + Eq {
    /// The binding of an EIP.
    fn binding(eip: Self) -> Option<Binding<Self>>;
    /// What of a binding says who answers for its EIP.
    fn owner(eip: Self) -> Option<Owner>;
    /// Slot of a binding, and the largest packet that the link of its VM takes.
    fn link(eip: Self) -> Option<(u32, u32)>;
    /// The bound VM with this address.
    fn vm(address: Self) -> Option<Vm<Self>>;
    /// Flags of the longest prefix around an address; zero without one.
    fn net(address: Self) -> u32;
    /// The EIP a conversation belongs to.
    fn flow(key: &FlowKey<Self>) -> Option<Self>;
    /// Remembers it. A full map evicts the oldest.
    fn remember_flow(key: &FlowKey<Self>, eip: Self);
    /// Forgets it.
    fn forget_flow(key: &FlowKey<Self>);
    /// The EIP a fragmented datagram belongs to.
    fn fragment(key: &FragmentKey<Self>) -> Option<Self>;
    /// Remembers it. A full map evicts the oldest.
    fn remember_fragment(key: &FragmentKey<Self>, eip: Self);
    /// The configured gateway.
    fn gateway() -> Option<Gateway<Self>>;
    /// Never routed off the link.
    fn stays_on_link(self) -> bool;
}

macro_rules! address_family {
    ($address:ty, $bits:literal, $eip:ident, $vm:ident, $nets:ident, $flow:ident, $fragment:ident,
     $gateway_flag:ident, $gateway:ident, $stays_on_link:path, $inline:ident) => {
        impl Address for $address {
            #[inline(always)]
            fn binding(eip: Self) -> Option<Binding<Self>> {
                // SAFETY: no program writes this map; the value is copied at once.
                unsafe { $eip.get(eip) }.copied()
            }

            #[inline(always)]
            fn owner(eip: Self) -> Option<Owner> {
                // SAFETY: no program writes this map; the fields are copied at once.
                unsafe { $eip.get(eip) }.map(|binding| Owner {
                    slot: binding.slot,
                    flags: binding.flags,
                })
            }

            #[inline(always)]
            fn link(eip: Self) -> Option<(u32, u32)> {
                // SAFETY: no program writes this map; the fields are copied at once.
                unsafe { $eip.get(eip) }.map(|binding| (binding.slot, binding.mtu))
            }

            #[inline(always)]
            fn vm(address: Self) -> Option<Vm<Self>> {
                // SAFETY: no program writes this map; the value is copied at once.
                unsafe { $vm.get(address) }.copied()
            }

            #[inline($inline)]
            fn net(address: Self) -> u32 {
                $nets
                    .get(&Key::new($bits, address))
                    .map_or(0, |net| net.flags)
            }

            #[inline(always)]
            fn flow(key: &FlowKey<Self>) -> Option<Self> {
                // SAFETY: the value is copied at once, before anything is written.
                unsafe { $flow.get(key) }.copied()
            }

            #[inline(always)]
            fn remember_flow(key: &FlowKey<Self>, eip: Self) {
                // The map evicts when full; what fails here costs one reply its EIP, no more.
                let _ = $flow.insert(key, eip, 0);
            }

            #[inline(always)]
            fn forget_flow(key: &FlowKey<Self>) {
                // Gone already is as good.
                let _ = $flow.remove(key);
            }

            #[inline(always)]
            fn fragment(key: &FragmentKey<Self>) -> Option<Self> {
                // SAFETY: the value is copied at once, before anything is written.
                unsafe { $fragment.get(key) }.copied()
            }

            #[inline(always)]
            fn remember_fragment(key: &FragmentKey<Self>, eip: Self) {
                // As with flows.
                let _ = $fragment.insert(key, eip, 0);
            }

            #[inline(always)]
            fn gateway() -> Option<Gateway<Self>> {
                let config = CONFIG_V1.get(0)?;
                if config.flags & $gateway_flag == 0 {
                    return None;
                }
                Some(Gateway {
                    hop: NextHop {
                        ifindex: config.gateway_ifindex,
                        address: config.$gateway,
                    },
                    mtu: config.gateway_mtu,
                })
            }

            #[inline(always)]
            fn stays_on_link(self) -> bool {
                $stays_on_link(self)
            }
        }
    };
}

address_family!(
    Ipv4Wire,
    32,
    EIP4_V1,
    VM4_V1,
    NETS4_V1,
    FLOW4_V1,
    FRAG4_V1,
    CONFIG_GATEWAY4,
    gateway4,
    eip_common::parse::ipv4_stays_on_link,
    always
);
address_family!(
    Ipv6Wire,
    128,
    EIP6_V1,
    VM6_V1,
    NETS6_V1,
    FLOW6_V1,
    FRAG6_V1,
    CONFIG_GATEWAY6,
    gateway6,
    eip_common::parse::ipv6_stays_on_link,
    never
);

/// The agent has not renewed the binding with this slot in time. A lease without end costs no look at
/// the clock.
#[inline(always)]
pub(crate) fn is_fenced(slot: u32) -> bool {
    match LEASES_V1.get(slot) {
        Some(Lease { until: 0 }) | None => false,
        Some(Lease { until }) => boot_time() >= *until,
    }
}

/// MTU of an uplink; `None` for an interface that is none.
#[inline(always)]
pub(crate) fn uplink_mtu(ifindex: u32) -> Option<u32> {
    // SAFETY: no program writes this map; the value is copied at once.
    unsafe { UPLINKS_V1.get(ifindex) }.map(|uplink| uplink.mtu)
}

/// Hardware address of an uplink; `None` for an interface that is none or has no such address.
#[inline(always)]
pub(crate) fn uplink_mac(ifindex: u32) -> Option<Mac> {
    // SAFETY: no program writes this map; the value is copied at once.
    let mac = unsafe { UPLINKS_V1.get(ifindex) }.map(|uplink| uplink.mac)?;
    is_station(mac).then_some(mac)
}

/// The hardware address of one of the node's uplinks.
#[inline(always)]
pub(crate) fn is_own(mac: Mac) -> bool {
    // SAFETY: no program writes this map; nothing of the value is used.
    unsafe { STATIONS_V1.get(mac) }.is_some()
}

/// What XDP sends back out of an uplink leaves it.
#[inline(always)]
pub(crate) fn sends_xdp(ifindex: u32) -> bool {
    // SAFETY: no program writes this map; the value is copied at once.
    unsafe { UPLINKS_V1.get(ifindex) }.is_some_and(|uplink| uplink.flags & UPLINK_SENDS_XDP != 0)
}

/// Counts a packet delivered to a VM.
#[inline(always)]
pub(crate) fn count_in(slot: u32, bytes: u32) {
    if let Some(traffic) = TRAFFIC_V1.get_ptr_mut(slot) {
        // SAFETY: a per-CPU value; nobody else writes it during this run.
        let traffic = unsafe { &mut *traffic };
        traffic.in_packets += 1;
        traffic.in_bytes += u64::from(bytes);
    }
}

/// Counts a packet sent by a VM.
#[inline(always)]
pub(crate) fn count_out(slot: u32, bytes: u32) {
    if let Some(traffic) = TRAFFIC_V1.get_ptr_mut(slot) {
        // SAFETY: a per-CPU value; nobody else writes it during this run.
        let traffic = unsafe { &mut *traffic };
        traffic.out_packets += 1;
        traffic.out_bytes += u64::from(bytes);
    }
}

/// Counts how a packet ended at this node.
#[inline(always)]
pub(crate) fn count_reason(hook: Hook, reason: Reason) {
    if let Some(count) = REASONS_V1.get_ptr_mut(counter_index(hook, reason)) {
        // SAFETY: a per-CPU value; nobody else writes it during this run.
        unsafe { *count += 1 };
    }
}

/// Counts how a packet of one binding ended.
#[inline(always)]
pub(crate) fn count_binding_reason(hook: Hook, reason: Reason, slot: u32) {
    let key = EipReasonKey {
        slot,
        hook: hook as u8,
        reason: reason as u8,
        reserved: [0; 2],
    };
    if let Some(count) = EIP_REASONS_V1.get_ptr_mut(key) {
        // SAFETY: a per-CPU value; nobody else writes it during this run.
        unsafe { *count += 1 };
    } else {
        // A full map evicts; a lost first count of a rare reason is no harm.
        let _ = EIP_REASONS_V1.insert(key, 1, 0);
    }
}

/// What somebody wants to see; `None` while nobody looks.
#[inline(always)]
pub(crate) fn watch() -> Option<&'static Watch> {
    WATCH_V1.get(0).filter(|watch| watch.until != 0)
}

/// Has this CPU write a sample, if its rate and the ring buffer allow it; counted as lost otherwise.
#[inline(always)]
pub(crate) fn sample(watch: &Watch, now: u64, fill: impl FnOnce(&mut MaybeUninit<Sample>)) {
    let Some(quota) = QUOTA_V1.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a per-CPU value; nobody else writes it during this run.
    let quota = unsafe { &mut *quota };
    begin_window(quota, now);
    let entry = if quota.taken < watch.rate {
        SAMPLES_V1.reserve(0)
    } else {
        None
    };
    if let Some(mut entry) = entry {
        quota.taken += 1;
        fill(&mut entry);
        entry.submit(0);
    } else {
        quota.lost += 1;
    }
}

/// Whether this CPU may tell one more sender that its packet is too large.
#[inline(always)]
pub(crate) fn may_answer(now: u64) -> bool {
    let Some(quota) = QUOTA_V1.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a per-CPU value; nobody else writes it during this run.
    let quota = unsafe { &mut *quota };
    begin_window(quota, now);
    let may = quota.answers < MAX_ANSWERS;
    if may {
        quota.answers += 1;
    }
    may
}

#[inline(always)]
fn begin_window(quota: &mut Quota, now: u64) {
    let window = now >> 30;
    if quota.window != window {
        quota.window = window;
        quota.taken = 0;
        quota.answers = 0;
    }
}

//! All access to packet memory and to the kernel's packet helpers. The only module, with `maps`, that
//! needs `unsafe`.
//!
//! Packet bytes go in and out as `[u8; N]` by value (alignment 1, no reference outlives a helper that
//! may move packet data). A [`View`] borrows its context, and every method that can move data takes
//! the context, so a view never survives such a call.

use core::{
    hint::black_box,
    marker::PhantomData,
    mem::{MaybeUninit, size_of, transmute},
};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, bpf_fib_lookup,
        bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1, xdp_action,
    },
    helpers,
    programs::{TcContext, XdpContext},
};
use eip_common::{
    abi::{SAMPLE_HEAD, Sample},
    addr::{Ipv4Wire, Ipv6Wire},
    csum::Delta,
    neighbour::Sink,
    parse::{Bytes, Chain, Checksum},
    reason::{Hook, Reason},
};

/// The directly readable part of a packet.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    start: usize,
    end: usize,
    packet: PhantomData<&'a ()>,
}

impl View<'_> {
    /// Pointer to `T` at `offset`, if all of it is inside the packet.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let pointer = self.start + offset;
        if pointer + size_of::<T>() > self.end {
            None
        } else {
            Some(pointer as *mut T)
        }
    }

    /// Replaces `N` bytes at `offset`.
    #[inline(always)]
    pub(crate) fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let pointer = self.at::<[u8; N]>(offset)?;
        // SAFETY: `at` proved that offset..offset + N lies inside the packet; byte arrays have
        // alignment 1.
        unsafe { pointer.write(bytes) };
        Some(())
    }

    /// Bytes from the IP header to the end of the directly readable part.
    #[inline(always)]
    pub(crate) fn l3_len(&self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a frame is shorter than 4 GiB"
        )]
        let len = (self.end - self.start) as u32;
        len.saturating_sub(L2)
    }
}

/// What a sample of a packet consists of, in XDP and in tc.
pub(crate) trait Captured {
    /// The interface the program runs on.
    fn interface(&self) -> u32;
    /// Length of the frame.
    fn frame_len(&self) -> u32;
    /// The directly readable bytes.
    fn bytes(&self) -> View<'_>;
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes nothing and reads a clock.
    unsafe { helpers::generated::bpf_ktime_get_ns() }
}

/// Nanoseconds of `CLOCK_BOOTTIME`. Kernel 5.8.
#[inline(always)]
pub(crate) fn boot_time() -> u64 {
    // SAFETY: the helper takes nothing and reads a clock.
    unsafe { helpers::generated::bpf_ktime_get_boot_ns() }
}

/// Writes a sample of a packet where `place` is, field by field: a copy of it would not fit the stack.
#[inline(always)]
pub(crate) fn capture(
    place: &mut MaybeUninit<Sample>,
    packet: &impl Captured,
    about: (Hook, Reason, u32),
    time: u64,
) {
    let (hook, reason, slot) = about;
    let view = packet.bytes();
    let sample = place.write(Sample {
        time,
        ifindex: packet.interface(),
        slot,
        len: packet.frame_len(),
        captured: 0,
        hook: hook as u8,
        reason: reason as u8,
        head: [0; SAMPLE_HEAD],
    });
    let mut at = 0;
    while at < SAMPLE_HEAD {
        let Some(pair) = view.read::<2>(at) else {
            break;
        };
        sample.head[at] = pair[0];
        sample.head[at + 1] = pair[1];
        at += 2;
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most SAMPLE_HEAD")]
    let captured = at as u16;
    sample.captured = captured;
}

impl Captured for Frame<'_> {
    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context pointer is valid for the run of the program.
        unsafe { (*self.0.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.view().l3_len() + L2
    }

    #[inline(always)]
    fn bytes(&self) -> View<'_> {
        self.view()
    }
}

impl Captured for Skb<'_> {
    #[inline(always)]
    fn interface(&self) -> u32 {
        self.ifindex()
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn bytes(&self) -> View<'_> {
        self.view()
    }
}

/// The packet, written in place.
impl Sink for View<'_> {
    #[inline(always)]
    fn put<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.write(offset, bytes)
    }
}

impl Bytes for View<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let pointer = self.at::<[u8; N]>(offset)?;
        // SAFETY: `at` proved that offset..offset + N lies inside the packet; byte arrays have
        // alignment 1.
        Some(unsafe { pointer.read() })
    }
}

/// A bound of packet memory from a context. Volatile, so that the compiler does not hand it to another
/// function as the 32-bit number the context shows: the verifier wants it used as the pointer it is.
///
/// # Safety
/// `bound` points into the context of this run.
#[inline(always)]
unsafe fn load_bound(bound: *const u32) -> usize {
    // SAFETY: see above.
    (unsafe { bound.read_volatile() }) as usize
}

/// What ends a frame in XDP that goes back out of its interface.
pub(crate) const SEND_BACK: i64 = xdp_action::XDP_TX as i64;

/// A frame in XDP.
pub(crate) struct Frame<'a>(&'a XdpContext);

impl<'a> Frame<'a> {
    /// The frame of this run.
    #[inline(always)]
    pub(crate) const fn new(context: &'a XdpContext) -> Self {
        Self(context)
    }

    /// Its bytes.
    #[inline(always)]
    pub(crate) fn view(&self) -> View<'_> {
        let context = self.0.ctx;
        // SAFETY: the context pointer is valid for the run of the program.
        let start = unsafe { &raw const (*context).data };
        // SAFETY: as above.
        let end = unsafe { &raw const (*context).data_end };
        View {
            // SAFETY: a field of the context, valid as it is.
            start: unsafe { load_bound(start) },
            // SAFETY: as above.
            end: unsafe { load_bound(end) },
            packet: PhantomData,
        }
    }

    /// Cuts the frame after `len` bytes; a shorter one is left as it is. Invalidates views.
    #[inline(always)]
    pub(crate) fn cut(&self, len: usize) -> Option<()> {
        let view = self.view();
        let surplus = (view.end - view.start).checked_sub(len)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "a frame in XDP is shorter than 2 GiB"
        )]
        let surplus = surplus as i32;
        // SAFETY: the context pointer is valid for the run of the program.
        let code = unsafe { helpers::generated::bpf_xdp_adjust_tail(self.0.ctx, -surplus) };
        (code == 0).then_some(())
    }

    /// Puts `len` bytes before the frame. Invalidates views.
    #[inline(always)]
    pub(crate) fn grow_head(&self, len: usize) -> Option<()> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "a few bytes"
        )]
        let len = len as i32;
        // SAFETY: the context pointer is valid for the run of the program.
        let code = unsafe { helpers::generated::bpf_xdp_adjust_head(self.0.ctx, -len) };
        (code == 0).then_some(())
    }

    /// Sends it out of `ifindex`.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "the redirect is of this frame")]
    pub(crate) fn redirect(&self, ifindex: u32) -> i64 {
        // SAFETY: the helper takes plain numbers and records them for this run.
        unsafe { helpers::generated::bpf_redirect(ifindex, 0) }
    }
}

/// Length of an Ethernet header.
const L2: u32 = 14;
/// Longest headers the programs read directly: Ethernet, IPv4 with options, TCP without.
const HEADERS: u32 = L2 + 60 + 20;

/// A packet in tc.
pub(crate) struct Skb<'a>(&'a TcContext);

/// Where a route lookup leads.
#[derive(Clone, Copy)]
pub(crate) struct NextHop<A> {
    /// Outgoing interface.
    pub(crate) ifindex: u32,
    /// Next hop; the destination itself when it is on the link.
    pub(crate) address: A,
}

impl<'a> Skb<'a> {
    /// The packet of this run, its headers made directly readable.
    #[inline(always)]
    pub(crate) fn new(context: &'a TcContext) -> Self {
        let linear = context.data_end() - context.data();
        let wanted = if context.len() < HEADERS {
            context.len()
        } else {
            HEADERS
        };
        if linear < wanted as usize {
            // On failure the view stays short and the parser says so.
            let _ = context.pull_data(wanted);
        }
        Self(context)
    }

    /// The directly readable bytes.
    #[inline(always)]
    pub(crate) fn view(&self) -> View<'_> {
        let context = self.0.skb.skb;
        // SAFETY: the context pointer is valid for the run of the program.
        let start = unsafe { &raw const (*context).data };
        // SAFETY: as above.
        let end = unsafe { &raw const (*context).data_end };
        View {
            // SAFETY: a field of the context, valid as it is.
            start: unsafe { load_bound(start) },
            // SAFETY: as above.
            end: unsafe { load_bound(end) },
            packet: PhantomData,
        }
    }

    /// Bytes from the IP header to the end of the packet.
    #[inline(always)]
    pub(crate) fn l3_len(&self) -> u32 {
        self.0.len().saturating_sub(L2)
    }

    /// The interface it is on.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the context pointer is valid for the run of the program.
        unsafe { (*self.0.skb.skb).ifindex }
    }

    /// Length of the frame, in bytes.
    #[inline(always)]
    pub(crate) fn frame_len(&self) -> usize {
        self.0.len() as usize
    }

    /// A VLAN tag came with the frame: the kernel has taken it off and remembers it. The tag of VLAN 0 says a
    /// priority and no VLAN (IEEE 802.1Q section 6.9).
    #[inline(always)]
    pub(crate) fn is_tagged(&self) -> bool {
        let skb = self.0.skb.skb;
        // SAFETY: the context pointer is valid for the run of the program.
        let is_present = unsafe { (*skb).vlan_present } != 0;
        // SAFETY: as above.
        is_present && unsafe { (*skb).vlan_tci } & 0xfff != 0
    }

    /// Takes off the tag of VLAN 0, which says a priority on the link it came over and nothing on the next one. The
    /// kernel does the same before it routes. Invalidates views.
    #[inline(always)]
    pub(crate) fn drop_priority(&self) {
        let skb = self.0.skb.skb;
        // SAFETY: the context pointer is valid for the run of the program.
        let is_present = unsafe { (*skb).vlan_present } != 0;
        if is_present {
            // SAFETY: as above.
            let _ = unsafe { helpers::generated::bpf_skb_vlan_pop(skb) };
        }
    }

    /// Cuts or extends the frame. Invalidates views.
    #[inline(always)]
    pub(crate) fn resize(&self, len: u32) -> Option<()> {
        let skb = self.0.skb.skb;
        // SAFETY: the context pointer is valid for the run of the program.
        let code = unsafe { helpers::generated::bpf_skb_change_tail(skb, len, 0) };
        (code == 0).then_some(())
    }

    /// Puts `len` bytes before the frame. Invalidates views.
    #[inline(always)]
    pub(crate) fn grow_head(&self, len: u32) -> Option<()> {
        let skb = self.0.skb.skb;
        // SAFETY: the context pointer is valid for the run of the program.
        let code = unsafe { helpers::generated::bpf_skb_change_head(skb, len, 0) };
        (code == 0).then_some(())
    }

    /// Sends the frame out of the interface it is on, as it stands.
    #[inline(always)]
    pub(crate) fn send_back(&self) -> i64 {
        // SAFETY: the helper takes plain numbers and records them for this run.
        unsafe { helpers::generated::bpf_redirect(self.ifindex(), 0) }
    }

    /// Payload bytes per segment of a super-packet; zero for an ordinary one. Kernel 5.7.
    #[inline(always)]
    pub(crate) fn segment_size(&self) -> u32 {
        // SAFETY: the context pointer is valid for the run of the program.
        unsafe { (*self.0.skb.skb).gso_size }
    }

    /// Replaces `N` bytes anywhere in the packet. Invalidates views.
    #[inline(always)]
    pub(crate) fn store<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        self.0.store(offset, bytes, 0).ok()
    }

    /// As [`Self::store`], for bytes that no checksum inside the packet makes up for: tells the kernel,
    /// which may hold the device's sum over the whole packet (`CHECKSUM_COMPLETE`).
    #[inline(always)]
    pub(crate) fn store_summed<const N: usize>(
        &self,
        offset: usize,
        bytes: &[u8; N],
    ) -> Option<()> {
        self.0
            .store(offset, bytes, u64::from(BPF_F_RECOMPUTE_CSUM))
            .ok()
    }

    /// Brings the transport checksum at `l4` up to date. The helper knows whether the checksum is
    /// complete, partial (left to the device) or of a super-packet; the program must not.
    /// Invalidates views.
    #[inline(always)]
    pub(crate) fn update_checksum(
        &self,
        l4: usize,
        checksum: Checksum,
        delta: Delta,
    ) -> Option<()> {
        let Some(offset) = checksum.offset() else {
            return Some(());
        };
        let flags = if checksum.is_optional() {
            BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0
        } else {
            BPF_F_PSEUDO_HDR
        };
        self.0
            .l4_csum_replace(l4 + offset, 0, delta.as_wsum(), u64::from(flags))
            .ok()
    }

    /// Brings a checksum up to date that covers bytes of the packet alone. Invalidates views.
    #[inline(always)]
    pub(crate) fn update_plain_checksum(&self, offset: usize, delta: Delta) -> Option<()> {
        self.0.l4_csum_replace(offset, 0, delta.as_wsum(), 0).ok()
    }

    /// Hands the packet to the peer of `port`, in the network namespace over there. Kernel 5.10.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "the redirect is of this packet")]
    pub(crate) fn redirect_peer(&self, port: u32) -> i64 {
        // SAFETY: the helper takes plain numbers and records them for this run.
        unsafe { helpers::generated::bpf_redirect_peer(port, 0) }
    }

    /// Sends the packet out of `hop.ifindex` to the neighbour `hop.address`, resolved by the kernel.
    /// Kernel 5.10.
    #[inline(never)]
    #[expect(clippy::unused_self, reason = "the redirect is of this packet")]
    pub(crate) fn redirect_neigh<A: NextHopAddress>(&self, hop: &NextHop<A>) -> i64 {
        let mut parameters = hop.address.redirect_parameters();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "20 bytes"
        )]
        let size = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: `parameters` lives through the call and has the size that is passed.
        unsafe { helpers::generated::bpf_redirect_neigh(hop.ifindex, &raw mut parameters, size, 0) }
    }

    /// Asks the kernel's routing where a packet from `source` to `destination`, received on
    /// `ifindex`, goes: rules, ECMP and all. `None`: it has no answer.
    #[inline(always)]
    pub(crate) fn route<A: NextHopAddress>(
        &self,
        ifindex: u32,
        source: A,
        destination: A,
    ) -> Option<NextHop<A>> {
        let mut parameters = A::route_parameters(ifindex, source, destination);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "64 bytes"
        )]
        let size = size_of::<bpf_fib_lookup>() as i32;
        let context = self.0.skb.skb.cast();
        // SAFETY: `parameters` lives through the call and has the size that is passed.
        let code =
            unsafe { helpers::generated::bpf_fib_lookup(context, &raw mut parameters, size, 0) };
        // Success, or success with a neighbour that `redirect_neigh` will resolve.
        if code != 0 && code != 7 {
            return None;
        }
        Some(NextHop {
            ifindex: parameters.ifindex,
            address: A::route_result(&parameters),
        })
    }
}

impl Bytes for Skb<'_> {
    /// Reads through the helper: anywhere in the packet, linear or not.
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load::<[u8; N]>(offset).ok()
    }

    #[inline(always)]
    fn chain(&self, l3: u32, first: u8, len: u32) -> Option<Chain> {
        // SAFETY: the context pointer is valid for the run of the program.
        Chain::unpack(unsafe { eip_ipv6_chain(self.0.skb.skb, l3, first.into(), len) })
    }
}

/// [`Chain::follow`]. With a name that others can see, it is verified on its own (BTF's global functions, kernel
/// 5.6; numbers alone go in and out before 5.12): each way through the headers once, and not once more for each way
/// to here, and what comes after it once and not for each way through them. That was five parts in six of all that
/// the verifier did, and more than the one of Linux 6.1 does.
///
/// # Safety
/// `context` is the context of this run.
#[inline(never)]
#[unsafe(no_mangle)]
unsafe extern "C" fn eip_ipv6_chain(context: *mut __sk_buff, l3: u32, first: u32, len: u32) -> u64 {
    let context = TcContext::new(context);
    #[expect(clippy::cast_possible_truncation, reason = "was one byte")]
    let first = first as u8;
    Chain::follow(&Skb(&context), l3, first, len).map_or(0, Chain::pack)
}

/// The parts of the kernel's helper structures that depend on the address family.
pub(crate) trait NextHopAddress: Copy {
    /// Parameters of `bpf_redirect_neigh`.
    fn redirect_parameters(self) -> bpf_redir_neigh;
    /// Parameters of `bpf_fib_lookup`.
    fn route_parameters(ifindex: u32, source: Self, destination: Self) -> bpf_fib_lookup;
    /// Next hop the lookup found.
    fn route_result(parameters: &bpf_fib_lookup) -> Self;
}

/// `AF_INET`.
const AF_INET: u8 = 2;
/// `AF_INET6`.
const AF_INET6: u8 = 10;

/// A lookup with nothing but family and interface filled in. Zero stands for no ports, which only rules about
/// ports would miss, for the main table, and for no check against the route's MTU, which does not judge
/// super-packets.
#[inline(always)]
fn empty_lookup(family: u8, ifindex: u32) -> bpf_fib_lookup {
    // By words that the compiler cannot know to be zero: for field after field of zeros it calls a function that
    // stores byte after byte, and whose frame is too much on top of the others.
    let words = [black_box(0_u64); size_of::<bpf_fib_lookup>() / size_of::<u64>()];
    // SAFETY: the sizes are the same, and every bit pattern is a lookup.
    let mut lookup: bpf_fib_lookup = unsafe { transmute(words) };
    lookup.family = family;
    lookup.ifindex = ifindex;
    lookup
}

impl NextHopAddress for Ipv4Wire {
    #[inline(always)]
    fn redirect_parameters(self) -> bpf_redir_neigh {
        let none = black_box(0);
        let mut words = [none, none, none, none];
        words[0] = u32::from_ne_bytes(self);
        bpf_redir_neigh {
            nh_family: u32::from(AF_INET),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: words },
        }
    }

    #[inline(always)]
    fn route_parameters(ifindex: u32, source: Self, destination: Self) -> bpf_fib_lookup {
        let mut parameters = empty_lookup(AF_INET, ifindex);
        parameters.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source);
        parameters.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination);
        parameters
    }

    #[inline(always)]
    fn route_result(parameters: &bpf_fib_lookup) -> Self {
        // SAFETY: every bit pattern is an address, whichever member was written.
        unsafe { parameters.__bindgen_anon_4.ipv4_dst }.to_ne_bytes()
    }
}

/// An IPv6 address as the helpers' structures hold it.
#[inline(always)]
fn words(address: Ipv6Wire) -> [u32; 4] {
    let mut words = [0; 4];
    let mut i = 0;
    while i < 4 {
        let at = i * 4;
        words[i] = u32::from_ne_bytes([
            address[at],
            address[at + 1],
            address[at + 2],
            address[at + 3],
        ]);
        i += 1;
    }
    words
}

impl NextHopAddress for Ipv6Wire {
    #[inline(always)]
    fn redirect_parameters(self) -> bpf_redir_neigh {
        bpf_redir_neigh {
            nh_family: u32::from(AF_INET6),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
                ipv6_nh: words(self),
            },
        }
    }

    #[inline(always)]
    fn route_parameters(ifindex: u32, source: Self, destination: Self) -> bpf_fib_lookup {
        let mut parameters = empty_lookup(AF_INET6, ifindex);
        parameters.__bindgen_anon_3.ipv6_src = words(source);
        parameters.__bindgen_anon_4.ipv6_dst = words(destination);
        parameters
    }

    #[inline(always)]
    fn route_result(parameters: &bpf_fib_lookup) -> Self {
        // SAFETY: every bit pattern is an address, whichever member was written.
        let found = unsafe { parameters.__bindgen_anon_4.ipv6_dst };
        let mut address = [0; 16];
        let mut i = 0;
        while i < 16 {
            address[i] = found[i / 4].to_ne_bytes()[i % 4];
            i += 1;
        }
        address
    }
}

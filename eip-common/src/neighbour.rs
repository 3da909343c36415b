//! ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861): who has an EIP, and who says so.
//!
//! The same code reads questions in the kernel programs, writes the announcements of the daemon and
//! is property-tested on the host. Frames are untagged Ethernet throughout.

use core::hint::black_box;

use crate::{
    addr::{Ipv4Wire, Ipv6Wire, Mac},
    parse::{Bytes, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6_LEN, protocol},
};

/// Ethertype of ARP.
pub const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Every host of the segment.
pub const BROADCAST: Mac = [0xff; 6];
/// The hop limit of neighbour discovery: what a router has forwarded has less (RFC 4861 section 7.1).
pub const HOP_LIMIT: u8 = 255;
/// `ff02::1`.
pub const ALL_NODES: Ipv6Wire = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Length of an ARP frame for IPv4 over Ethernet, without padding.
pub const ARP_FRAME: usize = ETHERNET_LEN + ARP_LEN;
/// Length of a frame with an advertisement and its target link-layer address option.
pub const ADVERTISEMENT_FRAME: usize = OPTIONS + OPTION_UNIT;

/// Length of a frame with a solicitation without options.
pub const PROBE_FRAME: usize = OPTIONS;

const ARP_LEN: usize = 28;
/// Ethernet, IPv4 addresses of four bytes, Ethernet addresses of six.
const ARP_HEAD: [u8; 6] = [0, 1, ETHERTYPE_IPV4[0], ETHERTYPE_IPV4[1], 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];

const ICMPV6: usize = ETHERNET_LEN + IPV6_LEN;
/// A solicitation and an advertisement before their options.
const MESSAGE: usize = 24;
const OPTIONS: usize = ICMPV6 + MESSAGE;
/// Option lengths are counted in these.
const OPTION_UNIT: usize = 8;
/// Room for options that is looked at. A solicitation carries one or two of one unit each; the verifier
/// walks every way through them.
const MAX_OPTION_UNITS: usize = 8;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// A message that breaks its RFC, or is of a form that is not spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

/// An ARP message for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// `ar$op` is request.
    pub is_request: bool,
    /// Who says that it has [`Self::sender`].
    pub sender_mac: Mac,
    /// Zero in a probe.
    pub sender: Ipv4Wire,
    /// The address it is about.
    pub target: Ipv4Wire,
}

impl Arp {
    /// Somebody wants to know who has [`Self::target`], or whether anybody has (a probe, RFC 5227
    /// section 2.1.1). An announcement has the same form and asks nothing.
    #[inline(always)]
    #[must_use]
    pub fn asks(&self) -> bool {
        self.is_request && is_station(self.sender_mac) && !is_same(self.sender, self.target)
    }
}

/// Where a frame is written: a packet in the kernel, an array on the host.
pub trait Sink {
    /// Replaces the `N` bytes at `offset`, if there is room.
    fn put<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;
}

impl Sink for [u8] {
    fn put<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let place = self.get_mut(offset..offset.checked_add(N)?)?;
        place.copy_from_slice(&bytes);
        Some(())
    }
}

/// Reads an ARP frame.
///
/// # Errors
/// It is cut short, or not about IPv4 over Ethernet, or neither request nor reply.
#[inline(always)]
pub fn arp<B: Bytes + ?Sized>(frame: &B) -> Result<Arp, Invalid> {
    if !is_same(frame.read(ETHERNET_LEN).ok_or(Invalid)?, ARP_HEAD) {
        return Err(Invalid);
    }
    let is_request = match frame.read(20).ok_or(Invalid)? {
        ARP_REQUEST => true,
        ARP_REPLY => false,
        _ => return Err(Invalid),
    };
    Ok(Arp {
        is_request,
        sender_mac: frame.read(22).ok_or(Invalid)?,
        sender: frame.read(28).ok_or(Invalid)?,
        target: frame.read(38).ok_or(Invalid)?,
    })
}

/// Writes the answer to a question: `mac` has what was asked for.
#[inline(always)]
pub fn write_arp_reply<S: Sink + ?Sized>(frame: &mut S, question: &Arp, mac: Mac) -> Option<()> {
    let asker = (question.sender_mac, question.sender);
    let owner = (mac, question.target);
    write_arp(frame, question.sender_mac, ARP_REPLY, owner, asker)
}

/// An ARP announcement (RFC 5227 section 2.3): a request that answers itself. A host that has the
/// address too replies to it.
#[must_use]
pub fn arp_announcement(eip: Ipv4Wire, mac: Mac) -> [u8; ARP_FRAME] {
    let mut frame = [0; ARP_FRAME];
    let nobody = ([0; 6], eip);
    let _fits = write_arp(&mut frame[..], BROADCAST, ARP_REQUEST, (mac, eip), nobody);
    frame
}

/// An ARP probe (RFC 5227 section 2.1.1): whoever has the address answers.
#[must_use]
pub fn arp_probe(eip: Ipv4Wire, mac: Mac) -> [u8; ARP_FRAME] {
    let mut frame = [0; ARP_FRAME];
    let (owner, nobody) = ((mac, [0; 4]), ([0; 6], eip));
    let _fits = write_arp(&mut frame[..], BROADCAST, ARP_REQUEST, owner, nobody);
    frame
}

/// The same as a reply nobody asked for (RFC 5944 section 4.6), for equipment that learns from replies
/// alone.
#[must_use]
pub fn arp_gratuitous_reply(eip: Ipv4Wire, mac: Mac) -> [u8; ARP_FRAME] {
    let mut frame = [0; ARP_FRAME];
    let owner = (mac, eip);
    let _fits = write_arp(&mut frame[..], BROADCAST, ARP_REPLY, owner, owner);
    frame
}

/// Piece by piece: a program has 512 bytes of stack for everything.
#[inline(always)]
fn write_arp<S: Sink + ?Sized>(
    frame: &mut S,
    to: Mac,
    operation: [u8; 2],
    sender: (Mac, Ipv4Wire),
    target: (Mac, Ipv4Wire),
) -> Option<()> {
    frame.put(0, to)?;
    frame.put(6, sender.0)?;
    frame.put(12, ETHERTYPE_ARP)?;
    frame.put(14, ARP_HEAD)?;
    frame.put(20, operation)?;
    frame.put(22, sender.0)?;
    frame.put(28, sender.1)?;
    frame.put(32, target.0)?;
    frame.put(38, target.1)
}

/// Which message of neighbour discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A question.
    Solicitation,
    /// A claim.
    Advertisement,
}

/// What a neighbour discovery message is about, before anything of it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Which message.
    pub kind: Kind,
    /// Who sends it; unspecified in a probe for duplicates.
    pub source: Ipv6Wire,
    /// The address it is about.
    pub target: Ipv6Wire,
}

impl Subject {
    /// The address its sender says it has.
    #[inline(always)]
    #[must_use]
    pub const fn claims(&self) -> Ipv6Wire {
        match self.kind {
            Kind::Solicitation => self.source,
            Kind::Advertisement => self.target,
        }
    }
}

/// Which message an IPv6 frame carries; `None` for everything else, and for messages behind extension
/// headers, which nobody sends (RFC 6980 forbids the fragment header).
#[inline(always)]
#[must_use]
pub fn kind<B: Bytes + ?Sized>(frame: &B) -> Option<Kind> {
    if frame.read(ETHERNET_LEN + 6)? != [protocol::ICMPV6] {
        return None;
    }
    match frame.read(ICMPV6)? {
        [SOLICITATION] => Some(Kind::Solicitation),
        [ADVERTISEMENT] => Some(Kind::Advertisement),
        _ => None,
    }
}

/// What such a frame is about.
#[inline(always)]
#[must_use]
pub fn subject<B: Bytes + ?Sized>(frame: &B) -> Option<Subject> {
    Some(Subject {
        kind: kind(frame)?,
        source: frame.read(ETHERNET_LEN + 8)?,
        target: frame.read(ICMPV6 + 8)?,
    })
}

/// Checks a message by RFC 4861 section 7.1 and gives the link-layer address its sender states, or
/// `None` if it states none. `head` are the bytes up to the options, `frame` all of them, `length` how many.
///
/// # Errors
/// A rule of the RFC is broken, or there are more options than are looked at.
#[inline(always)]
pub fn stated_mac<H: Bytes + ?Sized, B: Bytes + ?Sized>(
    head: &H,
    frame: &B,
    length: usize,
    subject: &Subject,
) -> Result<Option<Mac>, Invalid> {
    let header: [u8; 8] = head.read(ETHERNET_LEN).ok_or(Invalid)?;
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let options = payload.checked_sub(MESSAGE).ok_or(Invalid)?;
    if options > MAX_OPTION_UNITS * OPTION_UNIT
        || !options.is_multiple_of(OPTION_UNIT)
        || length < OPTIONS + options
        || header[0] >> 4 != 6
        || header[7] != HOP_LIMIT
        || is_multicast(subject.source)
        || is_multicast(subject.target)
    {
        return Err(Invalid);
    }
    let wanted = check_kind(head, subject)?;
    let mac = walk(frame, options, wanted)?;
    // Section 7.1.1: who has no address yet has nothing to state.
    if mac.is_some() && subject.kind == Kind::Solicitation && is_unspecified(subject.source) {
        return Err(Invalid);
    }
    Ok(mac)
}

/// Code, flags and destination; gives the option that holds the sender's link-layer address.
#[inline(always)]
fn check_kind<B: Bytes + ?Sized>(frame: &B, subject: &Subject) -> Result<u8, Invalid> {
    let destination: Ipv6Wire = frame.read(ETHERNET_LEN + 24).ok_or(Invalid)?;
    let message: [u8; 8] = frame.read(ICMPV6).ok_or(Invalid)?;
    if message[1] != 0 {
        return Err(Invalid);
    }
    match subject.kind {
        Kind::Solicitation => {
            let asked = solicited_node(subject.target);
            if is_unspecified(subject.source) && !is_same(destination, asked) {
                return Err(Invalid);
            }
            Ok(SOURCE_LINK_LAYER_ADDRESS)
        }
        Kind::Advertisement => {
            if is_multicast(destination) && message[4] & FLAG_SOLICITED != 0 {
                return Err(Invalid);
            }
            Ok(TARGET_LINK_LAYER_ADDRESS)
        }
    }
}

/// Checks the checksum over pseudo header and message (RFC 8200 section 8.1), of which `options` bytes are
/// options, and gives the link-layer address in them.
///
/// One loop that advances by one unit whatever it reads: so the verifier sees its end, and the compiler
/// does not unroll it into more stack than there is.
#[inline(always)]
fn walk<B: Bytes + ?Sized>(frame: &B, options: usize, wanted: u8) -> Result<Option<Mac>, Invalid> {
    let mut sum = (MESSAGE + options) as u64 + u64::from(protocol::ICMPV6);
    let mut mac = None;
    // Units left of the option that is walked over.
    let mut left = 0;
    // Known to the compiler already, which therefore checks another number than the loop counts to; the
    // verifier has to see it here.
    let end = black_box(OPTIONS + options);
    if end > OPTIONS + MAX_OPTION_UNITS * OPTION_UNIT {
        return Err(Invalid);
    }
    let mut at = ETHERNET_LEN + 8;
    while at < end {
        let unit: [u8; 8] = frame.read(at).ok_or(Invalid)?;
        sum += sum_of(unit);
        if left > 0 {
            left -= 1;
        } else if at >= OPTIONS {
            left = unit[1].checked_sub(1).ok_or(Invalid)?;
            if unit[0] == wanted {
                // RFC 2464 section 6: one unit on Ethernet.
                if left > 0 {
                    return Err(Invalid);
                }
                mac = Some(field(&unit, 2));
            }
        }
        at += OPTION_UNIT;
    }
    if left > 0 || folded(sum) != 0xffff {
        return Err(Invalid);
    }
    Ok(mac)
}

/// Writes the answer to a solicitation: solicited, to whoever asked; to all nodes and unsolicited when
/// that was a probe for duplicates (RFC 4861 section 7.2.4). `to` is the asker's link-layer address. The
/// frame has a length of [`ADVERTISEMENT_FRAME`].
#[inline(always)]
pub fn write_answer<S: Sink + ?Sized>(
    frame: &mut S,
    question: &Subject,
    to: Mac,
    mac: Mac,
) -> Option<()> {
    let owner = (mac, question.target);
    if is_unspecified(question.source) {
        let everybody = (multicast_mac(ALL_NODES), ALL_NODES);
        return write_advertisement(frame, everybody, owner, FLAG_OVERRIDE);
    }
    let asker = (to, question.source);
    write_advertisement(frame, asker, owner, FLAG_SOLICITED | FLAG_OVERRIDE)
}

/// Tells everybody that `mac` has `eip` (RFC 4861 section 7.2.6).
#[must_use]
pub fn unsolicited_advertisement(eip: Ipv6Wire, mac: Mac) -> [u8; ADVERTISEMENT_FRAME] {
    let mut frame = [0; ADVERTISEMENT_FRAME];
    let everybody = (multicast_mac(ALL_NODES), ALL_NODES);
    let _fits = write_advertisement(&mut frame[..], everybody, (mac, eip), FLAG_OVERRIDE);
    frame
}

/// A probe for duplicates (RFC 4862 section 5.4.2): whoever has the address answers to all nodes.
#[must_use]
pub fn duplicate_probe(eip: Ipv6Wire, mac: Mac) -> [u8; PROBE_FRAME] {
    let group = solicited_node(eip);
    let sum = sum_of_address(group)
        + sum_of_address(eip)
        + MESSAGE as u64
        + u64::from(protocol::ICMPV6)
        + sum_of([SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
    let [high, low] = (!folded(sum)).to_be_bytes();
    let mut frame = [0; PROBE_FRAME];
    let mut write = || {
        let frame = &mut frame[..];
        frame.put(0, multicast_mac(group))?;
        frame.put(6, mac)?;
        frame.put(12, ETHERTYPE_IPV6)?;
        frame.put(14, [0x60, 0, 0, 0, 0, 24, protocol::ICMPV6, HOP_LIMIT])?;
        frame.put(38, group)?;
        frame.put(ICMPV6, [SOLICITATION, 0, high, low])?;
        frame.put(ICMPV6 + 8, eip)
    };
    let _fits = write();
    frame
}

/// An advertisement with the EIP itself as its source, as any host answers that has the address. The
/// router flag stays clear: the flag says what the neighbour with this address is, and that is the VM.
#[inline(always)]
fn write_advertisement<S: Sink + ?Sized>(
    frame: &mut S,
    to: (Mac, Ipv6Wire),
    owner: (Mac, Ipv6Wire),
    flags: u8,
) -> Option<()> {
    // The message and one option.
    const PAYLOAD: u8 = 32;
    const { assert!(MESSAGE + OPTION_UNIT == 32) };
    let mac = owner.0;
    let option = [
        TARGET_LINK_LAYER_ADDRESS,
        1,
        mac[0],
        mac[1],
        mac[2],
        mac[3],
        mac[4],
        mac[5],
    ];
    let sum = sum_of_address(owner.1) * 2
        + sum_of_address(to.1)
        + u64::from(PAYLOAD)
        + u64::from(protocol::ICMPV6)
        + sum_of([ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0])
        + sum_of(option);
    let [high, low] = (!folded(sum)).to_be_bytes();
    frame.put(0, to.0)?;
    frame.put(6, mac)?;
    frame.put(12, ETHERTYPE_IPV6)?;
    frame.put(14, [0x60, 0, 0, 0, 0, PAYLOAD, protocol::ICMPV6, HOP_LIMIT])?;
    frame.put(22, owner.1)?;
    frame.put(38, to.1)?;
    frame.put(ICMPV6, [ADVERTISEMENT, 0, high, low, flags, 0, 0, 0])?;
    frame.put(ICMPV6 + 8, owner.1)?;
    frame.put(OPTIONS, option)
}

/// `ff02::1:ffXX:XXXX` of an address (RFC 4291 section 2.7.1): where solicitations for it are sent.
#[inline(always)]
#[must_use]
pub const fn solicited_node(address: Ipv6Wire) -> Ipv6Wire {
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13] = address[13];
    group[14] = address[14];
    group[15] = address[15];
    group
}

/// The Ethernet address of an IPv6 group (RFC 2464 section 7).
#[inline(always)]
#[must_use]
pub const fn multicast_mac(group: Ipv6Wire) -> Mac {
    [0x33, 0x33, group[12], group[13], group[14], group[15]]
}

/// A frame with this destination is meant for a station with the address `own`.
#[inline(always)]
#[must_use]
pub fn is_for(destination: Mac, own: Mac) -> bool {
    destination[0] & 1 != 0 || is_same(destination, own)
}

/// The address of one station: neither a group nor nothing.
#[inline(always)]
#[must_use]
pub fn is_station(mac: Mac) -> bool {
    mac[0] & 1 == 0 && !is_same(mac, [0; 6])
}

#[inline(always)]
const fn is_multicast(address: Ipv6Wire) -> bool {
    address[0] == 0xff
}

#[inline(always)]
fn is_unspecified(address: Ipv6Wire) -> bool {
    is_same(address, [0; 16])
}

/// Compares byte by byte: a comparison of arrays may become a call that the kernel does not have.
#[inline(always)]
#[must_use]
pub fn is_same<const N: usize>(a: [u8; N], b: [u8; N]) -> bool {
    let mut difference = 0;
    let mut i = 0;
    while i < N {
        difference |= a[i] ^ b[i];
        i += 1;
    }
    difference == 0
}

#[inline(always)]
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    let mut i = 0;
    while i < N {
        field[i] = bytes[at + i];
        i += 1;
    }
    field
}

/// Four words in network order.
#[inline(always)]
fn sum_of(bytes: [u8; 8]) -> u64 {
    let mut sum = 0;
    let mut i = 0;
    while i < 8 {
        sum += u64::from(u16::from_be_bytes([bytes[i], bytes[i + 1]]));
        i += 2;
    }
    sum
}

#[inline(always)]
fn sum_of_address(address: Ipv6Wire) -> u64 {
    sum_of(field(&address, 0)) + sum_of(field(&address, 8))
}

/// Folds a sum of fewer than 2^16 words, carries added back.
#[inline(always)]
const fn folded(sum: u64) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the second carry was the last"
    )]
    let folded = twice as u16;
    folded
}

#[cfg(test)]
mod tests;

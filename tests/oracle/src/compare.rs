//! Who is right about a case.
//!
//! What may differ, and why:
//! - *Bytes behind the packet.* Linux trims link padding when it routes; redirects leave it. The receiver
//!   trims it in either case: frames are cut to the length the IP header tells.
//! - *How a datagram is cut into fragments.* Conntrack puts fragments together and cuts them again, our
//!   redirects carry each as it is: what is compared is the datagram the receiver puts together.
//! - *Identification of an ICMP error the node makes itself*: a random number; and with it the header's
//!   checksum.
//! - *Source of such an error*: netfilter translates it as if the other end of the connection had sent
//!   it; ours names the node, which is what traceroute asks for.
//! - *A wrong checksum of an ICMP error*: netfilter computes it anew and so makes it right, we keep
//!   the difference, as both do for TCP and UDP (an error corrupted on its way must not look sound). The
//!   same for SCTP.
//! - *SCTP inside an error*: netfilter computes the `CRC32c` over the part that is quoted, and so breaks
//!   it; we leave it, for it does not cover addresses.
//! - *A UDP-Lite checksum of zero*, which RFC 3828 section 3.1 forbids, in a packet or in what an error
//!   quotes: netfilter calculates with it, we keep it. The receiver drops the packet either way.
//! - *DCCP*: kernels without DCCP conntrack translate the addresses alone, which leaves its checksum
//!   wrong; we keep it right.
//! - *A first fragment that does not hold its transport header*: netfilter puts the datagram together
//!   and carries it, we drop it (RFC 1858: nobody honest cuts there).
//!
//! Everything else has to be equal: hardware addresses, TTL, identification, options, order.

use std::{collections::BTreeMap, fmt::Write as _};

use etherparse::{Ipv4Slice, NetSlice, SlicedPacket, TransportSlice, checksum::Sum16BitWords};

use crate::{
    Step,
    chain::{GUESTS, Outcome, addresses},
    checksum, model,
};

/// Who could judge a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judge {
    /// Netfilter carried all of it, and so did we, equally.
    Netfilter,
    /// Netfilter did not carry some of it; we did what the model says.
    Model,
    /// Nobody carried it.
    Nobody,
}

/// Length of an Ethernet header.
const L2: usize = 14;

/// Who forwards in the chain under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarder {
    /// Our programs: they carry whatever they can translate.
    Programs,
    /// The kernel, with what the programs leave to it: it holds fragments until they are complete and
    /// drops headers that are wrong, as netfilter's chain does.
    Kernel,
}

/// Judges what became of the steps of a case in both chains.
///
/// # Errors
/// What differs, with all packets.
pub fn judge(
    forwarder: Forwarder,
    steps: &[Step],
    theirs: &[Outcome],
    ours: &[Outcome],
) -> Result<Judge, String> {
    let told = |problem: &str| Err(report(problem, steps, theirs, ours));
    let expected: Vec<Vec<u8>> = assembled(steps.iter().filter_map(model::carried).collect());
    let got = arrived(ours);
    let got_packets = packets(&got);
    let is_expected = match forwarder {
        Forwarder::Programs => got_packets == expected,
        Forwarder::Kernel => got_packets.iter().all(|packet| expected.contains(packet)),
    };
    if !is_expected {
        return told("ours is not what the model says");
    }
    let reference = arrived(theirs);
    let mut left = got.clone();
    for frame in &reference {
        let Some(at) = left.iter().position(|ours| ours == frame) else {
            if is_known(&frame[L2..], steps) {
                continue;
            }
            return told("netfilter carried what ours did not, or otherwise");
        };
        left.remove(at);
    }
    for (step, (theirs, ours)) in steps.iter().zip(theirs.iter().zip(ours)) {
        if !is_same_answer(step, theirs, ours) {
            return told("the answers differ");
        }
    }
    let returned = |outcome: &Outcome| outcome.returned.iter().any(|frame| is_false_answer(frame));
    if ours.iter().any(returned) {
        return told("the node answers in the name of a VM");
    }
    if let Some(wrong) = newly_wrong(steps, &got) {
        return told(&wrong);
    }
    Ok(match (left.is_empty(), got.is_empty()) {
        (_, true) if ours.iter().all(|outcome| outcome.returned.is_empty()) => Judge::Nobody,
        (true, _) => Judge::Netfilter,
        (false, _) => Judge::Model,
    })
}

/// What came out at the far ends, link padding cut and datagrams put together.
fn arrived(outcomes: &[Outcome]) -> Vec<Vec<u8>> {
    let frames = || outcomes.iter().flat_map(|outcome| &outcome.arrived);
    let mut whole = Vec::new();
    let mut pieces = Vec::new();
    for frame in frames() {
        let (link, packet) = frame.split_at(L2);
        let packet = trimmed(packet).to_vec();
        if is_fragment(&packet) {
            pieces.push(packet);
        } else {
            whole.push([link, &packet].concat());
        }
    }
    for packet in assembled(pieces) {
        // The link header of a datagram is that of any of its fragments.
        let ends = &packet[12..20];
        let link = frames()
            .find(|frame| is_fragment(&frame[L2..]) && &frame[L2 + 12..L2 + 20] == ends)
            .map_or(&[0; L2][..], |frame| &frame[..L2]);
        whole.push([link, &packet].concat());
    }
    whole
}

fn packets(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    frames.iter().map(|frame| frame[L2..].to_vec()).collect()
}

fn trimmed(packet: &[u8]) -> &[u8] {
    let total = usize::from(word(packet, 2));
    packet.get(..total).unwrap_or(packet)
}

fn word(packet: &[u8], at: usize) -> u16 {
    packet
        .get(at..at + 2)
        .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Where a fragment starts, in units of eight bytes.
fn fragment_offset(packet: &[u8]) -> u16 {
    word(packet, 6) & 0x1fff
}

fn is_fragment(packet: &[u8]) -> bool {
    packet.len() >= 20 && word(packet, 6) & 0x3fff != 0
}

/// Whole packets as they are, then datagrams put together from their fragments as soon as they are
/// complete, as receivers do; those of which a part is missing stay in pieces, duplicates removed.
pub fn assembled(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let (pieces, mut whole): (Vec<_>, Vec<_>) =
        packets.into_iter().partition(|packet| is_fragment(packet));
    let mut waiting: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for piece in pieces {
        // Addresses, identification and protocol (RFC 791).
        let key = [&piece[4..6], &piece[9..10], &piece[12..20]].concat();
        let queue = waiting.entry(key).or_default();
        queue.push(piece);
        queue.sort_by_key(|piece| fragment_offset(piece));
        queue.dedup();
        if let Some(datagram) = put_together(queue) {
            whole.push(datagram);
            queue.clear();
        }
    }
    whole.extend(waiting.into_values().flatten());
    whole
}

fn put_together(pieces: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut datagram = pieces.first()?.clone();
    let header_len = usize::from(datagram[0] & 0xf) * 4;
    for piece in pieces {
        let offset = usize::from(fragment_offset(piece)) * 8;
        let content = piece.get(usize::from(piece[0] & 0xf) * 4..)?;
        let behind = datagram.len() - header_len;
        if offset == 0 {
            continue;
        }
        if offset != behind {
            return None;
        }
        datagram.extend(content);
    }
    if word(pieces.last()?, 6) & 0x2000 != 0 || fragment_offset(&pieces[0]) != 0 {
        return None;
    }
    let length = u16::try_from(datagram.len()).ok()?;
    datagram[2..4].copy_from_slice(&length.to_be_bytes());
    datagram[6] &= 0x40;
    datagram[7] = 0;
    datagram[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum::internet(&datagram[..header_len]);
    datagram[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(datagram)
}

/// One of the differences that the module lists.
fn is_known(theirs: &[u8], steps: &[Step]) -> bool {
    let content = behind_header(theirs);
    let sent = steps.last().map_or(&[][..], |step| &step.packet);
    let sent = behind_header(sent);
    let is_repaired = match theirs[9] {
        1 => is_error(content) && checksum::internet(sent) != 0 && checksum::internet(content) == 0,
        132 => sent.len() >= 12 && sent[8..12] != checksum::sctp(sent),
        _ => false,
    };
    // As it was sent: a checksum of zero is one no more when netfilter has calculated with it.
    let quoted = sent
        .get(8..)
        .filter(|quote| theirs[9] == 1 && is_error(content) && quote.len() >= 20);
    is_repaired
        || is_strange(theirs[9], sent)
        || quoted.is_some_and(|quote| quote[9] == 132 || is_strange(quote[9], behind_header(quote)))
        || has_tiny_start(steps)
}

fn is_error(icmp: &[u8]) -> bool {
    matches!(icmp.first(), Some(3 | 4 | 5 | 11 | 12))
}

/// DCCP, and UDP-Lite without a checksum.
fn is_strange(protocol: u8, transport: &[u8]) -> bool {
    protocol == 33 || (protocol == 136 && word(transport, 6) == 0)
}

/// What follows the IP header.
fn behind_header(packet: &[u8]) -> &[u8] {
    let length = packet
        .first()
        .map_or(0, |first| usize::from(first & 0xf) * 4);
    packet.get(length..).unwrap_or_default()
}

/// A first fragment without its transport header.
fn has_tiny_start(steps: &[Step]) -> bool {
    steps.iter().any(|step| {
        let packet = &step.packet;
        is_fragment(packet) && fragment_offset(packet) == 0 && model::carried(step).is_none()
    })
}

/// Whether the node answered alike. Netfilter says nothing where conntrack drops a packet before the
/// TTL is looked at, and changes what it quotes of SCTP. What we refuse gets no answer, where netfilter
/// has not looked at it yet.
fn is_same_answer(step: &Step, theirs: &Outcome, ours: &Outcome) -> bool {
    let [theirs, ours] = [theirs, ours].map(|outcome| -> Vec<Vec<u8>> {
        outcome
            .returned
            .iter()
            .map(|frame| anonymous(frame))
            .collect()
    });
    let is_silent = theirs.is_empty();
    let is_repaired =
        theirs.len() == ours.len() && matches!(step.packet.get(9), Some(33 | 132 | 136));
    theirs == ours
        || ((is_silent || is_repaired) && ours.iter().all(|answer| is_honest(answer, step)))
        || (ours.is_empty() && model::is_refused(step))
}

/// Whether it says "time exceeded", about the packet as its sender sent it.
fn is_honest(answer: &[u8], step: &Step) -> bool {
    let content = behind_header(&answer[L2..]);
    content.first() == Some(&11)
        && content
            .get(8..)
            .is_some_and(|quote| trimmed(&step.packet).starts_with(quote))
}

/// An answer of the node without what is the answerer's own: identification, source, checksum.
fn anonymous(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[L2 + 4..L2 + 6].fill(0);
    frame[L2 + 10..L2 + 16].fill(0);
    frame
}

/// An answer in the name of a VM, which sent none.
fn is_false_answer(frame: &[u8]) -> bool {
    (0..GUESTS.len()).any(|guest| {
        let (vm, eip) = addresses(guest);
        [vm, eip]
            .iter()
            .any(|address| frame[L2 + 12..L2 + 16] == *address)
    })
}

/// A packet whose checksums were right and are no more.
fn newly_wrong(steps: &[Step], got: &[Vec<u8>]) -> Option<String> {
    let sent = assembled(
        steps
            .iter()
            .map(|step| trimmed(&step.packet).to_vec())
            .collect(),
    );
    if sent.iter().any(|packet| checksums(packet).is_err()) {
        return None;
    }
    packets(got)
        .iter()
        .find_map(|packet| checksums(packet).err())
}

/// Computes every checksum of a packet anew, with etherparse.
///
/// # Errors
/// Which one is wrong.
pub fn checksums(packet: &[u8]) -> Result<(), String> {
    let Ok(sliced) = SlicedPacket::from_ip(packet) else {
        // Nothing it could compute: an authentication header of noise, say.
        return Ok(());
    };
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else {
        return Ok(());
    };
    let header = ip.header().to_header();
    if header.header_checksum != header.calc_header_checksum() {
        return Err("etherparse: the IP header's checksum is wrong".to_owned());
    }
    match &sliced.transport {
        Some(transport) => transport_checksum(ip, transport),
        None => Ok(()),
    }
}

fn transport_checksum(ip: &Ipv4Slice<'_>, transport: &TransportSlice<'_>) -> Result<(), String> {
    let (source, destination) = (ip.header().source(), ip.header().destination());
    let pair = match transport {
        TransportSlice::Udp(udp) if udp.checksum() != 0 => udp
            .to_header()
            .calc_checksum_ipv4_raw(source, destination, udp.payload())
            .ok()
            .map(|right| (udp.checksum(), right)),
        TransportSlice::Tcp(tcp) => tcp
            .calc_checksum_ipv4(source, destination)
            .ok()
            .map(|right| (tcp.checksum(), right)),
        // Over all bytes: its types leave out those that a message does not use.
        TransportSlice::Icmpv4(icmp) => {
            let sum = Sum16BitWords::new().add_slice(icmp.slice());
            Some((sum.ones_complement(), 0))
        }
        TransportSlice::Udp(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => None,
    };
    match pair {
        Some((got, right)) if got != right => Err(format!(
            "etherparse: {transport:?} has the checksum {got:#06x}, right is {right:#06x}"
        )),
        _ => Ok(()),
    }
}

fn report(problem: &str, steps: &[Step], theirs: &[Outcome], ours: &[Outcome]) -> String {
    let mut text = format!("{problem}\n");
    let mut line = |what: &str, bytes: &[u8]| {
        let _ = write!(text, "  {what:<10} ");
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    };
    for (index, step) in steps.iter().enumerate() {
        line("sent", &step.packet);
        line("model", &model::carried(step).unwrap_or_default());
        for (who, outcomes) in [("netfilter", theirs), ("ours", ours)] {
            let Some(outcome) = outcomes.get(index) else {
                continue;
            };
            for frame in &outcome.arrived {
                line(who, &frame[L2..]);
            }
            for frame in &outcome.returned {
                line("  answers", &frame[L2..]);
            }
        }
    }
    text
}

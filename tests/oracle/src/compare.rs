//! Who is right about a case.
//!
//! What may differ, and why:
//! - *Bytes behind the packet.* Linux trims link padding when it routes; redirects leave it. The receiver
//!   trims it in either case: frames are cut to the length the IP header tells.
//! - *How a datagram is cut into fragments.* Conntrack puts fragments together and cuts them again, our
//!   redirects carry each as it is: what is compared is the datagram the receiver puts together.
//! - *Identification of an ICMP error the node makes itself*: a random number; and with it the header's
//!   checksum. In IPv6 the flow label.
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
//!   and carries it, we drop it (RFC 1858, RFC 7112: nobody honest cuts there).
//! - *A fragment header of a packet that is none* (RFC 6946): netfilter removes it, we leave it. Receivers
//!   are told to take such a packet for whole.
//! - *A routing header with segments left*: netfilter carries it with a checksum that is about an address
//!   nobody translates, we drop it (RFC 5095).
//! - *More than seven extension headers*: netfilter carries them, we drop such a packet.
//!
//! Everything else has to be equal: hardware addresses, TTL, identification, options, order.

use std::{collections::BTreeMap, fmt::Write as _};

use eip_lab::plan::Family;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::{
    Step,
    chain::{self, Outcome},
    checksum,
    layout::{self, Fragment, Upper, trimmed, upper, word},
    model,
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
pub const L2: usize = 14;

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
    let expected = assembled(steps.iter().filter_map(model::carried).collect());
    let got = arrived(ours);
    let is_expected = match forwarder {
        Forwarder::Programs => got == expected,
        Forwarder::Kernel => got.iter().all(|packet| expected.contains(packet)),
    };
    if !is_expected {
        return told("ours is not what the model says");
    }
    let mut left = got.clone();
    for packet in arrived(theirs) {
        match left.iter().position(|ours| *ours == packet) {
            Some(at) => drop(left.remove(at)),
            None if is_known(&packet, steps) => {}
            None => return told("netfilter carried what ours did not, or otherwise"),
        }
    }
    for (step, (theirs, ours)) in steps.iter().zip(theirs.iter().zip(ours)) {
        if !is_link_alike(theirs, ours) {
            return told("the hardware addresses differ");
        }
        if !is_same_answer(step, theirs, ours) {
            return told("the answers differ");
        }
        if ours.returned.iter().any(|frame| is_false_answer(frame)) {
            return told("the node answers in the name of a VM");
        }
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
    let frames = outcomes.iter().flat_map(|outcome| &outcome.arrived);
    assembled(frames.map(|frame| trimmed(&frame[L2..]).to_vec()).collect())
}

/// Every frame of ours has the link header of a frame of theirs, where they have any.
fn is_link_alike(theirs: &Outcome, ours: &Outcome) -> bool {
    let links = |outcome: &Outcome| -> Vec<Vec<u8>> {
        let frames = outcome.arrived.iter();
        frames.map(|frame| frame[..L2].to_vec()).collect()
    };
    let (theirs, ours) = (links(theirs), links(ours));
    theirs.is_empty() || ours.iter().all(|link| theirs.contains(link))
}

/// Whole packets as they are, then datagrams put together from their fragments as soon as they are
/// complete, as receivers do; those of which a part is missing stay in pieces, duplicates removed.
pub fn assembled(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    let mut waiting: BTreeMap<Vec<u8>, Vec<(Fragment, Vec<u8>)>> = BTreeMap::new();
    for packet in packets {
        let Some(fragment) = upper(&packet).and_then(|upper| upper.fragment) else {
            whole.push(packet);
            continue;
        };
        let key = layout::datagram(&packet, &fragment);
        let queue = waiting.entry(key).or_default();
        queue.push((fragment, packet));
        queue.sort_by_key(|(fragment, _)| fragment.offset);
        queue.dedup();
        if let Some(datagram) = put_together(queue) {
            whole.push(datagram);
            queue.clear();
        }
    }
    let pieces = waiting.into_values().flatten();
    whole.extend(pieces.map(|(_, packet)| packet));
    whole
}

fn put_together(pieces: &[(Fragment, Vec<u8>)]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    for (fragment, packet) in pieces {
        if fragment.offset != content.len() {
            return None;
        }
        content.extend(packet.get(fragment.content..)?);
    }
    let (first, packet) = pieces.first()?;
    let (last, _) = pieces.last()?;
    if last.more {
        return None;
    }
    layout::joined(packet, first, &content)
}

/// One of the differences that the module lists.
fn is_known(theirs: &[u8], steps: &[Step]) -> bool {
    if steps.iter().any(is_refused_by_its_headers) {
        return true;
    }
    let Some(last) = steps.last().map(|step| trimmed(&step.packet)) else {
        return false;
    };
    let (Some(carried), Some(sent), Some(family)) =
        (upper(theirs), upper(last), layout::family(last))
    else {
        return true;
    };
    let content = &last[sent.at..];
    let is_error = sent.protocol == layout::icmp(family)
        && content
            .first()
            .is_some_and(|kind| layout::is_error(family, *kind));
    let is_repaired = match carried.protocol {
        protocol if protocol == layout::icmp(family) => {
            is_error && !is_icmp_right(last, sent) && is_icmp_right(theirs, carried)
        }
        132 => content.len() >= 12 && content[8..12] != checksum::sctp(content),
        _ => false,
    };
    let quote = content
        .get(8..)
        .filter(|quote| is_error && quote.len() >= layout::fixed(family));
    let is_quote_strange = quote.is_some_and(|quote| match upper(quote) {
        Some(upper) => upper.protocol == 132 || is_strange(upper.protocol, &quote[upper.at..]),
        None => true,
    });
    is_repaired || is_quote_strange || steps.iter().any(is_strange_itself)
}

/// Whether the checksum of a message of the family's ICMP is right.
fn is_icmp_right(packet: &[u8], upper: Upper) -> bool {
    let message = &packet[upper.at..];
    let sum = match layout::family(packet) {
        Some(Family::V6) => {
            let (source, destination) = packet[layout::addresses(Family::V6)].split_at(16);
            checksum::transport(source, destination, upper.protocol, message)
        }
        _ => checksum::internet(message),
    };
    sum == 0
}

/// Extension headers netfilter does not look at, and a first fragment without its transport header.
fn is_refused_by_its_headers(step: &Step) -> bool {
    let packet = trimmed(&step.packet);
    let is_whole = layout::claimed(packet) == Some(packet.len());
    is_whole
        && match upper(packet) {
            None => true,
            Some(upper) => upper.fragment.is_some() && !upper.is_later() && model::is_refused(step),
        }
}

/// DCCP, and UDP-Lite without a checksum.
fn is_strange(protocol: u8, transport: &[u8]) -> bool {
    protocol == 33 || (protocol == 136 && word(transport, 6) == 0)
}

fn is_strange_itself(step: &Step) -> bool {
    let packet = trimmed(&step.packet);
    upper(packet).is_some_and(|upper| is_strange(upper.protocol, &packet[upper.at..]))
}

/// Whether the node answered alike. Netfilter says nothing where conntrack drops a packet before the
/// TTL is looked at, and changes what it quotes of SCTP. What we refuse gets no answer, where netfilter
/// has not looked at it yet.
fn is_same_answer(step: &Step, theirs: &Outcome, ours: &Outcome) -> bool {
    let [theirs, ours] = [theirs, ours].map(|outcome| -> Vec<Vec<u8>> {
        let frames = outcome.returned.iter();
        frames.map(|frame| anonymous(frame)).collect()
    });
    let protocol = upper(&step.packet).map_or(0, |upper| upper.protocol);
    let is_repaired = theirs.len() == ours.len() && matches!(protocol, 33 | 132 | 136);
    theirs == ours
        || ((theirs.is_empty() || is_repaired) && ours.iter().all(|answer| is_honest(answer, step)))
        || (ours.is_empty() && model::is_refused(step))
}

/// Whether it says "time exceeded", about the packet as its sender sent it.
fn is_honest(answer: &[u8], step: &Step) -> bool {
    let answer = &answer[L2..];
    let content = layout::header_len(answer).map_or(&[][..], |length| &answer[length..]);
    let exceeded = match step.family() {
        Family::V4 => 11,
        Family::V6 => 3,
    };
    content.first() == Some(&exceeded)
        && content
            .get(8..)
            .is_some_and(|quote| trimmed(&step.packet).starts_with(quote))
}

/// An answer of the node without what is the answerer's own: source, identification or flow label, and the
/// checksum that covers them.
fn anonymous(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let packet = &mut frame[L2..];
    let own = match layout::family(packet) {
        Some(Family::V6) => [1..4, 8..24, 42..44],
        _ => [4..6, 10..12, 12..16],
    };
    for range in own {
        packet[range].fill(0);
    }
    frame
}

/// An answer in the name of a VM, which sent none.
fn is_false_answer(frame: &[u8]) -> bool {
    let packet = &frame[L2..];
    layout::family(packet).is_some_and(|family| {
        let source = &packet[layout::source(family)];
        chain::all_addresses(family).any(|address| address == source)
    })
}

/// A packet whose checksums were right and are no more.
fn newly_wrong(steps: &[Step], got: &[Vec<u8>]) -> Option<String> {
    let sent = steps.iter().map(|step| trimmed(&step.packet).to_vec());
    let sent = assembled(sent.collect());
    if sent.iter().any(|packet| checksums(packet).is_err()) {
        return None;
    }
    got.iter().find_map(|packet| checksums(packet).err())
}

/// Computes every checksum of a packet anew, with etherparse.
///
/// # Errors
/// Which one is wrong.
pub fn checksums(packet: &[u8]) -> Result<(), String> {
    // Nothing it could compute, otherwise: an authentication header of noise, say.
    let Ok(SlicedPacket { net, transport, .. }) = SlicedPacket::from_ip(packet) else {
        return Ok(());
    };
    let pair = match (&net, &transport) {
        (Some(NetSlice::Ipv4(ip)), transport) => {
            let header = ip.header().to_header();
            if header.header_checksum != header.calc_header_checksum() {
                return Err("etherparse: the IP header's checksum is wrong".to_owned());
            }
            let (source, destination) = (header.source, header.destination);
            match transport {
                Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => udp
                    .to_header()
                    .calc_checksum_ipv4_raw(source, destination, udp.payload())
                    .ok()
                    .map(|right| (udp.checksum(), right)),
                Some(TransportSlice::Tcp(tcp)) => tcp
                    .calc_checksum_ipv4(source, destination)
                    .ok()
                    .map(|right| (tcp.checksum(), right)),
                // Over all bytes: its types leave out those that a message does not use.
                Some(TransportSlice::Icmpv4(icmp)) => {
                    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(icmp.slice());
                    Some((sum.ones_complement(), 0))
                }
                _ => None,
            }
        }
        (Some(NetSlice::Ipv6(ip)), transport) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            match transport {
                Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => udp
                    .to_header()
                    .calc_checksum_ipv6_raw(source, destination, udp.payload())
                    .ok()
                    .map(|right| (udp.checksum(), right)),
                Some(TransportSlice::Tcp(tcp)) => tcp
                    .calc_checksum_ipv6(source, destination)
                    .ok()
                    .map(|right| (tcp.checksum(), right)),
                Some(TransportSlice::Icmpv6(icmp)) => {
                    let is_right = icmp.is_checksum_valid(source, destination);
                    Some((u16::from(is_right), 1))
                }
                _ => None,
            }
        }
        _ => None,
    };
    match pair {
        Some((got, right)) if got != right => Err(format!(
            "etherparse: {transport:?} has a wrong checksum ({got:#06x}, right is {right:#06x})"
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

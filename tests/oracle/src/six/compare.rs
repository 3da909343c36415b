//! Who is right about an IPv6 case. What may differ is what [`crate::compare`] lists, where IPv6 has it,
//! and besides:
//! - *A fragment header of a packet that is none* (RFC 6946): netfilter removes it, we leave it. Receivers
//!   are told to take such a packet for whole.
//! - *A routing header with segments left*: netfilter carries it with a checksum that is about an address
//!   nobody translates, we drop it (RFC 5095).
//! - *More than seven extension headers*: netfilter carries them, we drop such a packet.

use std::{collections::BTreeMap, fmt::Write as _};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::{
    ADDRESSES, FIXED,
    model::{self, upper},
};
use crate::{
    Step,
    chain::{GUESTS, Outcome, addresses6},
    checksum,
    compare::{Forwarder, Judge},
};

/// Length of an Ethernet header.
const L2: usize = 14;

/// As [`crate::compare::judge`].
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
    if !is_link_alike(theirs, ours) {
        return told("the hardware addresses differ");
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

/// What came out at the far ends, cut to its length and put together.
fn arrived(outcomes: &[Outcome]) -> Vec<Vec<u8>> {
    let frames = outcomes.iter().flat_map(|outcome| &outcome.arrived);
    assembled(frames.map(|frame| trimmed(&frame[L2..]).to_vec()).collect())
}

/// Every frame of one chain has the link header of any frame of the other.
fn is_link_alike(theirs: &[Outcome], ours: &[Outcome]) -> bool {
    theirs.iter().zip(ours).all(|(theirs, ours)| {
        let links = |outcome: &Outcome| -> Vec<Vec<u8>> {
            let links = outcome.arrived.iter().map(|frame| frame[..L2].to_vec());
            links.collect()
        };
        let (theirs, ours) = (links(theirs), links(ours));
        theirs.is_empty() || ours.iter().all(|link| theirs.contains(link))
    })
}

fn word(packet: &[u8], at: usize) -> u16 {
    packet
        .get(at..at + 2)
        .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn trimmed(packet: &[u8]) -> &[u8] {
    packet
        .get(..FIXED + usize::from(word(packet, 4)))
        .unwrap_or(packet)
}

/// Offset and "more" of the fragment header that stands at `at`.
fn piece(packet: &[u8], at: usize) -> (usize, bool) {
    let field = word(packet, at + 2);
    (usize::from(field & 0xfff8), field & 1 == 1)
}

/// Whole packets as they are, then those that fragments make; those of which a part is missing stay in
/// pieces, duplicates removed.
pub fn assembled(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    let mut waiting: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for packet in packets {
        let Some((at, _)) = upper(&packet).and_then(|upper| upper.fragment) else {
            whole.push(packet);
            continue;
        };
        let key = [&packet[ADDRESSES], &packet[at + 4..at + 8]].concat();
        let queue = waiting.entry(key).or_default();
        queue.push(packet);
        queue.sort_by_key(|packet| fragment_offset(packet));
        queue.dedup();
        if let Some(datagram) = put_together(queue) {
            whole.push(datagram);
            queue.clear();
        }
    }
    whole.extend(waiting.into_values().flatten());
    whole
}

fn fragment_offset(packet: &[u8]) -> usize {
    let fragment = upper(packet).and_then(|upper| upper.fragment);
    fragment.map_or(0, |(at, _)| piece(packet, at).0)
}

/// Without its fragment header.
fn put_together(pieces: &[Vec<u8>]) -> Option<Vec<u8>> {
    let first = pieces.first()?;
    let (at, written) = upper(first)?.fragment?;
    let mut datagram = first[..at].to_vec();
    datagram[written] = first[at];
    let mut is_open = true;
    for packet in pieces {
        let (at, _) = upper(packet)?.fragment?;
        let (offset, more) = piece(packet, at);
        if offset != datagram.len() - (upper(first)?.fragment?.0) {
            return None;
        }
        datagram.extend(&packet[at + 8..]);
        is_open = more;
    }
    if is_open {
        return None;
    }
    let length = u16::try_from(datagram.len() - FIXED).ok()?;
    datagram[4..6].copy_from_slice(&length.to_be_bytes());
    Some(datagram)
}

/// One of the differences that the modules list.
fn is_known(theirs: &[u8], steps: &[Step]) -> bool {
    if steps.iter().any(is_refused_by_its_headers) {
        return true;
    }
    let Some(carried) = upper(theirs) else {
        return true;
    };
    let Some(last) = steps.last().map(|step| trimmed(&step.packet)) else {
        return false;
    };
    let Some(sent) = upper(last) else {
        return true;
    };
    let content = &last[sent.at..];
    let is_error = sent.protocol == 58 && content.first().is_some_and(|kind| *kind < 128);
    let is_repaired = match carried.protocol {
        58 => is_error && checksums(last).is_err() && checksums(theirs).is_ok(),
        132 => content.len() >= 12 && content[8..12] != checksum::sctp(content),
        _ => false,
    };
    let quote = content
        .get(8..)
        .filter(|quote| is_error && quote.len() >= FIXED);
    let is_quote_strange = quote.is_some_and(|quote| match upper(quote) {
        Some(upper) => upper.protocol == 132 || is_strange(upper.protocol, &quote[upper.at..]),
        None => true,
    });
    is_repaired || is_strange(sent.protocol, content) || is_quote_strange
}

/// Headers netfilter does not look at, and a first fragment without its transport header.
fn is_refused_by_its_headers(step: &Step) -> bool {
    let packet = trimmed(&step.packet);
    let is_whole = packet.len() >= FIXED && packet.len() == FIXED + usize::from(word(packet, 4));
    is_whole
        && match upper(packet) {
            None => true,
            Some(upper) => upper.fragment.is_some() && !upper.is_later && model::is_refused(step),
        }
}

/// DCCP, and UDP-Lite without a checksum.
fn is_strange(protocol: u8, transport: &[u8]) -> bool {
    protocol == 33 || (protocol == 136 && word(transport, 6) == 0)
}

/// As in IPv4: netfilter may be silent where conntrack drops a packet first, and what we refuse gets no
/// answer.
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
    let content = &answer[L2 + FIXED..];
    content.first() == Some(&3)
        && content
            .get(8..)
            .is_some_and(|quote| trimmed(&step.packet).starts_with(quote))
}

/// An answer of the node without what is the answerer's own: flow label, source, checksum.
fn anonymous(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[L2 + 1..L2 + 4].fill(0);
    frame[L2 + 8..L2 + 24].fill(0);
    frame[L2 + FIXED + 2..L2 + FIXED + 4].fill(0);
    frame
}

/// An answer in the name of a VM, which sent none.
fn is_false_answer(frame: &[u8]) -> bool {
    (0..GUESTS.len()).any(|guest| {
        let (vm, eip) = addresses6(guest);
        [vm, eip]
            .iter()
            .any(|address| frame[L2 + 8..L2 + 24] == *address)
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
fn checksums(packet: &[u8]) -> Result<(), String> {
    let Ok(sliced) = SlicedPacket::from_ip(packet) else {
        // Nothing it could compute.
        return Ok(());
    };
    let (Some(NetSlice::Ipv6(ip)), Some(transport)) = (&sliced.net, &sliced.transport) else {
        return Ok(());
    };
    let (source, destination) = (ip.header().source(), ip.header().destination());
    let pair = match transport {
        TransportSlice::Udp(udp) if udp.checksum() != 0 => udp
            .to_header()
            .calc_checksum_ipv6_raw(source, destination, udp.payload())
            .ok()
            .map(|right| (udp.checksum(), right)),
        TransportSlice::Tcp(tcp) => tcp
            .calc_checksum_ipv6(source, destination)
            .ok()
            .map(|right| (tcp.checksum(), right)),
        TransportSlice::Icmpv6(icmp) => {
            let is_right = icmp.is_checksum_valid(source, destination);
            Some((u16::from(is_right), 1))
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

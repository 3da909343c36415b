//! The leak detector: nothing outside the node may carry an address of its inside.
//!
//! Watches every frame on the router and on the client. What counts as a leak:
//! - a pod or service address as source, destination or ARP party;
//! - the node's own address as source of anything but an ICMP error, unless the test said that the
//!   node itself (or a pod behind its masquerade) talks: a VM's packet must never leave that way;
//! - either of them inside the packet that an ICMP error quotes: what a VM's packet looked like before
//!   translation is as telling there, and as useless to whoever gets the error.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    packet::{Arp, IpPacket, Transport},
    plan::{self, Family},
    sniff::Frame,
};

/// Shared by the sniffers of a world.
#[derive(Debug, Clone, Default)]
pub struct LeakDetector {
    leaks: Arc<Mutex<BTreeMap<String, u64>>>,
    node_may_talk: Arc<AtomicBool>,
    looked_at: Arc<AtomicU64>,
}

impl LeakDetector {
    /// From now on the node, and pods behind its masquerade, may talk to the outside.
    pub fn allow_node_traffic(&self) {
        self.node_may_talk.store(true, Ordering::Relaxed);
    }

    /// Forgets what was seen.
    pub(crate) fn forget(&self) {
        self.leaks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Judges one frame.
    pub fn look_at(&self, frame: &Frame) {
        self.looked_at.fetch_add(1, Ordering::Relaxed);
        let Some(problem) = self.judge(&frame.bytes) else {
            return;
        };
        // One line per kind of leak, not per packet.
        let line = format!("{problem} on {}", frame.interface);
        let mut leaks = self.leaks.lock().unwrap_or_else(PoisonError::into_inner);
        *leaks.entry(line).or_default() += 1;
    }

    fn judge(&self, bytes: &[u8]) -> Option<String> {
        if let Some(arp) = Arp::parse(bytes) {
            return [arp.sender, arp.target]
                .into_iter()
                .find(|address| plan::is_inside(IpAddr::V4(*address)))
                .map(|address| format!("ARP about {address}"));
        }
        let packet = IpPacket::parse(bytes)?;
        if plan::is_inside(packet.source) || plan::is_inside(packet.destination) {
            return Some(format!("an inside address: {}", summary(&packet)));
        }
        if self.is_nodes_conversation(&packet) {
            return Some(format!(
                "the node's own address as source: {}",
                summary(&packet)
            ));
        }
        let quoted = packet.quoted()?;
        let problem = if plan::is_inside(quoted.source) || plan::is_inside(quoted.destination) {
            "an inside address"
        } else if self.is_nodes_conversation(&quoted) {
            "the node's own address as source"
        } else {
            return None;
        };
        Some(format!(
            "{problem} in a quote: {} quotes {}",
            summary(&packet),
            summary(&quoted)
        ))
    }

    fn is_nodes_conversation(&self, packet: &IpPacket) -> bool {
        is_node(packet.source)
            && !self.node_may_talk.load(Ordering::Relaxed)
            && is_conversation(packet)
    }

    /// How many frames were judged.
    #[must_use]
    pub fn looked_at(&self) -> u64 {
        self.looked_at.load(Ordering::Relaxed)
    }

    /// Every kind of leak seen so far, with the number of frames.
    #[must_use]
    pub fn leaks(&self) -> Vec<String> {
        self.leaks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(line, count)| format!("{line} ({count} frames)"))
            .collect()
    }
}

fn summary(packet: &IpPacket) -> String {
    format!(
        "{} > {} protocol {}",
        packet.source, packet.destination, packet.protocol
    )
}

fn is_node(address: IpAddr) -> bool {
    [Family::V4, Family::V6].into_iter().any(|family| {
        address == plan::NODE_UPLINK.of(family) || address == plan::NODE_MANAGEMENT.of(family)
    })
}

/// Neighbour discovery and errors are the node's own business; everything else is a conversation.
fn is_conversation(packet: &IpPacket) -> bool {
    match (packet.source, &packet.transport) {
        (
            IpAddr::V6(_),
            Transport::Icmp {
                kind: 130..=137 | 143,
                ..
            },
        ) => false,
        _ => !packet.is_icmp_error(),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::LeakDetector;

    const CLIENT: [u8; 4] = [198, 51, 100, 2];
    const EIP: [u8; 4] = [203, 0, 113, 11];

    fn udp(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(source, destination, 64)
            .udp(1, 2)
            .write(&mut frame, b"x")
            .unwrap();
        frame
    }

    /// "Port unreachable" about a packet, of which as much is quoted as the smallest router does.
    fn unreachable(source: [u8; 4], destination: [u8; 4], about: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(source, destination, 64)
            .icmpv4_raw(3, 3, [0; 4])
            .write(&mut frame, about.get(14..14 + 28).unwrap())
            .unwrap();
        frame
    }

    #[test]
    fn a_quote_that_shows_the_inside_is_a_leak_in_both_directions() {
        let detector = LeakDetector::default();
        for (source, destination) in [(EIP, CLIENT), (CLIENT, EIP)] {
            let judge = |about: &[u8]| detector.judge(&unreachable(source, destination, about));
            assert!(judge(&udp([10, 244, 1, 11], CLIENT)).is_some());
            assert!(judge(&udp(CLIENT, [10, 244, 1, 11])).is_some());
            assert!(judge(&udp([192, 0, 2, 10], CLIENT)).is_some());
            assert!(judge(&udp(CLIENT, EIP)).is_none());
            assert!(judge(&udp(EIP, CLIENT)).is_none());
        }
        detector.allow_node_traffic();
        let about_the_node = unreachable(CLIENT, [192, 0, 2, 10], &udp([192, 0, 2, 10], CLIENT));
        assert!(detector.judge(&about_the_node).is_none());
    }

    #[test]
    fn inside_addresses_and_the_nodes_own_are_leaks_and_eips_are_not() {
        let detector = LeakDetector::default();
        assert!(detector.judge(&udp([10, 244, 1, 11], CLIENT)).is_some());
        assert!(detector.judge(&udp(CLIENT, [10, 244, 1, 11])).is_some());
        assert!(detector.judge(&udp([192, 0, 2, 10], CLIENT)).is_some());
        assert!(detector.judge(&udp(EIP, CLIENT)).is_none());
        detector.allow_node_traffic();
        assert!(detector.judge(&udp([192, 0, 2, 10], CLIENT)).is_none());
    }
}

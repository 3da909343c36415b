//! What is said and what is heard, as frames. Pure.

use std::net::IpAddr;

use eip_common::{
    addr::Mac,
    neighbour::{
        self, Kind, arp_announcement, arp_gratuitous_reply, arp_probe, duplicate_probe, stated_mac,
        unsolicited_advertisement,
    },
    parse::Bytes,
};

/// The frames of one announcement: the question for another owner first, then the news.
pub(super) fn announcement(eip: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match eip {
        IpAddr::V4(eip) => {
            let eip = eip.octets();
            [
                arp_probe(eip, mac),
                arp_announcement(eip, mac),
                arp_gratuitous_reply(eip, mac),
            ]
            .map(Vec::from)
            .into()
        }
        IpAddr::V6(eip) => {
            let eip = eip.octets();
            vec![
                duplicate_probe(eip, mac).into(),
                unsolicited_advertisement(eip, mac).into(),
            ]
        }
    }
}

/// Who says by this frame to have which address: the sender of any ARP message, or of a valid neighbour
/// advertisement.
pub(super) fn claim(frame: &[u8]) -> Option<(IpAddr, Mac)> {
    if let Ok(arp) = neighbour::arp(frame)
        && frame.get(12..14) == Some(&neighbour::ETHERTYPE_ARP)
    {
        return Some((arp.sender.into(), arp.sender_mac));
    }
    let subject =
        neighbour::subject(frame).filter(|subject| subject.kind == Kind::Advertisement)?;
    let stated = stated_mac(frame, frame, frame.len(), &subject).ok()?;
    let mac = stated.or_else(|| frame.read(6))?;
    Some((subject.target.into(), mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    #[test]
    fn an_announcement_claims_and_its_probe_does_not() {
        for (eip, count) in [("203.0.113.10", 3), ("2001:db8::10", 2)] {
            let eip: IpAddr = eip.parse().unwrap();
            let frames = announcement(eip, MAC);
            assert_eq!(frames.len(), count);
            let claims: Vec<_> = frames.iter().map(|frame| claim(frame)).collect();
            assert_ne!(claims[0], Some((eip, MAC)), "the probe");
            assert!(claims[1..].iter().all(|one| *one == Some((eip, MAC))));
        }
    }

    #[test]
    fn what_came_from_beyond_the_link_claims_nothing() {
        let mut frame = announcement("2001:db8::10".parse().unwrap(), MAC).remove(1);
        frame[21] = 64;
        assert_eq!(claim(&frame), None);
        assert_eq!(claim(&[]), None);
    }
}

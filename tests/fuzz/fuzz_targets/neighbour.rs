//! ARP and neighbour discovery from the link: read or refused, and an answer is written inside its frame.
#![no_main]

use eip_common::neighbour;
use libfuzzer_sys::fuzz_target;

/// Frames that are right, to be damaged: nobody finds an ARP header by chance.
fn right(which: u8) -> Vec<u8> {
    let eip6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    match which % 4 {
        0 => neighbour::arp_announcement([203, 0, 113, 1], [2; 6]).to_vec(),
        1 => neighbour::arp_gratuitous_reply([203, 0, 113, 1], [2; 6]).to_vec(),
        2 => neighbour::unsolicited_advertisement(eip6, [2; 6]).to_vec(),
        _ => Vec::new(),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((which, damage)) = data.split_first() else {
        return;
    };
    let mut frame = right(*which);
    frame.resize(frame.len().max(damage.len()), 0);
    for (byte, damage) in frame.iter_mut().zip(damage) {
        *byte ^= damage;
    }
    read(&frame);
});

fn read(frame: &[u8]) {
    if let Ok(question) = neighbour::arp(frame)
        && question.asks()
    {
        let mut answer = frame.to_vec();
        let written = neighbour::write_arp_reply(&mut answer[..], &question, [2; 6]);
        assert_eq!(written, Some(()), "a question has room for its answer");
        let answer = neighbour::arp(&answer[..]).expect("an answer is ARP");
        assert!(!answer.asks());
        assert_eq!(answer.sender, question.target);
    }
    let Some(subject) = neighbour::subject(frame) else {
        return;
    };
    let _ = subject.claims();
    let _ = neighbour::stated_mac(frame, frame, frame.len(), &subject);
}

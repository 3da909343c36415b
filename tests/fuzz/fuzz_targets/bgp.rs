//! What a BGP peer sends: cut into messages anywhere, read or refused, and whatever is refused is refused
//! with a NOTIFICATION that is itself a good message.
#![no_main]

// The codec alone: the daemon around it takes minutes to build and has nothing to add.
#[allow(dead_code, unused_imports)]
#[path = "../../../eip-daemon/src/announce/bgp/wire/mod.rs"]
mod wire;

use libfuzzer_sys::fuzz_target;
use wire::{Framer, Message, Notification, SizeLimit, decode_header};

fuzz_target!(|data: &[u8]| {
    let Some(([flags, cut], stream)) = data.split_first_chunk::<2>() else {
        return;
    };
    let mut framer = Framer::default();
    if flags & 1 != 0 {
        framer.allow_extended();
    }
    let room = framer.space().len();
    for chunk in marked(stream, flags & 2 != 0).chunks(usize::from(*cut) + 1) {
        let space = framer.space();
        let len = chunk.len().min(space.len());
        space[..len].copy_from_slice(&chunk[..len]);
        framer.advance(len);
        loop {
            match framer.next_message() {
                Ok(None) => break,
                Ok(Some(message)) => judge(&message),
                Err(answer) => return answered(&answer),
            }
        }
        assert!(
            !framer.space().is_empty(),
            "a buffer that takes nothing more"
        );
        assert_eq!(framer.space().len().max(room), room, "a buffer that grows");
    }
});

/// Nobody finds sixteen ones by chance.
fn marked(stream: &[u8], is_marked: bool) -> Vec<u8> {
    if !is_marked {
        return stream.to_vec();
    }
    let mut bytes = Vec::new();
    for body in stream.chunks(48) {
        let Some((kind, body)) = body.split_first() else {
            continue;
        };
        let len = u16::try_from(19 + body.len()).unwrap();
        bytes.extend_from_slice(&[0xff; 16]);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.push(kind % 6);
        bytes.extend_from_slice(body);
    }
    bytes
}

fn judge(message: &Message<'_>) {
    match message {
        Message::Open(open) => {
            // What was understood is said again and understood again.
            let mut bytes = Vec::new();
            open.encode("", &mut bytes);
            let mut framer = Framer::default();
            framer.space()[..bytes.len()].copy_from_slice(&bytes);
            framer.advance(bytes.len());
            let again = framer.next_message().expect("ours is good");
            let Some(Message::Open(again)) = again else {
                panic!("{again:?}")
            };
            assert_eq!((again.asn, again.hold_time_s), (open.asn, open.hold_time_s));
            assert_eq!(again.router_id, open.router_id);
        }
        Message::Notification(notification) => {
            let text = notification.text().unwrap_or_default();
            assert!(
                !text.contains(['\n', '\u{1b}']),
                "{text:?} breaks a log line"
            );
            let _ = notification.true_reason();
        }
        Message::Update(_) | Message::Keepalive | Message::RouteRefresh(_) => {}
    }
}

fn answered(answer: &Notification<'static>) {
    let mut bytes = Vec::new();
    answer.encode(&mut bytes);
    let header = decode_header(&bytes, SizeLimit::Standard).expect("a good header");
    assert_eq!(header.map(|(_, len)| len), Some(bytes.len()));
}

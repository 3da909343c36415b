//! VLAN interfaces, the kernel's own where it has them.
//!
//! A kernel without them (`CONFIG_VLAN_8021Q`) gets a stand-in: a veth whose other end lies in a namespace of its
//! own, from where two threads carry frames to and from the interface below, with the tags put in and taken out.
//! The cable then carries what a VLAN interface would have sent, and both ends live on what one would have handed
//! up. What it does not show is the code of those interfaces themselves.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::Context as _;
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{LinkAddr, recvfrom},
};
use socket2::{SockFilter, SockRef};

use crate::{
    netns::Ns,
    plan::mac_text,
    sniff::{FRAME_MAX, Injector, packet_socket},
};

/// Offset of the first tag in a frame, behind both hardware addresses.
const TAG_AT: usize = 12;
/// Length of a tag.
const TAG_LEN: usize = 4;

/// A VLAN tag, without priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    protocol: u16,
    id: u16,
}

impl Tag {
    /// 802.1Q.
    pub(crate) const fn customer(id: u16) -> Self {
        Self {
            protocol: 0x8100,
            id,
        }
    }

    /// 802.1ad, for a VLAN with VLANs inside.
    pub(crate) const fn service(id: u16) -> Self {
        Self {
            protocol: 0x88a8,
            id,
        }
    }

    fn bytes(self) -> [u8; TAG_LEN] {
        let ([a, b], [c, d]) = (self.protocol.to_be_bytes(), self.id.to_be_bytes());
        [a, b, c, d]
    }

    const fn name(self) -> &'static str {
        match self.protocol {
            0x88a8 => "802.1ad",
            _ => "802.1Q",
        }
    }
}

/// Adds the interface `name` above `below`, for frames with these tags, from the outside in.
///
/// # Errors
/// When the kernel refuses; that it has no VLANs is no refusal.
pub(crate) fn add(
    ns: &Ns,
    prefix: &str,
    below: &str,
    name: &str,
    tags: &[Tag],
) -> anyhow::Result<Option<StandIn>> {
    let mut parent = below.to_owned();
    for (number, tag) in tags.iter().enumerate() {
        let own = if number + 1 == tags.len() {
            name.to_owned()
        } else {
            format!("{name}o{number}")
        };
        let (protocol, id) = (tag.name(), tag.id);
        let added = ns.sh(&format!(
            "ip link add link {parent} name {own} type vlan proto {protocol} id {id}"
        ));
        match added {
            Err(error) if number == 0 && format!("{error:#}").contains("Unknown device type") => {
                return StandIn::start(ns, prefix, below, name, tags).map(Some);
            }
            added => added?,
        };
        if own != name {
            ns.ip(&format!("link set {own} up\n"))?;
        }
        parent = own;
    }
    ns.ip(&format!("link set {name} mtu 1500\n"))?;
    // The tag is in the frame on a veth then, as it is on a wire, and not beside it.
    ns.sh(&format!(
        "ethtool -K {below} tx-vlan-hw-insert off tx-vlan-stag-hw-insert off"
    ))?;
    Ok(None)
}

/// Does the work of a VLAN interface while it lives.
#[derive(Debug)]
pub(crate) struct StandIn {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    // Last, with the other end of the veth in it.
    _far: Ns,
}

impl StandIn {
    fn start(ns: &Ns, prefix: &str, below: &str, name: &str, tags: &[Tag]) -> anyhow::Result<Self> {
        let far = Ns::create(&format!("{prefix}{name}"))?;
        far.sysctl("ipv6/conf/default/disable_ipv6=1")?;
        let mac = mac_text(Injector::open(ns, below)?.mac);
        ns.ip(&format!(
            "link add {name} address {mac} type veth peer name far0 netns {}\n",
            far.name()
        ))?;
        far.ip("link set far0 up\n")?;
        // Nobody is left to compute a checksum or to cut a super-packet.
        ns.sh(&format!("ethtool -K {name} tx off"))?;
        let outer = tags.first().copied().context("a VLAN has a tag")?;
        let inner: Vec<u8> = tags.iter().skip(1).flat_map(|tag| tag.bytes()).collect();
        let all: Vec<u8> = tags.iter().flat_map(|tag| tag.bytes()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let up = Carrier {
            from: Ear::open(ns, below, Some(outer))?,
            to: Injector::open(&far, "far0")?,
            stop: Arc::clone(&stop),
        };
        let down = Carrier {
            from: Ear::open(&far, "far0", None)?,
            to: Injector::open(ns, below)?,
            stop: Arc::clone(&stop),
        };
        let threads = vec![
            thread::spawn(move || up.carry(|frame| take_out(frame, &inner))),
            thread::spawn(move || down.carry(|frame| Some(put_in(frame, &all)))),
        ];
        Ok(Self {
            stop,
            threads,
            _far: far,
        })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Without these tags, if it has them.
fn take_out(frame: &[u8], tags: &[u8]) -> Option<Vec<u8>> {
    let (addresses, rest) = frame.split_at_checked(TAG_AT)?;
    Some([addresses, rest.strip_prefix(tags)?].concat())
}

fn put_in(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(TAG_AT.min(frame.len()));
    [addresses, tags, rest].concat()
}

struct Carrier {
    from: Ear,
    to: Injector,
    stop: Arc<AtomicBool>,
}

impl Carrier {
    fn carry(&self, change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
        let mut buffer = vec![0; FRAME_MAX];
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(frame) = self.from.next(&mut buffer).and_then(&change) {
                // To an interface that is down, say: lost, as on a wire.
                let _ = self.to.send(&frame);
            }
        }
    }
}

/// Hears the frames that one interface receives in one VLAN; without the outermost tag, which the kernel has
/// taken off by then.
struct Ear(OwnedFd);

impl Ear {
    /// In the VLAN of `tag`, or in none.
    fn open(ns: &Ns, interface: &str, tag: Option<Tag>) -> anyhow::Result<Self> {
        ns.run(|| {
            let socket = packet_socket()?;
            let ifindex =
                if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
            SockRef::from(&socket)
                .attach_filter(&filter(ifindex, tag))
                .context("attach a socket filter")?;
            Ok(Self(socket))
        })
    }

    /// The next one; `None` when there was none for a moment.
    fn next<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let (length, _) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), buffer).ok()?;
        buffer.get(..length)
    }
}

/// Classic BPF: received on this interface, in this VLAN.
fn filter(ifindex: u32, tag: Option<Tag>) -> Vec<SockFilter> {
    // `linux/filter.h`: what is beside the frame stands at negative offsets.
    const BESIDE: u32 = 0xffff_f000;
    const PACKET_TYPE: u32 = BESIDE + 4;
    const IFINDEX: u32 = BESIDE + 8;
    const VLAN_TAG: u32 = BESIDE + 44;
    const VLAN_TAG_PRESENT: u32 = BESIDE + 48;
    const VLAN_PROTOCOL: u32 = BESIDE + 60;
    const PACKET_OUTGOING: u32 = 4;
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const AND: u16 = 0x54;
    const RETURN: u16 = 0x06;

    let mut checks = vec![
        (LOAD_WORD, PACKET_TYPE, false, PACKET_OUTGOING),
        (LOAD_WORD, IFINDEX, true, ifindex),
        (LOAD_WORD, VLAN_TAG_PRESENT, true, u32::from(tag.is_some())),
    ];
    if let Some(tag) = tag {
        checks.push((LOAD_HALF, VLAN_PROTOCOL, true, tag.protocol.into()));
        checks.push((LOAD_WORD, VLAN_TAG, true, tag.id.into()));
    }
    let mut program = Vec::new();
    for (load, offset, is_wanted, value) in checks {
        program.push(SockFilter::new(load, 0, 0, offset));
        if offset == VLAN_TAG {
            program.push(SockFilter::new(AND, 0, 0, 0xfff));
        }
        // Over the refusal, or into it.
        let (equal, other) = if is_wanted { (1, 0) } else { (0, 1) };
        program.push(SockFilter::new(JUMP_IF_EQUAL, equal, other, value));
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program
}

#[cfg(test)]
mod tests {
    use super::{Tag, put_in, take_out};

    #[test]
    fn tags_go_behind_the_addresses_and_out_again() {
        let frame: Vec<u8> = (0..40).collect();
        let tags = [Tag::service(200).bytes(), Tag::customer(100).bytes()].concat();
        let tagged = put_in(&frame, &tags);
        assert_eq!(
            tagged[10..22],
            [10, 11, 0x88, 0xa8, 0, 200, 0x81, 0, 0, 100, 12, 13]
        );
        assert_eq!(take_out(&tagged, &tags), Some(frame.clone()));
        assert_eq!(take_out(&frame, &tags), None, "another VLAN");
        assert_eq!(take_out(&frame[..9], &tags), None, "no frame");
    }
}

//! Wakes whoever keeps the kernel in order when the node's network changes.
//!
//! One task listens to the kernel's multicast groups. What it hears is only a reason to look, never
//! itself a fact: a message may be lost (the socket overflows on a busy node, and then counts as a
//! reason to look), and the look is always complete. Owned by the data plane; ends with it.

use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc, time::Duration};

use eip_common::addr::Mac;
use futures::{FutureExt as _, StreamExt as _, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{AddressFamily, RouteNetlinkMessage, neighbour::NeighbourMessage},
    sys::{AsyncSocket as _, SocketAddr},
};
use tokio::{sync::Notify, task::JoinHandle, time};

use super::neighbours;

/// What changes together is looked at together.
const SETTLE: Duration = Duration::from_millis(50);
/// After the socket broke.
const REOPEN: Duration = Duration::from_secs(1);
/// Room for bursts, in bytes: a node starting many VMs.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Neighbours remembered to tell news from repetitions. Beyond, everything is news.
const KNOWN_NEIGHBOURS: usize = 65_536;

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Tc,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// The listening task; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct EventTask(JoinHandle<()>);

impl Drop for EventTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts listening. Changes from here on are notified, coalesced into one permit.
pub(crate) fn watch(events: Arc<Notify>) -> io::Result<EventTask> {
    let messages = listen()?;
    Ok(EventTask(tokio::spawn(async move {
        forward(messages, &events).await;
    })))
}

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

fn listen() -> io::Result<Messages> {
    let (mut connection, _handle, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
    let socket = connection.socket_mut().socket_mut();
    // Best effort: a smaller buffer overflows earlier, and an overflow is a reason to look.
    if let Err(error) = socket.set_rx_buf_sz(RECEIVE_BUFFER) {
        tracing::debug!(%error, "netlink receive buffer stays at its default");
    }
    tokio::spawn(connection);
    Ok(messages)
}

async fn forward(mut messages: Messages, events: &Notify) {
    let mut known = KnownNeighbours::default();
    loop {
        while let Some((message, _)) = messages.next().await {
            let mut is_news = known.is_news(&message.payload);
            while is_news {
                events.notify_one();
                time::sleep(SETTLE).await;
                is_news = take_what_came(&mut messages, &mut known);
            }
        }
        tracing::debug!("netlink event socket closed, opening it again");
        messages = reopen().await;
        known = KnownNeighbours::default();
        events.notify_one();
    }
}

/// Empties the queue; whether anything in it was news. One look answers all of it: a burst must not be worked
/// off message by message.
fn take_what_came(messages: &mut Messages, known: &mut KnownNeighbours) -> bool {
    let mut is_news = false;
    while let Some(Some((message, _))) = messages.next().now_or_never() {
        is_news |= known.is_news(&message.payload);
    }
    is_news
}

async fn reopen() -> Messages {
    loop {
        time::sleep(REOPEN).await;
        match listen() {
            Ok(messages) => return messages,
            Err(error) => tracing::debug!(%error, "netlink event socket cannot be opened"),
        }
    }
}

/// Neighbours change state all the time (reachable, stale, probed) without anything to do for us:
/// only another MAC, or none, is news.
#[derive(Debug, Default)]
struct KnownNeighbours(BTreeMap<(u32, IpAddr), Option<Mac>>);

impl KnownNeighbours {
    fn is_news(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        let NetlinkPayload::InnerMessage(message) = payload else {
            return true;
        };
        match message {
            RouteNetlinkMessage::NewNeighbour(message) => self.is_new(message),
            RouteNetlinkMessage::DelNeighbour(message) => {
                if let Some(address) = neighbours::destination(message) {
                    self.0.remove(&(message.header.ifindex, address));
                }
                true
            }
            _ => true,
        }
    }

    fn is_new(&mut self, message: &NeighbourMessage) -> bool {
        // Forwarding entries are announced when they are learnt or move, not when they are used.
        let Some(address) = neighbours::destination(message) else {
            return true;
        };
        if message.header.family == AddressFamily::Bridge {
            return true;
        }
        let is_resolved = neighbours::is_resolved(message.header.state);
        let mac = neighbours::mac(message).filter(|_| is_resolved);
        if self.0.len() >= KNOWN_NEIGHBOURS {
            self.0.clear();
        }
        // An unresolved address that was never resolved is no news either.
        self.0
            .insert((message.header.ifindex, address), mac)
            .unwrap_or(None)
            != mac
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use futures::channel::mpsc;
    use rtnetlink::{
        packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload},
        packet_route::{
            RouteNetlinkMessage,
            link::LinkMessage,
            neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
        },
        sys::SocketAddr,
    };
    use tokio::{sync::Notify, time};

    use super::{KnownNeighbours, forward};

    fn neighbour(state: NeighbourState, mac: Option<u8>) -> NetlinkPayload<RouteNetlinkMessage> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 4;
        message.header.state = state;
        let address: std::net::IpAddr = "10.244.1.7".parse().unwrap();
        message.attributes = vec![NeighbourAttribute::Destination(address.into())];
        let mac = mac.map(|last| NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last]));
        message.attributes.extend(mac);
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message))
    }

    #[test]
    fn only_another_mac_of_a_neighbour_is_news() {
        let mut known = KnownNeighbours::default();
        for (state, mac, is_news) in [
            (NeighbourState::Incomplete, None, false),
            (NeighbourState::Reachable, Some(1), true),
            (NeighbourState::Stale, Some(1), false),
            (NeighbourState::Probe, Some(1), false),
            (NeighbourState::Reachable, Some(2), true),
            (NeighbourState::Failed, Some(2), true),
            (NeighbourState::Incomplete, None, false),
            (NeighbourState::Reachable, Some(2), true),
        ] {
            assert_eq!(
                known.is_news(&neighbour(state, mac)),
                is_news,
                "{state} {mac:?}"
            );
        }
    }

    #[test]
    fn a_link_change_is_always_news() {
        let message = RouteNetlinkMessage::NewLink(LinkMessage::default());
        let mut known = KnownNeighbours::default();
        assert!(known.is_news(&NetlinkPayload::InnerMessage(message.clone())));
        assert!(known.is_news(&NetlinkPayload::InnerMessage(message)));
    }

    /// How often somebody who looks at once, whenever told to, looks within `time`.
    async fn looks_within(duration: Duration, events: &Notify) -> usize {
        let end = time::Instant::now() + duration;
        let mut looks = 0;
        while time::timeout_at(end, events.notified()).await.is_ok() {
            looks += 1;
        }
        looks
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_looked_at_as_one_and_nothing_after_it_is_missed() {
        let (sender, messages) = mpsc::unbounded();
        let send = |count| {
            for _ in 0..count {
                let link = RouteNetlinkMessage::NewLink(LinkMessage::default());
                let payload = NetlinkPayload::InnerMessage(link);
                let message = NetlinkMessage::new(NetlinkHeader::default(), payload);
                sender
                    .unbounded_send((message, SocketAddr::new(0, 0)))
                    .unwrap();
            }
        };
        let events = Arc::new(Notify::new());
        let told = Arc::clone(&events);
        let task = tokio::spawn(async move { forward(messages, &told).await });
        let second = Duration::from_secs(1);

        send(10_000);
        // Once for its first message, once for what came until the end of the first look.
        assert_eq!(looks_within(second, &events).await, 2);
        assert_eq!(looks_within(second, &events).await, 0);
        send(1);
        assert_eq!(looks_within(second, &events).await, 1);
        task.abort();
    }
}

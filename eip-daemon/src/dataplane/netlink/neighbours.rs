//! Neighbours (ARP, NDP) and bridge forwarding entries; asking the kernel to resolve one.

use std::{collections::BTreeMap, net::IpAddr};

use eip_common::addr::Mac;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader,
            NeighbourMessage, NeighbourState,
        },
        route::RouteType,
    },
};

use super::{NetlinkError, RouteClient};

/// Resolved neighbours: (interface, address) to MAC. A stale one still counts: the kernel itself
/// sends to it and asks again only then.
pub(crate) async fn list(
    client: &RouteClient,
) -> Result<BTreeMap<(u32, IpAddr), Mac>, NetlinkError> {
    let answers = client
        .dump(RouteNetlinkMessage::GetNeighbour(
            NeighbourMessage::default(),
        ))
        .await
        .map_err(|source| NetlinkError::new("list neighbours", source))?;
    Ok(answers.iter().filter_map(entry).collect())
}

/// Bridge forwarding entries: (bridge, MAC) to port. Addresses of the bridge's own interfaces are
/// left out: nobody lives behind them.
pub(crate) async fn forwarding(
    client: &RouteClient,
) -> Result<BTreeMap<(u32, Mac), u32>, NetlinkError> {
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Bridge;
    let answers = client
        .dump(RouteNetlinkMessage::GetNeighbour(request))
        .await
        .map_err(|source| NetlinkError::new("list bridge forwarding entries", source))?;
    Ok(answers.iter().filter_map(forwarding_entry).collect())
}

/// Has the kernel resolve an address now, as if it had a packet for it.
pub(crate) async fn ask(
    client: &RouteClient,
    ifindex: u32,
    address: IpAddr,
) -> Result<(), NetlinkError> {
    let message = request(ifindex, address, NeighbourState::None, NeighbourFlags::Use);
    client
        .change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
        .await
        .map_err(|source| NetlinkError::new(format!("resolve neighbour {address}"), source))
}

/// Has the kernel ask a resolved neighbour whether it is still there. Its answer passes the bridge,
/// which learns its port again.
pub(crate) async fn probe(
    client: &RouteClient,
    ifindex: u32,
    address: IpAddr,
    mac: Mac,
) -> Result<(), NetlinkError> {
    let mut message = request(
        ifindex,
        address,
        NeighbourState::Probe,
        NeighbourFlags::default(),
    );
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    client
        .change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE)
        .await
        .map_err(|source| NetlinkError::new(format!("probe neighbour {address}"), source))
}

fn request(
    ifindex: u32,
    address: IpAddr,
    state: NeighbourState,
    flags: NeighbourFlags,
) -> NeighbourMessage {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family,
        ifindex,
        state,
        flags,
        kind: RouteType::Unspec,
    };
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

fn entry(message: &RouteNetlinkMessage) -> Option<((u32, IpAddr), Mac)> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    if !is_resolved(message.header.state) {
        return None;
    }
    Some((
        (message.header.ifindex, destination(message)?),
        mac(message)?,
    ))
}

fn forwarding_entry(message: &RouteNetlinkMessage) -> Option<((u32, Mac), u32)> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    if message.header.state == NeighbourState::Permanent {
        return None;
    }
    let bridge = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Controller(bridge) => Some(*bridge),
            _ => None,
        })?;
    Some(((bridge, mac(message)?), message.header.ifindex))
}

/// The address a neighbour message is about.
pub(super) fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                Some(IpAddr::V4(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                Some(IpAddr::V6(*address))
            }
            _ => None,
        })
}

/// The Ethernet address in it.
pub(super) fn mac(message: &NeighbourMessage) -> Option<Mac> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => Mac::try_from(bytes.as_slice()).ok(),
            _ => None,
        })
}

/// The MAC of an entry in this state is the one frames are sent to.
pub(super) const fn is_resolved(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    )
}

//! Everybody's routes: looked up, never changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use futures::{StreamExt as _, stream};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia},
};

use super::{
    NetlinkError, RouteClient,
    routes::{FAMILIES, family, host_length, ip, none_without_family, route_message},
};
use crate::model::{DefaultRoute, RouteTo};

/// Lookups in flight at once.
const CONCURRENT_LOOKUPS: usize = 32;

/// How the kernel routes to each address. An address without a route is not in the answer. The
/// question names no source and no input interface, so none of our own rules applies to it.
pub(crate) async fn look_up(
    client: &RouteClient,
    addresses: &BTreeSet<IpAddr>,
) -> Result<BTreeMap<IpAddr, RouteTo>, NetlinkError> {
    let mut lookups = stream::iter(addresses.iter().copied())
        .map(async |address| (address, look_up_one(client, address).await))
        .buffer_unordered(CONCURRENT_LOOKUPS);
    let mut routes = BTreeMap::new();
    while let Some((address, route)) = lookups.next().await {
        if let Some(route) = route? {
            routes.insert(address, route);
        }
    }
    Ok(routes)
}

/// The default routes of the main table, both families.
pub(crate) async fn defaults(client: &RouteClient) -> Result<Vec<DefaultRoute>, NetlinkError> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let answers = client
            .dump(RouteNetlinkMessage::GetRoute(request))
            .await
            .or_else(none_without_family)
            .map_err(|source| NetlinkError::new("list the main routing table", source))?;
        let defaults = answers.iter().filter_map(route_message).filter(|message| {
            message.header.destination_prefix_length == 0
                && message.header.kind == RouteType::Unicast
        });
        found.extend(defaults.flat_map(default_routes));
    }
    Ok(found)
}

async fn look_up_one(
    client: &RouteClient,
    address: IpAddr,
) -> Result<Option<RouteTo>, NetlinkError> {
    ask(client, question(address), address).await
}

/// How the kernel forwards a packet that comes in on an interface, rules and all. `None`: it does not.
pub(crate) async fn look_up_way(
    client: &RouteClient,
    iif: u32,
    source: IpAddr,
    destination: IpAddr,
) -> Result<Option<RouteTo>, NetlinkError> {
    let mut request = question(destination);
    request.header.source_prefix_length = host_length(source);
    request
        .attributes
        .push(RouteAttribute::Source(source.into()));
    request.attributes.push(RouteAttribute::Iif(iif));
    ask(client, request, destination).await
}

fn question(address: IpAddr) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = family(address);
    request.header.destination_prefix_length = host_length(address);
    request.attributes = vec![RouteAttribute::Destination(address.into())];
    request
}

async fn ask(
    client: &RouteClient,
    request: RouteMessage,
    address: IpAddr,
) -> Result<Option<RouteTo>, NetlinkError> {
    match client.get(RouteNetlinkMessage::GetRoute(request)).await {
        Ok(answer) => Ok(answer.as_ref().and_then(route_message).and_then(route_to)),
        Err(error) if is_no_route(&error) => Ok(None),
        Err(source) => Err(NetlinkError::new(
            format!("look up the route to {address}"),
            source,
        )),
    }
}

/// Answers of the kernel that are themselves routes: unreachable, prohibited, blackholed, none.
fn is_no_route(error: &io::Error) -> bool {
    use nix::libc::{EACCES, EAGAIN, EHOSTUNREACH, EINVAL, ENETUNREACH, ESRCH};
    matches!(
        error.raw_os_error(),
        Some(ENETUNREACH | EHOSTUNREACH | EACCES | EINVAL | EAGAIN | ESRCH)
    )
}

fn route_to(message: &RouteMessage) -> Option<RouteTo> {
    let mut ifindex = None;
    let mut gateway = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(via) => gateway = via_ip(via),
            _ => {}
        }
    }
    let is_unicast = message.header.kind == RouteType::Unicast;
    Some(RouteTo {
        ifindex: ifindex?,
        gateway,
        is_unicast,
    })
}

fn default_routes(message: &RouteMessage) -> Vec<DefaultRoute> {
    let mut metric = 0;
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(paths) => hops.extend(
                paths
                    .iter()
                    .map(|path| (path.interface_index, gateway_of(&path.attributes))),
            ),
            RouteAttribute::Oif(ifindex) => hops.push((*ifindex, gateway_of(&message.attributes))),
            _ => {}
        }
    }
    hops.into_iter()
        .map(|(ifindex, gateway)| DefaultRoute {
            ifindex,
            gateway,
            metric,
        })
        .collect()
}

fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(via) => via_ip(via),
        _ => None,
    })
}

const fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some(IpAddr::V4(*address)),
        RouteVia::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

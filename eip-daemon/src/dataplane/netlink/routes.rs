//! Our routes: listed, written, removed.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope,
            RouteType,
        },
    },
};

use super::{NetlinkError, PROTOCOL, RouteClient, is_gone};
use crate::model::{HostRoute, TableDefault};

const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// Both families.
pub(super) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// Everything with our protocol number.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnRoutes {
    /// Host routes of the main table.
    pub(crate) hosts: BTreeSet<HostRoute>,
    /// Defaults of other tables.
    pub(crate) table_defaults: BTreeSet<TableDefault>,
}

/// Our routes of both families.
pub(crate) async fn list_own(client: &RouteClient) -> Result<OwnRoutes, NetlinkError> {
    let mut own = OwnRoutes::default();
    for message in dump_own(client).await? {
        let Some(route) = Route::read(&message) else {
            continue;
        };
        match host_route(&route) {
            Some(host) => {
                own.hosts.insert(host);
            }
            None => own.table_defaults.extend(table_default(&route)),
        }
    }
    Ok(own)
}

/// Installs a host route, or replaces ours. One of somebody else's for the same address is left alone
/// and reported.
pub(crate) async fn put_host(client: &RouteClient, route: &HostRoute) -> Result<(), NetlinkError> {
    let message = own_message(MAIN, Some(route.eip), route.vm, route.l3);
    put(
        client,
        message,
        format!("add route {} via {}", route.eip, route.vm),
    )
    .await
}

/// Installs a default of our table, or replaces ours.
pub(crate) async fn put_table_default(
    client: &RouteClient,
    default: &TableDefault,
) -> Result<(), NetlinkError> {
    let message = own_message(default.table, None, default.gateway, default.ifindex);
    let operation = format!(
        "add default route via {} to table {}",
        default.gateway, default.table
    );
    put(client, message, operation).await
}

/// Removes a host route of ours. Gone is as good.
pub(crate) async fn remove_host(
    client: &RouteClient,
    route: &HostRoute,
) -> Result<(), NetlinkError> {
    let message = own_message(MAIN, Some(route.eip), route.vm, route.l3);
    remove(client, message, format!("remove route {}", route.eip)).await
}

/// Removes a default of our table. Gone is as good.
pub(crate) async fn remove_table_default(
    client: &RouteClient,
    default: &TableDefault,
) -> Result<(), NetlinkError> {
    let message = own_message(default.table, None, default.gateway, default.ifindex);
    remove(
        client,
        message,
        format!("remove default route of table {}", default.table),
    )
    .await
}

/// Removes every route of ours, whatever it looks like, and says which.
pub(crate) async fn remove_all(client: &RouteClient) -> Result<Vec<String>, NetlinkError> {
    let mut removed = Vec::new();
    for message in dump_own(client).await? {
        let text =
            Route::read(&message).map_or_else(|| "route".to_owned(), |route| route.describe());
        remove(client, message, format!("remove {text}")).await?;
        removed.push(text);
    }
    Ok(removed)
}

async fn put(
    client: &RouteClient,
    message: RouteMessage,
    operation: String,
) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::NewRoute(message.clone());
    let result = match client
        .change(request.clone(), NLM_F_CREATE | NLM_F_EXCL)
        .await
    {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // A replacement takes whatever stands there: it has to be ours.
            if is_ours(client, &message).await? {
                client.change(request, NLM_F_CREATE | NLM_F_REPLACE).await
            } else {
                Err(error)
            }
        }
        result => result,
    };
    result.map_err(|source| NetlinkError::new(operation, source))
}

async fn is_ours(client: &RouteClient, wanted: &RouteMessage) -> Result<bool, NetlinkError> {
    let wanted = Route::read(wanted).map(|route| (route.table, route.destination));
    let own = dump_own(client).await?;
    Ok(own
        .iter()
        .filter_map(Route::read)
        .any(|route| Some((route.table, route.destination)) == wanted))
}

async fn remove(
    client: &RouteClient,
    mut message: RouteMessage,
    operation: String,
) -> Result<(), NetlinkError> {
    // Whatever the scope is: a route somebody rewrote without a gateway has another than ours.
    message.header.scope = RouteScope::NoWhere;
    match client
        .change(RouteNetlinkMessage::DelRoute(message), 0)
        .await
    {
        Err(source) if !is_gone(&source) => Err(NetlinkError::new(operation, source)),
        _ => Ok(()),
    }
}

/// A kernel without IPv6 answers that it does not know the family.
pub(super) fn none_without_family(error: io::Error) -> io::Result<Vec<RouteNetlinkMessage>> {
    use nix::libc::{EAFNOSUPPORT, ENOENT, EOPNOTSUPP};
    match error.raw_os_error() {
        Some(EAFNOSUPPORT | EOPNOTSUPP | ENOENT) => Ok(Vec::new()),
        _ => Err(error),
    }
}

async fn dump_own(client: &RouteClient) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut own = Vec::new();
    for family in FAMILIES {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.protocol = PROTOCOL;
        let answers = client
            .dump(RouteNetlinkMessage::GetRoute(request))
            .await
            .or_else(none_without_family)
            .map_err(|source| NetlinkError::new("list routes", source))?;
        let messages = answers.iter().filter_map(route_message).cloned();
        own.extend(messages.filter(|message| message.header.protocol == PROTOCOL));
    }
    Ok(own)
}

fn own_message(table: u32, host: Option<IpAddr>, gateway: IpAddr, ifindex: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.destination_prefix_length = host.map_or(0, host_length);
    // Tables above 255 go by the attribute alone.
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.header.protocol = PROTOCOL;
    message.header.kind = RouteType::Unicast;
    message.header.flags = RouteFlags::Onlink;
    message.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Oif(ifindex)];
    // Unspecified stands for a route of ours that lost its gateway: it is removed without one.
    if !gateway.is_unspecified() {
        message
            .attributes
            .push(RouteAttribute::Gateway(gateway.into()));
    }
    message
        .attributes
        .extend(host.map(|host| RouteAttribute::Destination(host.into())));
    message
}

/// The parts of a route message that matter here.
struct Route {
    table: u32,
    destination: Option<IpAddr>,
    length: u8,
    gateway: IpAddr,
    ifindex: u32,
    family: AddressFamily,
}

impl Route {
    fn read(message: &RouteMessage) -> Option<Self> {
        let unspecified = match message.header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut route = Self {
            table: u32::from(message.header.table),
            destination: None,
            length: message.header.destination_prefix_length,
            gateway: unspecified,
            ifindex: 0,
            family: message.header.address_family,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Destination(address) => route.destination = ip(address),
                RouteAttribute::Gateway(address) => route.gateway = ip(address)?,
                RouteAttribute::Oif(ifindex) => route.ifindex = *ifindex,
                _ => {}
            }
        }
        Some(route)
    }

    fn describe(&self) -> String {
        let Self {
            table,
            destination,
            length,
            gateway,
            ..
        } = self;
        let destination = destination.map_or_else(
            || "default".to_owned(),
            |address| format!("{address}/{length}"),
        );
        format!("route {destination} via {gateway} (table {table})")
    }
}

fn host_route(route: &Route) -> Option<HostRoute> {
    let eip = route
        .destination
        .filter(|address| route.length == host_length(*address))?;
    (route.table == MAIN).then_some(HostRoute {
        eip,
        vm: route.gateway,
        l3: route.ifindex,
    })
}

fn table_default(route: &Route) -> Option<TableDefault> {
    let Route {
        table,
        gateway,
        ifindex,
        ..
    } = *route;
    (table != MAIN && route.length == 0 && FAMILIES.contains(&route.family)).then_some(
        TableDefault {
            table,
            gateway,
            ifindex,
        },
    )
}

pub(super) fn route_message(message: &RouteNetlinkMessage) -> Option<&RouteMessage> {
    match message {
        RouteNetlinkMessage::NewRoute(message) => Some(message),
        _ => None,
    }
}

pub(super) const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The family of an address, as netlink says it.
pub(super) const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(super) const fn host_length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{MAIN, Route, host_route, own_message, table_default};
    use crate::model::{HostRoute, TableDefault};

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_route_is_read_back_as_it_was_written() {
        for (eip, vm) in [("203.0.113.9", "10.244.1.7"), ("2001:db8::9", "fd00::7")] {
            let route = HostRoute {
                eip: address(eip),
                vm: address(vm),
                l3: 12,
            };
            let message = own_message(MAIN, Some(route.eip), route.vm, route.l3);
            let read = Route::read(&message).unwrap();
            assert_eq!(host_route(&read), Some(route));
            assert_eq!(table_default(&read), None);
        }
    }

    #[test]
    fn a_default_of_a_high_table_is_read_back_as_it_was_written() {
        for table in [201, 70_000] {
            let default = TableDefault {
                table,
                gateway: address("192.0.2.1"),
                ifindex: 3,
            };
            let message = own_message(table, None, default.gateway, default.ifindex);
            let read = Route::read(&message).unwrap();
            assert_eq!(table_default(&read), Some(default));
            assert_eq!(host_route(&read), None);
        }
    }
}

//! The node without any program: what settings are worked out from, and what `check` looks at.

use std::{collections::BTreeSet, net::IpAddr};

use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::{
    DataPlaneError,
    netlink::{RouteClient, links, lookup},
};
use crate::model::NetworkView;

/// Interfaces, addresses, default routes, and the routes to `targets`. Changes nothing and needs no
/// privileges. Has to be called inside a tokio runtime.
///
/// # Errors
/// The kernel does not answer.
pub async fn discover(targets: &BTreeSet<IpAddr>) -> Result<NetworkView, DataPlaneError> {
    let client = RouteClient::new(NETLINK_ROUTE);
    let interfaces = links::list(&client).await?;
    let links = interfaces
        .into_iter()
        .map(|(ifindex, found)| (ifindex, found.link));
    Ok(NetworkView {
        links: links.collect(),
        addresses: links::addresses(&client).await?,
        default_routes: lookup::defaults(&client).await?,
        routes: lookup::look_up(&client, targets).await?,
        ..NetworkView::default()
    })
}

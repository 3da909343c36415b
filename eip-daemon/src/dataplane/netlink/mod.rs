//! What the kernel says about the node over netlink, and what we tell it.
//!
//! One file per kind of object; each offers plain functions over a [`Client`] that speak in the types
//! of [`crate::model`]. Nothing here remembers anything between two calls (see [`super::view`] for
//! what has to).
//!
//! What is ours is recognised by [`PROTOCOL`] on routes and rules, and by priority, handle and program
//! name on filters. Nothing else is ever changed or removed.

mod client;
mod events;
pub(super) mod filters;
mod generic;
pub(super) mod links;
pub(super) mod lookup;
pub(super) mod neighbours;
pub(super) mod routes;
pub(super) mod rules;

use std::io;

pub(super) use client::Client;
pub(super) use events::{EventTask, watch};
pub(super) use generic::{Generic, XdpFeatures};
use rtnetlink::packet_route::{RouteNetlinkMessage, route::RouteProtocol};

/// Routes and rules of ours carry this origin (`proto 201` in `ip route`). Free in iproute2's list.
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol::Other(201);

/// The client for interfaces, addresses, neighbours, routes, rules and filters.
pub(super) type RouteClient = Client<RouteNetlinkMessage>;

/// The kernel refused an operation, or its answer did not come.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct NetlinkError {
    /// What was asked.
    pub operation: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    pub(super) fn new(operation: impl Into<String>, source: io::Error) -> Self {
        Self {
            operation: operation.into(),
            source,
        }
    }
}

/// Errors of the kernel that mean "it is not there", by which a removal has reached its goal.
pub(super) fn is_gone(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, ENODEV, ENOENT, ENXIO, ESRCH};
    matches!(
        error.raw_os_error(),
        Some(ENOENT | ESRCH | ENODEV | ENXIO | EADDRNOTAVAIL)
    )
}

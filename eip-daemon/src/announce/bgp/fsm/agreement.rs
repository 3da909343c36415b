//! What two OPENs amount to.

use std::{net::Ipv4Addr, time::Duration};

use super::Identity;
use crate::announce::bgp::{
    config::{GracefulRestartMode, PeerAs, SessionSettings},
    wire::{
        AsNumberWidth, Capabilities, Family, GracefulRestart, Notification, Open, Reason, SizeLimit,
    },
};

/// What both sides will keep to on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each thing agreed, all independent"
)]
pub struct Agreement {
    /// Our AS on this session.
    pub local_as: u32,
    /// The peer's AS.
    pub peer_as: u32,
    /// The peer's BGP identifier.
    pub peer_id: Ipv4Addr,
    /// The smaller of both; zero for none (RFC 4271 §4.2).
    pub hold_time: Duration,
    /// How AS numbers are written.
    pub as_width: AsNumberWidth,
    /// How long messages may be.
    pub limit: SizeLimit,
    /// IPv4 routes may be sent.
    pub ipv4: bool,
    /// IPv6 routes may be sent.
    pub ipv6: bool,
    /// IPv4 routes may have an IPv6 next hop.
    pub extended_next_hop: bool,
    /// Refreshes are framed (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// The peer keeps routes over a NOTIFICATION unless it is a hard reset (RFC 8538 §4).
    pub keeps_over_notification: bool,
}

impl Agreement {
    /// Judges the peer's OPEN and combines it with ours.
    pub(super) fn new(
        ours: &Open,
        theirs: &Open,
        expected: PeerAs,
    ) -> Result<Self, Notification<'static>> {
        check_peer(ours, theirs, expected)?;
        let (local, peer) = (&ours.capabilities, &theirs.capabilities);
        // RFC 4760 §8: a peer that names no family at all means IPv4 unicast.
        let peer_ipv4 = peer.ipv4 || !peer.multiprotocol;
        let local_ipv4 = local.ipv4 || !local.multiprotocol;
        let is_four = local.four_octet_as.is_some() && peer.four_octet_as.is_some();
        let notification = |restart: Option<GracefulRestart>| {
            restart.is_some_and(|restart| restart.covers_notification)
        };
        Ok(Self {
            local_as: ours.asn,
            peer_as: theirs.asn,
            peer_id: theirs.router_id,
            hold_time: Duration::from_secs(ours.hold_time_s.min(theirs.hold_time_s).into()),
            as_width: if is_four {
                AsNumberWidth::Four
            } else {
                AsNumberWidth::Two
            },
            limit: if local.extended_message && peer.extended_message {
                SizeLimit::Extended
            } else {
                SizeLimit::Standard
            },
            ipv4: local_ipv4 && peer_ipv4,
            ipv6: local.ipv6 && peer.ipv6,
            extended_next_hop: local.extended_next_hop && peer.extended_next_hop,
            enhanced_route_refresh: local.enhanced_route_refresh && peer.enhanced_route_refresh,
            keeps_over_notification: notification(local.graceful_restart)
                && notification(peer.graceful_restart),
        })
    }

    /// Whether the family may be used.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    /// Inside one AS.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.local_as == self.peer_as
    }

    /// A third of the hold time (RFC 4271 §4.4), before jitter.
    pub(super) fn keepalive_interval(&self) -> Option<Duration> {
        (!self.hold_time.is_zero()).then(|| self.hold_time / 3)
    }

    /// The send hold timer does not run without a hold time (RFC 9687 §4).
    pub(super) fn send_hold_time(&self, configured: Option<Duration>) -> Option<Duration> {
        // RFC 9687 §5: the larger of 8 minutes and twice the hold time.
        let default = Duration::from_mins(8).max(self.hold_time * 2);
        (!self.hold_time.is_zero()).then(|| configured.unwrap_or(default))
    }
}

/// RFC 4271 §6.2; RFC 7607 §2 for AS 0; RFC 6286 §2.2 for identifiers.
fn check_peer(ours: &Open, theirs: &Open, expected: PeerAs) -> Result<(), Notification<'static>> {
    let is_internal = theirs.asn == ours.asn;
    let is_expected = match expected {
        PeerAs::Number(asn) => theirs.asn == asn,
        PeerAs::External => !is_internal,
        PeerAs::Internal => is_internal,
    };
    if theirs.asn == 0 || !is_expected {
        return Err(Notification::new(Reason::BadPeerAs));
    }
    let is_own_id = is_internal && theirs.router_id == ours.router_id;
    if theirs.router_id.is_unspecified() || is_own_id {
        return Err(Notification::new(Reason::BadBgpIdentifier));
    }
    Ok(())
}

/// Whether the process that sends the OPEN still has to make up for its restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restarting {
    Yes,
    No,
}

/// Our OPEN.
pub(super) fn local_open(
    identity: &Identity,
    settings: &SessionSettings,
    restarting: Restarting,
) -> Open {
    let asn = settings.local_as.unwrap_or(identity.local_as);
    let has = |family| settings.families.contains(&family);
    let graceful_restart =
        (settings.graceful_restart == GracefulRestartMode::Restarting).then(|| GracefulRestart {
            has_restarted: restarting == Restarting::Yes,
            covers_notification: true,
            restart_time_s: u16::try_from(identity.restart_time.as_secs()).unwrap_or(4095),
            // F always: forwarding is in the kernel and outlives this process (RFC 4724 §3).
            keeps_ipv4: has(Family::Ipv4).then_some(true),
            keeps_ipv6: has(Family::Ipv6).then_some(true),
        });
    Open {
        asn,
        hold_time_s: u16::try_from(settings.hold_time.as_secs()).unwrap_or(u16::MAX),
        router_id: identity.router_id,
        capabilities: Capabilities {
            multiprotocol: true,
            ipv4: has(Family::Ipv4),
            ipv6: has(Family::Ipv6),
            four_octet_as: Some(asn),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_message: true,
            extended_next_hop: has(Family::Ipv4),
            graceful_restart,
            unknown: 0,
        },
    }
}

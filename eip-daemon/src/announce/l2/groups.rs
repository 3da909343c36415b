//! Multicast groups the uplinks are in because of us: solicited-node groups of IPv6 EIPs.
//!
//! A membership lives as long as its socket. While the agent is down solicitations to the group reach the
//! node only where network card and switch let all groups pass; neighbours that know the EIP ask by
//! unicast meanwhile.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr},
};

use eip_common::neighbour::solicited_node;
use socket2::{Domain, Socket, Type};

/// One uplink in one group.
pub(super) type Membership = (u32, Ipv6Addr);

/// What EIPs on these uplinks need.
pub(super) fn needed(
    eips: &BTreeSet<IpAddr>,
    uplinks: impl Iterator<Item = u32>,
) -> BTreeSet<Membership> {
    let groups: BTreeSet<Ipv6Addr> = eips
        .iter()
        .filter_map(|eip| match eip {
            IpAddr::V4(_) => None,
            IpAddr::V6(eip) => Some(solicited_node(eip.octets()).into()),
        })
        .collect();
    uplinks
        .flat_map(|uplink| groups.iter().map(move |group| (uplink, *group)))
        .collect()
}

/// The memberships that are held. The kernel bounds how many one socket can have, so there are several.
#[derive(Debug, Default)]
pub(super) struct Groups {
    sockets: Vec<(Socket, BTreeSet<Membership>)>,
}

impl Groups {
    /// Leaves and joins until just these are held.
    ///
    /// # Errors
    /// The first that could not be joined, for people; the others are.
    pub(super) fn hold(&mut self, needed: &BTreeSet<Membership>) -> Result<(), String> {
        for (socket, held) in &mut self.sockets {
            held.retain(|(uplink, group)| {
                let stays = needed.contains(&(*uplink, *group));
                if !stays {
                    // An interface that is gone took its memberships along.
                    let _gone = socket.leave_multicast_v6(group, *uplink);
                }
                stays
            });
        }
        self.sockets.retain(|(_, held)| !held.is_empty());
        let held: BTreeSet<Membership> = self
            .sockets
            .iter()
            .flat_map(|(_, held)| held)
            .copied()
            .collect();
        let mut failed = None;
        for membership in needed.difference(&held) {
            if let Err(error) = self.join(*membership) {
                let (uplink, group) = membership;
                let text = format!("join {group} on interface #{uplink}: {error}");
                failed.get_or_insert(text);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn join(&mut self, (uplink, group): Membership) -> io::Result<()> {
        if let Some((socket, held)) = self.sockets.last_mut()
            && socket.join_multicast_v6(&group, uplink).is_ok()
        {
            held.insert((uplink, group));
            return Ok(());
        }
        // Full, or the first.
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.join_multicast_v6(&group, uplink)?;
        self.sockets.push((socket, [(uplink, group)].into()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eips_that_end_alike_share_a_group() {
        let eips = [
            "2001:db8::1:10",
            "2001:db8:9::1:10",
            "2001:db8::11",
            "203.0.113.10",
        ];
        let eips = eips.iter().map(|eip| eip.parse().unwrap()).collect();
        let needed = needed(&eips, [2, 3].into_iter());
        let groups: [Ipv6Addr; 2] = [
            "ff02::1:ff00:11".parse().unwrap(),
            "ff02::1:ff01:10".parse().unwrap(),
        ];
        let expected = [2, 3]
            .into_iter()
            .flat_map(|uplink| groups.map(|group| (uplink, group)));
        assert_eq!(needed, expected.collect());
    }
}

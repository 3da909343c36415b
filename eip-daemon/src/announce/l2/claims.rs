//! Who else says that an EIP of ours is theirs. Pure: what was heard and the time come in, beginnings and
//! ends come out.
//!
//! A claim is reported and not fought. RFC 5227 section 2.4 would let us answer it with an
//! announcement; but while a VM moves, the claim comes from its new node, and an old node that defends the
//! address would take it back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use eip_common::addr::Mac;
use serde::Serialize;

/// Somebody else on an uplink's segment has an EIP of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conflict {
    /// The hardware address that claims it.
    pub mac: Mac,
    /// The uplink it was heard on.
    pub uplink: String,
    /// The first time.
    pub since: SystemTime,
    /// How often.
    pub claims: u64,
}

/// Everything claimed at the moment.
#[derive(Debug, Default)]
pub(super) struct Claims {
    open: BTreeMap<IpAddr, (Conflict, Instant)>,
}

impl Claims {
    /// A claim was heard. `true`: it is a new conflict, or a new claimant.
    pub(super) fn hear(
        &mut self,
        eip: IpAddr,
        mac: Mac,
        uplink: &str,
        now: (Instant, SystemTime),
    ) -> bool {
        if let Some((conflict, last)) = self.open.get_mut(&eip)
            && conflict.mac == mac
        {
            conflict.claims += 1;
            *last = now.0;
            return false;
        }
        let conflict = Conflict {
            mac,
            uplink: uplink.to_owned(),
            since: now.1,
            claims: 1,
        };
        self.open.insert(eip, (conflict, now.0));
        true
    }

    /// EIPs that are not ours any more are nobody's conflict.
    pub(super) fn keep(&mut self, eips: &BTreeSet<IpAddr>) {
        self.open.retain(|eip, _| eips.contains(eip));
    }

    /// Ends and gives what has not been heard for that long.
    pub(super) fn expire(&mut self, now: Instant, memory: Duration) -> Vec<(IpAddr, Conflict)> {
        let ended = self
            .open
            .extract_if(.., |_, (_, last)| now.duration_since(*last) >= memory);
        ended.map(|(eip, (conflict, _))| (eip, conflict)).collect()
    }

    /// Everything at the moment.
    pub(super) fn open(&self) -> BTreeMap<IpAddr, Conflict> {
        let open = self.open.iter();
        open.map(|(eip, (conflict, _))| (*eip, conflict.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIEF: Mac = [2, 0, 0, 0, 0, 0x66];
    const SECOND: Mac = [2, 0, 0, 0, 0, 0x67];
    const MEMORY: Duration = Duration::from_mins(4);

    fn eip() -> IpAddr {
        "203.0.113.10".parse().unwrap()
    }

    fn after(start: Instant, seconds: u64) -> (Instant, SystemTime) {
        let passed = Duration::from_secs(seconds);
        (start + passed, SystemTime::UNIX_EPOCH + passed)
    }

    #[test]
    fn a_conflict_begins_once_and_ends_when_nobody_claims_any_more() {
        let (mut claims, start) = (Claims::default(), Instant::now());
        assert!(claims.hear(eip(), THIEF, "up0", after(start, 0)));
        assert!(!claims.hear(eip(), THIEF, "up0", after(start, 100)));
        let open = &claims.open()[&eip()];
        assert_eq!((open.mac, open.claims), (THIEF, 2));
        assert_eq!(open.since, SystemTime::UNIX_EPOCH);
        assert_eq!(claims.expire(after(start, 339).0, MEMORY), []);
        let ended = claims.expire(after(start, 340).0, MEMORY);
        assert_eq!(ended.len(), 1);
        assert!(claims.open().is_empty());
    }

    #[test]
    fn another_claimant_is_another_conflict() {
        let (mut claims, start) = (Claims::default(), Instant::now());
        assert!(claims.hear(eip(), THIEF, "up0", after(start, 0)));
        assert!(claims.hear(eip(), SECOND, "up0", after(start, 1)));
        assert_eq!(claims.open()[&eip()].mac, SECOND);
    }

    #[test]
    fn an_eip_that_left_has_no_conflict() {
        let (mut claims, start) = (Claims::default(), Instant::now());
        claims.hear(eip(), THIEF, "up0", after(start, 0));
        claims.keep(&BTreeSet::new());
        assert!(claims.open().is_empty());
    }
}

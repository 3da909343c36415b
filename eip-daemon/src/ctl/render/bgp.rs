//! BGP for people.

use super::{lines, or_nothing, section, table};
use crate::ctl::api::{BgpError, BgpFamily, BgpPeer, BgpRoute, BgpStatus};

pub(in crate::ctl) fn status(status: &BgpStatus) -> String {
    let mut text = lines(&overview(status));
    text.push('\n');
    text.push_str(&peers(status));
    text
}

fn overview(status: &BgpStatus) -> Vec<(&'static str, String)> {
    let mut pairs = vec![
        ("AS", or_nothing(status.local_as)),
        ("router id", or_nothing(status.router_id)),
        ("listens on", listeners(status)),
    ];
    if let Some(drain) = &status.drain {
        let how = if drain.withdrawn {
            "routes are withdrawn".to_owned()
        } else {
            format!("routes leave at {}", drain.withdraw_at)
        };
        pairs.push(("drained", format!("since {}: {how}", drain.since)));
    }
    pairs.extend(status.problem.clone().map(|problem| ("problem", problem)));
    pairs
}

fn listeners(status: &BgpStatus) -> String {
    let show = |listener: &crate::ctl::api::BgpListener| match &listener.error {
        None => listener.address.clone(),
        Some(error) => format!("{} ({error})", listener.address),
    };
    let list: Vec<String> = status.listeners.iter().map(show).collect();
    or_nothing(Some(list.join(", ")).filter(|list| !list.is_empty()))
}

pub(in crate::ctl) fn peers(status: &BgpStatus) -> String {
    let mut text = if status.peers.is_empty() {
        "no BGP peers on this node\n".to_owned()
    } else {
        let row = |peer: &BgpPeer| {
            [
                peer.name.clone(),
                peer.address.to_string(),
                peer.agreed_as
                    .map_or_else(|| peer.peer_as.clone(), |asn| asn.to_string()),
                peer.state.clone(),
                super::age(peer.since_seconds),
                or_nothing(advertised(peer)),
                or_nothing(fault(peer)),
            ]
        };
        let rows: Vec<_> = status.peers.iter().map(row).collect();
        let head = [
            "PEER", "ADDRESS", "AS", "STATE", "SINCE", "ROUTES", "REMARK",
        ];
        table(head, &rows)
    };
    section(&mut text, "REFUSED", &status.refused, |refusal| {
        let origin = refusal.origin.as_ref().map(|origin| format!(" ({origin})"));
        format!(
            "{}{}: {}",
            refusal.peer,
            origin.unwrap_or_default(),
            refusal.problem
        )
    });
    text
}

/// `12`, or `12, 3 to come`, over both families.
fn advertised(peer: &BgpPeer) -> Option<String> {
    let families: Vec<&BgpFamily> = [&peer.ipv4, &peer.ipv6].into_iter().flatten().collect();
    if families.is_empty() {
        return None;
    }
    let advertised: usize = families.iter().map(|family| family.advertised).sum();
    let pending: usize = families.iter().map(|family| family.pending).sum();
    Some(match pending {
        0 => advertised.to_string(),
        _ => format!("{advertised}, {pending} to come"),
    })
}

/// What is wrong with a session that is not up, the nearest cause first.
fn fault(peer: &BgpPeer) -> Option<String> {
    if peer.state == "Established" {
        return None;
    }
    let notification = |who: &str, error: &BgpError| {
        let BgpError {
            code,
            subcode,
            reason,
            text,
        } = error;
        let text = text
            .as_ref()
            .map(|text| format!(" {text:?}"))
            .unwrap_or_default();
        format!("{who} {code}/{subcode} {reason}{text}")
    };
    let transport = peer
        .transport_error
        .as_ref()
        .map(|error| format!("connect: {error}"));
    let received = peer
        .last_received
        .as_ref()
        .map(|error| notification("received", error));
    let sent = peer
        .last_sent
        .as_ref()
        .map(|error| notification("sent", error));
    let bfd = peer.bfd.as_ref().map(|bfd| match &bfd.error {
        Some(error) => format!("BFD {}: {error}", bfd.state),
        None => format!("BFD {}", bfd.state),
    });
    let is_said = |loss: &String| {
        let errors = [&received, &sent].into_iter().flatten();
        errors.clone().any(|error| error.starts_with(loss.as_str()))
    };
    let lost = peer.last_loss.as_ref().filter(|loss| !is_said(loss));
    let lost = lost.map(|loss| format!("lost: {loss}"));
    let all: Vec<String> = [transport, received, sent, bfd, lost]
        .into_iter()
        .flatten()
        .collect();
    Some(all.join("; ")).filter(|text| !text.is_empty())
}

pub(in crate::ctl) fn routes(routes: &[BgpRoute]) -> String {
    if routes.is_empty() {
        return "no elastic IPs in the kernel, so none to announce\n".to_owned();
    }
    let row = |route: &BgpRoute| {
        [
            route.eip.to_string(),
            route.binding.clone(),
            or_nothing(to_whom(route)),
            or_nothing(why_not(route)),
        ]
    };
    let rows: Vec<_> = routes.iter().map(row).collect();
    table(["EIP", "BINDING", "ADVERTISED TO", "REMARK"], &rows)
}

fn to_whom(route: &BgpRoute) -> Option<String> {
    let peers = route.peers.iter().filter(|peer| peer.advertised);
    let peers: Vec<&str> = peers.map(|peer| peer.peer.as_str()).collect();
    Some(peers.join(", ")).filter(|list| !list.is_empty())
}

fn why_not(route: &BgpRoute) -> Option<String> {
    if route.peers.is_empty() {
        return Some("there are no peers".to_owned());
    }
    let remarks = route.peers.iter().filter_map(|peer| {
        let remark = peer.remark.as_ref()?;
        Some(format!("{}: {remark}", peer.peer))
    });
    let remarks: Vec<String> = remarks.collect();
    Some(remarks.join("; ")).filter(|text| !text.is_empty())
}

/// One line for `eipctl get`.
pub(in crate::ctl) fn route_line(route: &BgpRoute) -> String {
    let told = route.peers.iter().filter(|peer| peer.advertised).count();
    let count = format!("{told} of {} peers have it", route.peers.len());
    match why_not(route) {
        Some(why) => format!("{count}: {why}"),
        None => count,
    }
}

#[cfg(test)]
mod tests {
    use super::{peers, routes};
    use crate::ctl::api::{
        BgpError, BgpFamily, BgpPeer, BgpRefusal, BgpRoute, BgpRoutePeer, BgpStatus,
    };

    fn peer(name: &str, state: &str) -> BgpPeer {
        BgpPeer {
            name: name.to_owned(),
            address: "192.0.2.1".parse().unwrap(),
            peer_as: "external".to_owned(),
            local_as: Some(64512),
            state: state.to_owned(),
            since: "2026-01-31T12:00:00Z".to_owned(),
            since_seconds: 65,
            agreed_as: None,
            router_id: None,
            hold_time_seconds: None,
            transport_error: None,
            last_loss: None,
            last_sent: None,
            last_received: None,
            ipv4: None,
            ipv6: None,
            bfd: None,
            counters: [].into(),
            origin: None,
        }
    }

    #[test]
    fn the_table_says_what_keeps_a_session_down() {
        let mut up = peer("tor-a", "Established");
        up.agreed_as = Some(64500);
        up.ipv4 = Some(BgpFamily {
            advertised: 3,
            pending: 1,
            silent: None,
        });
        let mut down = peer("tor-b", "Active");
        down.transport_error = Some("Connection refused (os error 111)".to_owned());
        down.last_received = Some(BgpError {
            code: 2,
            subcode: 2,
            reason: "bad peer AS".to_owned(),
            text: None,
        });
        let mut lost = down.clone();
        lost.name = "tor-d".to_owned();
        lost.transport_error = None;
        lost.last_loss = Some("received 2/2 bad peer AS".to_owned());
        let mut cut = peer("tor-e", "Active");
        cut.last_loss = Some("the connection was closed without a NOTIFICATION".to_owned());
        let status = BgpStatus {
            peers: vec![up, down, lost, cut],
            refused: vec![BgpRefusal {
                peer: "tor-c".to_owned(),
                origin: Some("peers.yaml (document 3)".to_owned()),
                problem: "spec.passwordFile: /key: No such file".to_owned(),
            }],
            ..BgpStatus::default()
        };
        let expected = "\
PEER   ADDRESS    AS        STATE        SINCE  ROUTES        REMARK
tor-a  192.0.2.1  64500     Established  1m 5s  3, 1 to come  -
tor-b  192.0.2.1  external  Active       1m 5s  -             connect: Connection refused (os error 111); received 2/2 bad peer AS
tor-d  192.0.2.1  external  Active       1m 5s  -             received 2/2 bad peer AS
tor-e  192.0.2.1  external  Active       1m 5s  -             lost: the connection was closed without a NOTIFICATION

REFUSED
  tor-c (peers.yaml (document 3)): spec.passwordFile: /key: No such file
";
        assert_eq!(peers(&status), expected);
        assert!(peers(&BgpStatus::default()).starts_with("no BGP peers"));
    }

    #[test]
    fn a_route_says_who_has_it_and_why_others_have_not() {
        let toward = |peer: &str, remark: Option<&str>| BgpRoutePeer {
            peer: peer.to_owned(),
            advertised: remark.is_none(),
            remark: remark.map(str::to_owned),
        };
        let route = BgpRoute {
            eip: "203.0.113.10".parse().unwrap(),
            binding: "default/web".to_owned(),
            peers: vec![
                toward("tor-a", None),
                toward("tor-b", Some("no session: Active")),
            ],
        };
        let expected = "\
EIP           BINDING      ADVERTISED TO  REMARK
203.0.113.10  default/web  tor-a          tor-b: no session: Active
";
        assert_eq!(routes(&[route]), expected);
        assert!(routes(&[]).starts_with("no elastic IPs"));
    }
}

//! Peers named by annotations of the node, in the style of kube-vip:
//! `PREFIX/bgp-peers-N-peer-ip`, `-peer-asn`, `-node-asn`, `-src-ip`, `-bgp-pass` (base64).

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::model::{
    ExportSettings, NodeFact, PasswordSource, PeerAsn, PeerFamilies, PeerPlace, PeerReach,
    PeerSettings, Secret,
};

/// A peer of an annotation, or what is wrong with it; with the name it goes by.
pub(super) struct Annotated {
    pub(super) name: String,
    pub(super) peer: Result<(PeerSettings, ExportSettings), String>,
}

/// Every peer the annotations name, by number.
pub(super) fn peers(node: &NodeFact, prefix: &str) -> Vec<Annotated> {
    let mut fields: BTreeMap<u32, BTreeMap<&str, &str>> = BTreeMap::new();
    let mut bad = Vec::new();
    for (key, Secret(value)) in &node.annotations {
        let ours = key
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix("/bgp-peers-"));
        let Some(rest) = ours else { continue };
        match rest
            .split_once('-')
            .map(|(number, field)| (number.parse(), field))
        {
            Some((Ok(number), field)) => {
                fields
                    .entry(number)
                    .or_default()
                    .insert(field, value.trim());
            }
            Some((Err(_), _)) | None => bad.push(Annotated {
                name: format!("annotation-{rest}"),
                peer: Err(format!("{key}: there is no number behind bgp-peers-")),
            }),
        }
    }
    let good = fields.into_iter().map(|(number, fields)| Annotated {
        name: format!("annotation-{number}"),
        peer: peer(&fields).map_err(|text| format!("{prefix}/bgp-peers-{number}-{text}")),
    });
    good.chain(bad).collect()
}

fn peer(fields: &BTreeMap<&str, &str>) -> Result<(PeerSettings, ExportSettings), String> {
    const KNOWN: [&str; 5] = ["peer-ip", "peer-asn", "node-asn", "src-ip", "bgp-pass"];
    if let Some(unknown) = fields.keys().find(|field| !KNOWN.contains(field)) {
        return Err(format!(
            "{unknown}: no such field; known are {}",
            KNOWN.join(", ")
        ));
    }
    let required = |field: &str| {
        let value = fields.get(field).filter(|value| !value.is_empty());
        value.ok_or_else(|| format!("{field} is missing"))
    };
    let address = |field: &str, text: &str| {
        let parsed = text.parse();
        parsed.map_err(|_| format!("{field}: {text:?} is not an IP address"))
    };
    let asn = |field: &str, text: &str| {
        let parsed = text.parse().ok().filter(|asn| !matches!(asn, 0 | 23456));
        parsed.ok_or_else(|| format!("{field}: {text:?} is not an AS number"))
    };
    let peer_ip = required("peer-ip")?;
    let optional = |field: &str| fields.get(field).filter(|value| !value.is_empty());
    let source = optional("src-ip").map(|text| address("src-ip", text));
    let local_as = optional("node-asn").map(|text| asn("node-asn", text));
    let password = optional("bgp-pass").map(|text| password(text));
    let settings = PeerSettings {
        place: PeerPlace::Address(address("peer-ip", peer_ip)?),
        peer_as: PeerAsn::Number(asn("peer-asn", required("peer-asn")?)?),
        local_as: local_as.transpose()?,
        port: None,
        interface: None,
        source: source.transpose()?,
        passive: false,
        reach: PeerReach::Direct,
        password: password.transpose()?,
        hold_time: None,
        send_hold_time: None,
        connect_timeout: None,
        families: PeerFamilies::default(),
        graceful_restart: true,
        bfd: None,
    };
    Ok((settings, ExportSettings::default()))
}

/// The text itself is not repeated: it may be the password without its encoding.
fn password(text: &str) -> Result<PasswordSource, String> {
    let decoded = BASE64_STANDARD.decode(text).ok();
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let secret = decoded.ok_or("bgp-pass: not text in base64")?;
    Ok(PasswordSource::Inline(Secret(secret)))
}

#[cfg(test)]
mod tests {
    use super::peers;
    use crate::model::{NodeFact, PasswordSource, PeerAsn, PeerPlace, Secret};

    fn node(annotations: &[(&str, &str)]) -> NodeFact {
        let entry = |(key, value): &(&str, &str)| ((*key).to_owned(), Secret((*value).to_owned()));
        NodeFact {
            annotations: annotations.iter().map(entry).collect(),
            ..NodeFact::default()
        }
    }

    #[test]
    fn a_peer_of_annotations_is_read_as_kube_vip_writes_it() {
        let node = node(&[
            ("metal/bgp-peers-0-node-asn", "65000"),
            ("metal/bgp-peers-0-peer-asn", "65530"),
            ("metal/bgp-peers-0-peer-ip", "169.254.255.1"),
            ("metal/bgp-peers-0-src-ip", "10.68.38.129"),
            ("metal/bgp-peers-0-bgp-pass", "c2VjcmV0"),
            ("metal/bgp-peers-12-peer-ip", "2001:db8::1"),
            ("metal/bgp-peers-12-peer-asn", "4200000000"),
            ("other/bgp-peers-1-peer-ip", "192.0.2.9"),
        ]);
        let peers = peers(&node, "metal");
        let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["annotation-0", "annotation-12"]);
        let (first, _) = peers[0].peer.as_ref().unwrap();
        assert_eq!(
            first.place,
            PeerPlace::Address("169.254.255.1".parse().unwrap())
        );
        assert_eq!(
            (first.peer_as, first.local_as),
            (PeerAsn::Number(65530), Some(65000))
        );
        assert_eq!(first.source, Some("10.68.38.129".parse().unwrap()));
        let secret = PasswordSource::Inline(Secret("secret".to_owned()));
        assert_eq!(first.password, Some(secret));
        assert!(!format!("{first:?}").contains("secret"));
        assert!(peers[1].peer.is_ok());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_annotation_and_without_the_password() {
        for (field, value, expected) in [
            (
                "0-peer-ip",
                "tor",
                "p/bgp-peers-0-peer-ip: \"tor\" is not an IP address",
            ),
            (
                "0-peer-asn",
                "0",
                "p/bgp-peers-0-peer-asn: \"0\" is not an AS number",
            ),
            ("0-peer-asn", "", "p/bgp-peers-0-peer-asn is missing"),
            (
                "0-bgp-pass",
                "plain!",
                "p/bgp-peers-0-bgp-pass: not text in base64",
            ),
            ("0-peer-port", "1", "p/bgp-peers-0-peer-port: no such field"),
        ] {
            let mut node = node(&[
                ("p/bgp-peers-0-peer-ip", "192.0.2.1"),
                ("p/bgp-peers-0-peer-asn", "65530"),
                ("p/bgp-peers-1-peer-ip", "192.0.2.2"),
                ("p/bgp-peers-1-peer-asn", "65530"),
            ]);
            let value = Secret(value.to_owned());
            node.annotations
                .insert(format!("p/bgp-peers-{field}"), value);
            let peers = peers(&node, "p");
            let problem = peers[0].peer.as_ref().unwrap_err();
            assert!(problem.starts_with(expected), "{problem}");
            assert!(peers[1].peer.is_ok(), "the other one goes on");
        }
        let strange = peers(&node(&[("p/bgp-peers-x-peer-ip", "192.0.2.1")]), "p");
        assert!(strange[0].peer.is_err());
    }
}

//! Generic netlink: what drivers say about XDP (family `netdev`, kernel 6.3) and about VLAN tags (family
//! `ethtool`, kernel 5.7).
//!
//! The messages are simple enough to be written by hand: a four byte header, then attributes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rtnetlink::{
    packet_core::{
        DecodeError, DefaultNla, Emitable, NLA_TYPE_MASK, NetlinkDeserializable, NetlinkHeader,
        NetlinkSerializable, NlaBuffer, NlasIterator,
    },
    sys::protocols::NETLINK_GENERIC,
};

use super::{Client, NetlinkError};

/// The controller every family is asked from.
const CONTROLLER: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
/// Names of the features that take VLAN tags off frames before XDP: of 802.1Q and of 802.1ad.
const VLAN_STRIPPING: [&[u8]; 2] = [b"rx-vlan-hw-parse\0", b"rx-vlan-stag-hw-parse\0"];
/// Length and type of an attribute.
const ATTRIBUTE_HEADER: usize = 4;
/// Marks attributes that contain others; the kernel insists.
const NESTED: u16 = 1 << 15;
/// The driver runs XDP programs.
const ACT_BASIC: u64 = 1 << 0;
/// The driver transmits frames that were redirected to it. A veth says so only while its peer can
/// receive them; the redirect checks this very bit.
const ACT_NDO_XMIT: u64 = 1 << 2;

/// What drivers say, by interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct XdpFeatures(BTreeMap<u32, u64>);

impl XdpFeatures {
    /// Interfaces whose driver runs XDP programs.
    pub(crate) fn is_native(&self, ifindex: u32) -> bool {
        self.0
            .get(&ifindex)
            .is_some_and(|bits| bits & ACT_BASIC != 0)
    }

    /// Interfaces that transmit redirected frames.
    pub(crate) fn receivers(&self) -> BTreeSet<u32> {
        let takes = |bits: &u64| bits & ACT_NDO_XMIT != 0;
        self.0
            .iter()
            .filter(|(_, bits)| takes(bits))
            .map(|(ifindex, _)| *ifindex)
            .collect()
    }
}

/// A client of the family.
#[derive(Debug)]
pub(crate) struct Generic {
    client: Client<GenericMessage>,
}

impl Generic {
    /// Opens its socket with the first request.
    pub(crate) const fn new() -> Self {
        Self {
            client: Client::new(NETLINK_GENERIC),
        }
    }

    /// Features of all interfaces; `None` on a kernel that cannot be asked.
    pub(crate) async fn xdp_features(&self) -> Result<Option<XdpFeatures>, NetlinkError> {
        let Some(family) = self.family("netdev").await? else {
            return Ok(None);
        };
        let request = GenericMessage::new(family, NETDEV_CMD_DEV_GET, &[]);
        let answers = self
            .client
            .dump(request)
            .await
            .map_err(|source| NetlinkError::new("list XDP features", source))?;
        Ok(Some(XdpFeatures(
            answers.iter().filter_map(features).collect(),
        )))
    }

    /// Whether the driver takes the VLAN tag off a frame and keeps it beside it, where XDP does not see it;
    /// `None` on a kernel that cannot be asked.
    pub(crate) async fn strips_vlan_tags(
        &self,
        ifindex: u32,
    ) -> Result<Option<bool>, NetlinkError> {
        let Some(family) = self.family("ethtool").await? else {
            return Ok(None);
        };
        let device = DefaultNla::new(ETHTOOL_A_HEADER_DEV_INDEX, ifindex.to_ne_bytes().to_vec());
        let mut header = vec![0; device.buffer_len()];
        device.emit(&mut header);
        let header = DefaultNla::new(ETHTOOL_A_FEATURES_HEADER | NESTED, header);
        let request = GenericMessage::new(family, ETHTOOL_MSG_FEATURES_GET, &[header]);
        let answer = self.client.get(request).await.map_err(|source| {
            NetlinkError::new(
                format!("look at the features of interface {ifindex}"),
                source,
            )
        })?;
        Ok(answer.map(|message| strips_vlan_tags(&message)))
    }

    /// The number of a family; `None` where the kernel has none of that name.
    async fn family(&self, name: &str) -> Result<Option<u16>, NetlinkError> {
        let attribute = DefaultNla::new(CTRL_ATTR_FAMILY_NAME, format!("{name}\0").into_bytes());
        let request = GenericMessage::new(CONTROLLER, CTRL_CMD_GETFAMILY, &[attribute]);
        match self.client.get(request).await {
            Ok(answer) => Ok(answer
                .and_then(|message| message.attribute(CTRL_ATTR_FAMILY_ID))
                .map(u16::from_ne_bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => {
                let what = format!("look up netlink family {name}");
                Err(NetlinkError::new(what, source))
            }
        }
    }
}

fn features(message: &GenericMessage) -> Option<(u32, u64)> {
    let ifindex = u32::from_ne_bytes(message.attribute(NETDEV_A_DEV_IFINDEX)?);
    let bits = u64::from_ne_bytes(message.attribute(NETDEV_A_DEV_XDP_FEATURES)?);
    Some((ifindex, bits))
}

/// A bit set without a mask lists the bits that are set, by name.
fn strips_vlan_tags(features: &GenericMessage) -> bool {
    let active = inside(&features.attributes, ETHTOOL_A_FEATURES_ACTIVE);
    let bits = active.flat_map(|set| inside(set, ETHTOOL_A_BITSET_BITS));
    let bits = bits.flat_map(|bits| inside(bits, ETHTOOL_A_BITSET_BITS_BIT));
    let mut names = bits.flat_map(|bit| inside(bit, ETHTOOL_A_BITSET_BIT_NAME));
    names.any(|name| VLAN_STRIPPING.contains(&name))
}

/// The attributes of a kind.
fn inside(bytes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .filter(move |attribute: &NlaBuffer<&[u8]>| attribute.kind() & NLA_TYPE_MASK == kind)
        .filter_map(|attribute| {
            let end = usize::from(attribute.length());
            attribute.into_inner().get(ATTRIBUTE_HEADER..end)
        })
}

/// A generic netlink message with its attributes as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GenericMessage {
    family: u16,
    command: u8,
    attributes: Vec<u8>,
}

/// Command, version and two reserved bytes.
const HEADER: usize = 4;
const VERSION: u8 = 1;

impl GenericMessage {
    fn new(family: u16, command: u8, attributes: &[DefaultNla]) -> Self {
        let mut bytes = vec![0; attributes.buffer_len()];
        attributes.emit(&mut bytes);
        Self {
            family,
            command,
            attributes: bytes,
        }
    }

    fn attribute<const N: usize>(&self, wanted: u16) -> Option<[u8; N]> {
        NlasIterator::new(self.attributes.as_slice())
            .map_while(Result::ok)
            .find(|attribute: &NlaBuffer<&[u8]>| attribute.kind() & NLA_TYPE_MASK == wanted)
            .and_then(|attribute| attribute.value().try_into().ok())
    }
}

impl NetlinkSerializable for GenericMessage {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(HEADER);
        header.copy_from_slice(&[self.command, VERSION, 0, 0]);
        attributes.copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for GenericMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let [command, _version, _, _, attributes @ ..] = payload else {
            return Err(DecodeError::buffer_too_small(payload.len(), HEADER));
        };
        let attributes = attributes.to_vec();
        Ok(Self {
            family: header.message_type,
            command: *command,
            attributes,
        })
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{
        DefaultNla, Emitable as _, NetlinkDeserializable as _, NetlinkHeader,
        NetlinkSerializable as _,
    };

    use super::{
        GenericMessage, NESTED, NETDEV_A_DEV_IFINDEX, NETDEV_A_DEV_XDP_FEATURES, features,
        strips_vlan_tags,
    };

    #[test]
    fn a_message_survives_the_wire() {
        let attributes = [
            DefaultNla::new(NETDEV_A_DEV_IFINDEX, 7_u32.to_ne_bytes().to_vec()),
            DefaultNla::new(NETDEV_A_DEV_XDP_FEATURES, 5_u64.to_ne_bytes().to_vec()),
        ];
        let message = GenericMessage::new(30, 1, &attributes);
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let mut header = NetlinkHeader::default();
        header.message_type = 30;
        let read = GenericMessage::deserialize(&header, &bytes).unwrap();
        assert_eq!(read, message);
        assert_eq!(features(&read), Some((7, 5)));
    }

    fn nested(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
        let mut bytes = vec![0; inside.buffer_len()];
        inside.emit(&mut bytes);
        DefaultNla::new(kind | NESTED, bytes)
    }

    #[test]
    fn a_driver_that_strips_vlan_tags_is_known_by_the_names_of_its_features() {
        let features = |active: &[&str]| {
            let bit = |name: &&str| {
                let name = DefaultNla::new(2, format!("{name}\0").into_bytes());
                nested(1, &[DefaultNla::new(1, vec![8, 0, 0, 0]), name])
            };
            let set = |names: &[&str]| {
                let bits: Vec<_> = names.iter().map(bit).collect();
                [DefaultNla::new(1, Vec::new()), nested(3, &bits)]
            };
            let others = nested(2, &set(&["rx-vlan-hw-parse"]));
            GenericMessage::new(20, 11, &[others, nested(4, &set(active))])
        };
        for name in ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"] {
            assert!(strips_vlan_tags(&features(&["rx-gro", name])), "{name}");
        }
        assert!(!strips_vlan_tags(&features(&["rx-gro", "rx-vlan-filter"])));
        assert!(!strips_vlan_tags(&features(&[])));
    }

    #[test]
    fn a_short_or_odd_message_is_refused_or_empty() {
        let header = NetlinkHeader::default();
        assert!(GenericMessage::deserialize(&header, &[1, 2, 0]).is_err());
        for bytes in [
            &[1, 1, 0, 0][..],
            &[1, 1, 0, 0, 9],
            &[1, 1, 0, 0, 200, 0, 1, 0, 1],
        ] {
            let message = GenericMessage::deserialize(&header, bytes).unwrap();
            assert_eq!(features(&message), None);
        }
    }
}

//! The generic netlink family `netdev` (kernel 6.3): what drivers say about XDP.
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
        let family = match self.family().await {
            Ok(Some(family)) => family,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(NetlinkError::new("look up netlink family netdev", source)),
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

    async fn family(&self) -> io::Result<Option<u16>> {
        let name = DefaultNla::new(CTRL_ATTR_FAMILY_NAME, b"netdev\0".to_vec());
        let request = GenericMessage::new(CONTROLLER, CTRL_CMD_GETFAMILY, &[name]);
        let answer = self.client.get(request).await?;
        Ok(answer
            .and_then(|message| message.attribute(CTRL_ATTR_FAMILY_ID))
            .map(u16::from_ne_bytes))
    }
}

fn features(message: &GenericMessage) -> Option<(u32, u64)> {
    let ifindex = u32::from_ne_bytes(message.attribute(NETDEV_A_DEV_IFINDEX)?);
    let bits = u64::from_ne_bytes(message.attribute(NETDEV_A_DEV_XDP_FEATURES)?);
    Some((ifindex, bits))
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
        DefaultNla, NetlinkDeserializable as _, NetlinkHeader, NetlinkSerializable as _,
    };

    use super::{GenericMessage, NETDEV_A_DEV_IFINDEX, NETDEV_A_DEV_XDP_FEATURES, features};

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

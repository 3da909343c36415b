//! Interfaces and their addresses.

use std::collections::BTreeMap;

use eip_common::addr::Mac;
use ipnet::IpNet;
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
        LinkXdp, VlanProtocol, XdpAttached,
    },
};

use super::{NetlinkError, RouteClient, is_gone};
use crate::model::{Link, NodeAddress, Vlan};

/// The XDP program on an interface, whoever put it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct XdpProgram {
    /// Its id.
    pub(crate) id: u32,
    /// In the driver (or the hardware), not in the generic path.
    pub(crate) is_native: bool,
}

/// An interface with what only this side needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    /// For everybody.
    pub(crate) link: Link,
    /// Its XDP program.
    pub(crate) xdp: Option<XdpProgram>,
    /// It is up, and so is what it is connected to.
    pub(crate) is_running: bool,
}

/// All interfaces by index.
pub(crate) async fn list(client: &RouteClient) -> Result<BTreeMap<u32, Interface>, NetlinkError> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = client
        .dump(request)
        .await
        .map_err(|source| NetlinkError::new("list interfaces", source))?;
    Ok(answers
        .into_iter()
        .filter_map(interface)
        .map(|found| (found.link.ifindex, found))
        .collect())
}

/// One interface; `None` when it is gone.
pub(crate) async fn find(
    client: &RouteClient,
    ifindex: u32,
) -> Result<Option<Interface>, NetlinkError> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    match client.get(RouteNetlinkMessage::GetLink(request)).await {
        Ok(answer) => Ok(answer.and_then(interface)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(NetlinkError::new(
            format!("look at interface {ifindex}"),
            source,
        )),
    }
}

/// All addresses of the node.
pub(crate) async fn addresses(client: &RouteClient) -> Result<Vec<NodeAddress>, NetlinkError> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = client
        .dump(request)
        .await
        .map_err(|source| NetlinkError::new("list addresses", source))?;
    Ok(answers.into_iter().filter_map(address).collect())
}

fn interface(message: RouteNetlinkMessage) -> Option<Interface> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        kind: String::new(),
        mac: None,
        mtu: 0,
        master: None,
        vlan: None,
        is_up: message.header.flags.contains(LinkFlags::Up),
    };
    let is_running = message.header.flags.contains(LinkFlags::Running);
    let (mut xdp, mut below, mut infos) = (None, None, Vec::new());
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Address(bytes) if is_ethernet => link.mac = Mac::try_from(bytes).ok(),
            LinkAttribute::LinkInfo(found) => infos = found,
            LinkAttribute::Link(index) => below = Some(index),
            LinkAttribute::Xdp(facts) => xdp = xdp_program(&facts),
            _ => {}
        }
    }
    link.kind = kind(&infos).unwrap_or_default();
    link.vlan = below.and_then(|below| vlan(below, &infos));
    Some(Interface {
        link,
        xdp,
        is_running,
    })
}

fn kind(infos: &[LinkInfo]) -> Option<String> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

fn vlan(below: u32, infos: &[LinkInfo]) -> Option<Vlan> {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let id = data.iter().find_map(|fact| match fact {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let is_service = data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
    Some(Vlan {
        below,
        id,
        is_service,
    })
}

/// With programs in more than one mode the kernel names each; the native one sees frames first.
fn xdp_program(facts: &[LinkXdp]) -> Option<XdpProgram> {
    let native = facts.iter().find_map(|fact| match fact {
        LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) => Some(*id),
        _ => None,
    });
    let any = facts.iter().find_map(|fact| match fact {
        LinkXdp::ProgId(id) | LinkXdp::SkbProgId(id) => Some(*id),
        _ => None,
    });
    let is_native = facts.iter().any(|fact| {
        matches!(
            fact,
            LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware)
        )
    });
    let program = |id, is_native| XdpProgram { id, is_native };
    native
        .map(|id| program(id, true))
        .or(any.map(|id| program(id, is_native)))
        .filter(|program| program.id != 0)
}

fn address(message: RouteNetlinkMessage) -> Option<NodeAddress> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let mut own = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link `Address` is the other end and `Local` ours.
            AddressAttribute::Local(local) => own = Some(*local),
            AddressAttribute::Address(address) => own = own.or(Some(*address)),
            _ => {}
        }
    }
    let address = IpNet::new(own?, message.header.prefix_len).ok()?;
    Some(NodeAddress {
        ifindex: message.header.index,
        address,
    })
}

//! What the node's uplink is made of. Whatever it is, it is called `up0`, and the router's end `ru0`.

use crate::{
    netns::Ns,
    vlan::{self, StandIn, Tag},
};

/// Kinds of uplinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Uplink {
    /// An interface with nothing below it.
    #[default]
    Plain,
    /// A VLAN (802.1Q) of the interface `nic0`; the router's end of the cable is `rnic0`.
    Vlan,
    /// A VLAN (802.1Q) inside another one (802.1ad) of `nic0`.
    QinQ,
}

/// Id of the VLAN that is the uplink.
pub const VLAN: u16 = 100;
/// Id of the one around it.
pub const OUTER_VLAN: u16 = 200;
/// The cable takes a whole packet with two tags.
const CABLE_MTU: u32 = 1508;

impl Uplink {
    /// The tags of a frame on the cable, from the outside in.
    const fn tags(self) -> &'static [Tag] {
        const TAGS: &[Tag] = &[Tag::service(OUTER_VLAN), Tag::customer(VLAN)];
        match self {
            Self::Plain => &[],
            Self::Vlan => TAGS.split_at(1).1,
            Self::QinQ => TAGS,
        }
    }

    /// Lays the cable and makes `up0` and `ru0` of it, which are not up yet. What stands in for VLAN interfaces
    /// that the kernel does not have works while what is returned lives.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn plug(self, node: &Ns, router: &Ns, prefix: &str) -> anyhow::Result<Vec<StandIn>> {
        let far = router.name();
        let tags = self.tags();
        if tags.is_empty() {
            node.ip(&format!(
                "link add up0 type veth peer name ru0 netns {far}\n"
            ))?;
            return Ok(Vec::new());
        }
        node.ip(&format!(
            "link add nic0 mtu {CABLE_MTU} type veth peer name rnic0 netns {far} mtu {CABLE_MTU}
            link set nic0 up
            "
        ))?;
        router.ip("link set rnic0 up\n")?;
        let mut stand_ins = Vec::new();
        for (ns, cable, name) in [(node, "nic0", "up0"), (router, "rnic0", "ru0")] {
            stand_ins.extend(vlan::add(ns, prefix, cable, name, tags)?);
        }
        Ok(stand_ins)
    }
}

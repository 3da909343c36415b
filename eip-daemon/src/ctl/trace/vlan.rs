//! Frames with VLAN tags: the kernel hands them from an interface to the VLAN interfaces above it.

use axum::http::StatusCode;
use eip_common::reason::Hook;

use super::{End, Next, Place, Walk};
use crate::{
    ctl::{
        api::TraceHop,
        error::ApiError,
        frame::{self, Tag},
        view::interface_name,
    },
    model::{Link, Vlan},
};

impl Walk<'_> {
    /// The VLAN interface for a tag.
    fn vlan(&self, below: u32, id: u16) -> Option<&Link> {
        let links = self.now.view.links.values();
        let is_it = |vlan: Vlan| vlan.below == below && vlan.id == id;
        links.clone().find(|link| link.vlan.is_some_and(is_it))
    }

    /// Where frames with these tags come in: what is below an uplink of theirs, else below any.
    pub(super) fn below(&self, ids: &[u16], interface: Option<&str>) -> Result<u32, ApiError> {
        if let Some(name) = interface {
            return self.interface(name);
        }
        let bottom = |uplink: u32| {
            let (mut at, mut tags) = (uplink, Vec::new());
            while let Some(vlan) = self.now.view.links.get(&at).and_then(|link| link.vlan) {
                at = vlan.below;
                tags.insert(0, vlan.id);
            }
            (at, tags)
        };
        let bottoms: Vec<_> = self.now.uplink_map.iter().copied().map(bottom).collect();
        let fitting = bottoms.iter().find(|(_, tags)| tags == ids);
        let found = fitting.or(bottoms.first()).map(|(at, _)| *at);
        found.ok_or_else(|| {
            ApiError::new(StatusCode::CONFLICT, "no uplink has programs").hint("eipctl status")
        })
    }

    /// The tags, with the protocol that the VLAN interface for each of them has.
    pub(super) fn tags(&self, below: u32, ids: &[u16]) -> Vec<Tag> {
        let mut at = Some(below);
        let mut tags = Vec::new();
        for (number, id) in ids.iter().enumerate() {
            let link = at.and_then(|at| self.vlan(at, *id));
            let vlan = link.and_then(|link| link.vlan);
            let is_outer = number + 1 < ids.len();
            tags.push(Tag {
                id: *id,
                is_service: vlan.map_or(is_outer, |vlan| vlan.is_service),
            });
            at = link.map(|link| link.ifindex);
        }
        tags
    }

    /// Hands a frame to the VLAN interface of its outermost tag.
    pub(super) fn untag(&self, below: u32, frame: &mut Vec<u8>) -> (TraceHop, Next) {
        let name = interface_name(&self.now.view, below);
        let hop = |interface: String, action: &str, meaning: String, after| TraceHop {
            hook: "kernel".to_owned(),
            interface,
            action: action.to_owned(),
            reason: None,
            meaning,
            after,
            is_attached: None,
        };
        let tag = frame::untagged(frame);
        let id = tag.as_ref().map_or(0, |(id, _)| *id);
        let Some((link, (_, rest))) = self.vlan(below, id).zip(tag) else {
            let meaning = "There is no interface for this VLAN.".to_owned();
            let said = format!("dropped by the kernel: {name} has no VLAN {id}");
            return (hop(name, "drop", meaning, None), (None, End::Lost, said));
        };
        *frame = rest;
        let place = if self.has_program(Hook::UplinkTc, link.ifindex) {
            Place::At(Hook::UplinkXdp, link.ifindex)
        } else if frame::untagged(frame).is_some() {
            Place::Tagged(link.ifindex)
        } else {
            Place::Kernel
        };
        let meaning = format!("The interface of VLAN {id} takes the tag off.");
        let after = Some(frame::view(frame, frame.len()));
        let hop = hop(link.name.clone(), "untag", meaning, after);
        (hop, (Some(place), End::Open, String::new()))
    }
}

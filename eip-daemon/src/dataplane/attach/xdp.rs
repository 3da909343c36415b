//! XDP on an uplink: native, else generic, else none, as the mode allows.

use std::path::Path;

use aya::programs::{
    ProgramError,
    links::FdLink,
    xdp::{XdpLink, XdpMode as AyaXdpMode},
};
use eip_common::reason::Hook;

use super::{
    AttachError, Attacher, chain,
    pin::{is_updated, link_path, open_pin, pin, unpin},
    refused,
};
use crate::{
    dataplane::netlink::links::{self, Interface},
    model::XdpMode,
};

/// How an uplink came out without XDP although it was not switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dataplane) enum WithoutXdp {
    /// Somebody else's program is there.
    Foreign,
    /// The driver and the generic path both refused.
    Unsupported,
}

impl Attacher<'_> {
    /// Attaches, or replaces, the XDP program as the mode wants it. `Some` says why there is none.
    pub(in crate::dataplane) async fn attach_xdp(
        &mut self,
        interface: &Interface,
    ) -> Result<Option<WithoutXdp>, AttachError> {
        let path = link_path(self.directory, interface.link.ifindex, Hook::UplinkXdp);
        if self.xdp_mode == XdpMode::Off {
            unpin(&path)?;
            return Ok(None);
        }
        if self.is_wrong_mode(interface) {
            unpin(&path)?;
        }
        if self.adopt_xdp(interface, &path).await? {
            return Ok(None);
        }
        let now = links::find(self.client, interface.link.ifindex).await?;
        if let Some(foreign) = now.and_then(|interface| interface.xdp) {
            if self.xdp_mode == XdpMode::Auto {
                return Ok(Some(WithoutXdp::Foreign));
            }
            let interface = interface.link.name.clone();
            return Err(AttachError::ForeignXdp {
                interface,
                id: foreign.id,
            });
        }
        self.attach_new_xdp(interface, &path)
    }

    /// The pinned link runs in a mode that is not the one asked for.
    fn is_wrong_mode(&self, interface: &Interface) -> bool {
        interface.xdp.is_some_and(|program| match self.xdp_mode {
            XdpMode::Native => !program.is_native,
            XdpMode::Generic => program.is_native,
            XdpMode::Auto | XdpMode::Off => false,
        })
    }

    fn attach_new_xdp(
        &mut self,
        interface: &Interface,
        path: &Path,
    ) -> Result<Option<WithoutXdp>, AttachError> {
        let modes: &[AyaXdpMode] = match self.xdp_mode {
            XdpMode::Auto => &[AyaXdpMode::Driver, AyaXdpMode::Skb],
            XdpMode::Native => &[AyaXdpMode::Driver],
            XdpMode::Generic => &[AyaXdpMode::Skb],
            XdpMode::Off => &[],
        };
        let mut refusal = None;
        for mode in modes {
            match self.try_xdp(interface, *mode) {
                Ok(link) => {
                    return pin(link, Hook::UplinkXdp, interface, path).map(|()| None);
                }
                Err(error) => {
                    let interface = &interface.link.name;
                    tracing::debug!(%interface, ?mode, error = %chain(&error), "no XDP in this mode");
                    refusal = Some(error);
                }
            }
        }
        match refusal {
            Some(error) if self.xdp_mode != XdpMode::Auto => Err(error),
            Some(_) => Ok(Some(WithoutXdp::Unsupported)),
            None => Ok(None),
        }
    }

    fn try_xdp(&mut self, interface: &Interface, mode: AyaXdpMode) -> Result<FdLink, AttachError> {
        let attached = self.programs.xdp().and_then(|program| {
            let id = program.attach_to_if_index(interface.link.ifindex, mode)?;
            // On EINVAL aya tries netlink, which knows no links. A kernel that has them (5.9) refuses
            // there for the same reason, so this conversion does not fail.
            FdLink::try_from(program.take_link(id)?).map_err(|_no_link| ProgramError::NotAttached)
        });
        attached.map_err(|source| refused(Hook::UplinkXdp, interface, source))
    }

    async fn adopt_xdp(&mut self, interface: &Interface, path: &Path) -> Result<bool, AttachError> {
        let Some(link) = open_pin(path)? else {
            return Ok(false);
        };
        let Ok(link) = XdpLink::try_from(link) else {
            return unpin(path).map(|()| false);
        };
        let updated = self.programs.xdp().and_then(|program| {
            let id = program.attach_to_link(link)?;
            program.take_link(id)
        });
        if !is_updated(updated, Hook::UplinkXdp, interface)? {
            return unpin(path).map(|()| false);
        }
        let now = links::find(self.client, interface.link.ifindex).await?;
        let running = now
            .and_then(|interface| interface.xdp)
            .map(|program| program.id);
        if running == Some(self.programs.id(Hook::UplinkXdp)) {
            return Ok(true);
        }
        unpin(path).map(|()| false)
    }
}

//! Forgetting every connection of a namespace: each packet meets the same netfilter, whatever came
//! before it. Otherwise a failing packet could not be made smaller by trying again.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, ensure};
use eip_lab::netns::Ns;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` of `linux/netfilter/nfnetlink*.h`.
const DELETE: u16 = 0x0102;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_ACK: u16 = 5;

/// Empties the connection table of a namespace.
///
/// # Errors
/// When the kernel has no ctnetlink or refuses.
pub fn flush(ns: &Ns) -> anyhow::Result<()> {
    ns.run(|| {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .context("open a netfilter netlink socket")?;
        // nlmsghdr and nfgenmsg; no attribute means every connection of every family.
        let mut message = Vec::new();
        message.extend(20_u32.to_ne_bytes());
        message.extend(DELETE.to_ne_bytes());
        message.extend(REQUEST_ACK.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([0; 4]);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(socket.as_raw_fd(), &message, &kernel, MsgFlags::empty())
            .context("ask to forget all connections")?;
        let mut answer = [0; 256];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let code = answer.get(16..20).filter(|_| length >= 20);
        ensure!(
            code == Some(&[0; 4]),
            "the kernel did not forget its connections: {answer:?}"
        );
        Ok(())
    })
}

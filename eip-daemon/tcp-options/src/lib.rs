//! Socket options for BGP that no safe wrapper has: keys of TCP MD5 (RFC 2385) and the lowest hop
//! limit accepted (RFC 5082).
//!
//! A crate of its own because it holds the one unsafe operation they need, so that the daemon can
//! forbid unsafe code. Linux only.

use std::{
    ffi::{c_int, c_void},
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

/// Longest key.
pub const MAX_MD5_KEY_LEN: usize = libc::TCP_MD5SIG_MAXKEYLEN;

/// Kernel ABI (`include/uapi/linux/tcp.h`), which the libc crate does not carry either.
const TCP_MD5SIG_EXT: c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;

/// As the kernel writes them at the start of an address, `sa_family_t`.
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const _: () = assert!(AF_INET as c_int == libc::AF_INET && AF_INET6 as c_int == libc::AF_INET6);

/// Kernel ABI (`include/uapi/linux/tcp.h`), which the libc crate does not carry.
#[repr(C)]
struct TcpMd5Sig {
    address: SocketAddressStorage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: c_int,
    key: [u8; MAX_MD5_KEY_LEN],
}

/// `struct __kernel_sockaddr_storage` as bytes: family in host order, port, then the address as
/// `sockaddr_in` and `sockaddr_in6` place it.
#[repr(C, align(8))]
struct SocketAddressStorage([u8; 128]);

const _: () = assert!(size_of::<TcpMd5Sig>() == 216);

impl SocketAddressStorage {
    fn new(address: IpAddr, scope_id: u32) -> Self {
        let mut bytes = [0; 128];
        match address {
            IpAddr::V4(v4) => {
                bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
                bytes[4..8].copy_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                bytes[..2].copy_from_slice(&AF_INET6.to_ne_bytes());
                bytes[8..24].copy_from_slice(&v6.octets());
                bytes[24..28].copy_from_slice(&scope_id.to_ne_bytes());
            }
        }
        Self(bytes)
    }
}

/// Whose segments a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Md5Peer {
    /// The peer, or the first address of a range.
    pub address: IpAddr,
    /// Bits of the address that count: all of them for one peer. Of several keys that fit, the
    /// kernel takes the one with the longest prefix.
    pub prefix_len: u8,
    /// Interface index of a link-local peer, else 0.
    pub scope_id: u32,
}

impl Md5Peer {
    fn is_range(&self) -> bool {
        self.prefix_len < if self.address.is_ipv4() { 32 } else { 128 }
    }
}

/// Sets the key for segments from and to a peer, on a connecting or a listening socket; an empty
/// key removes it. Ranges need kernel 4.13 (`TCP_MD5SIG_EXT`).
///
/// # Errors
/// `InvalidInput` for a key that is too long; `ENOPROTOOPT` where the kernel was built without
/// `CONFIG_TCP_MD5SIG`; `ENOENT` when a key is removed that is not there.
pub fn set_md5_key(socket: &impl AsFd, peer: Md5Peer, key: &[u8]) -> io::Result<()> {
    let too_long = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut padded = [0; MAX_MD5_KEY_LEN];
    padded
        .get_mut(..key.len())
        .ok_or_else(too_long)?
        .copy_from_slice(key);
    let (option, flags, prefix_len) = if peer.is_range() {
        (TCP_MD5SIG_EXT, TCP_MD5SIG_FLAG_PREFIX, peer.prefix_len)
    } else {
        (libc::TCP_MD5SIG, 0, 0)
    };
    let value = TcpMd5Sig {
        address: SocketAddressStorage::new(peer.address, peer.scope_id),
        flags,
        prefix_len,
        key_len: u16::try_from(key.len()).map_err(|_| too_long())?,
        ifindex: 0,
        key: padded,
    };
    set_option(socket, libc::IPPROTO_TCP, option, &value)
}

/// Drops IPv4 segments that arrive with a lower TTL (`IP_MINTTL`).
///
/// # Errors
/// Those of setsockopt.
pub fn set_min_ttl(socket: &impl AsFd, ttl: u8) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &c_int::from(ttl))
}

/// Drops IPv6 segments that arrive with a lower hop limit (`IPV6_MINHOPCOUNT`).
///
/// # Errors
/// Those of setsockopt.
pub fn set_min_hop_limit(socket: &impl AsFd, hop_limit: u8) -> io::Result<()> {
    set_option(
        socket,
        libc::IPPROTO_IPV6,
        libc::IPV6_MINHOPCOUNT,
        &c_int::from(hop_limit),
    )
}

fn set_option<T>(socket: &impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `value` lives across the call and is `len` bytes long; the kernel only reads it. The
    // descriptor is borrowed from an open socket.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            std::ptr::from_ref(value).cast::<c_void>(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

//! The little state there is: which EIP a conversation belongs to, where addresses cannot tell.
//!
//! That is so when the peer is inside bypass (its packets would otherwise be answered with the VM's
//! own address) and when the VM has several EIPs. Everything else is stateless.

use core::hint::black_box;

use eip_common::{
    abi::{BINDING_SHARES_VM, Binding, FlowKey, FragmentKey, NET_BYPASS},
    parse::{Fragment, Headers, Kind, Quoted},
};

use crate::{family::Family, packet::Skb, quote};

/// Zeros that the compiler cannot know to be zero: for three in a row it calls a function, which costs more than all
/// the rest of a key, and whose frame is too much on top of the others.
#[inline(always)]
fn unused() -> [u8; 3] {
    let none = black_box(0);
    [none, none, none]
}

#[inline(always)]
fn key<A: Copy>(headers: &Headers<A>, vm: A, peer: A, ports: ([u8; 2], [u8; 2])) -> FlowKey<A> {
    FlowKey {
        vm,
        peer,
        vm_port: ports.0,
        peer_port: ports.1,
        protocol: headers.protocol,
        reserved: unused(),
    }
}

/// Remembers the EIP of a packet on its way to the VM, if its reply will need that.
///
/// `peer` is its source as the VM will see it, `peer_net` what the node knows about that address.
/// Looks before it writes: a write costs ten times a look, and all packets of a conversation but the
/// first find what they would write.
#[inline(always)]
pub(crate) fn remember<A: Family>(
    headers: &Headers<A>,
    binding: &Binding<A>,
    peer: &A,
    peer_net: u32,
) {
    if peer_net & NET_BYPASS != 0 || binding.flags & BINDING_SHARES_VM != 0 {
        remember_eip(headers, binding.vm, peer);
    }
}

#[inline(never)]
fn remember_eip<A: Family>(headers: &Headers<A>, vm: A, peer: &A) {
    if headers.fragment == Fragment::Later || headers.transport.kind == Kind::IcmpError {
        return;
    }
    let ports = (headers.transport.destination, headers.transport.source);
    let key = key(headers, vm, *peer, ports);
    if A::flow(&key) != Some(headers.destination) {
        A::remember_flow(&key, headers.destination);
    }
}

/// Forgets a conversation with an EIP when its peer turns to the VM's own address with the same
/// ports: with a new connection, or with any packet of a protocol that has none.
#[inline(always)]
pub(crate) fn forget_for_direct<A: Family>(headers: &Headers<A>) {
    let is_opening = match headers.transport.kind {
        Kind::TcpOpen | Kind::Other => true,
        Kind::Tcp | Kind::IcmpError | Kind::Discovery => false,
    };
    if !is_opening || headers.fragment == Fragment::Later {
        return;
    }
    let ports = (headers.transport.destination, headers.transport.source);
    let key = key(headers, headers.destination, headers.source, ports);
    if A::flow(&key).is_some() {
        A::forget_flow(&key);
    }
}

/// The EIP that a packet of the VM replies for, if it is part of a remembered conversation.
///
/// A later fragment follows its first one; when it overtakes that, it goes as direct traffic.
#[inline(always)]
pub(crate) fn reply<A: Family>(skb: &Skb<'_>, headers: &Headers<A>, eip: &mut A) -> bool {
    if headers.transport.kind == Kind::IcmpError {
        A::quoted(skb, headers).is_some_and(|quoted| reply_to_quoted(skb, headers, &quoted, eip))
    } else {
        reply_to_packet(headers, eip)
    }
}

/// Writes `found` where the caller keeps it: what a function returns costs its caller stack.
#[inline(always)]
fn put<A>(found: Option<A>, eip: &mut A) -> bool {
    match found {
        Some(found) => {
            *eip = found;
            true
        }
        None => false,
    }
}

#[inline(never)]
fn reply_to_packet<A: Family>(headers: &Headers<A>, eip: &mut A) -> bool {
    put(eip_of_packet(headers), eip)
}

#[inline(always)]
fn eip_of_packet<A: Family>(headers: &Headers<A>) -> Option<A> {
    if headers.fragment == Fragment::Later {
        return A::fragment(&datagram(headers));
    }
    let ports = (headers.transport.source, headers.transport.destination);
    let key = key(headers, headers.source, headers.destination, ports);
    let eip = A::flow(&key)?;
    if headers.transport.kind == Kind::TcpOpen {
        // The VM opens a connection of its own: what was remembered of these ports is over.
        A::forget_flow(&key);
        return None;
    }
    if headers.fragment == Fragment::First {
        A::remember_fragment(&datagram(headers), eip);
    }
    Some(eip)
}

/// An ICMP error belongs to the conversation of the packet it quotes, if that came to the sender:
/// nobody answers for another VM.
#[inline(never)]
fn reply_to_quoted<A: Family>(
    skb: &Skb<'_>,
    headers: &Headers<A>,
    quoted: &Quoted,
    eip: &mut A,
) -> bool {
    put(eip_of_quoted(skb, headers, quoted), eip)
}

#[inline(always)]
fn eip_of_quoted<A: Family>(skb: &Skb<'_>, headers: &Headers<A>, quoted: &Quoted) -> Option<A> {
    let source_at = quote::start(headers) + A::SOURCE_AT;
    if A::read(skb, source_at + size_of::<A>())? != headers.source {
        return None;
    }
    A::flow(&FlowKey {
        vm: headers.source,
        peer: A::read(skb, source_at)?,
        vm_port: quoted.destination_port,
        peer_port: quoted.source_port,
        protocol: quoted.protocol,
        reserved: unused(),
    })
}

#[inline(always)]
fn datagram<A: Family>(headers: &Headers<A>) -> FragmentKey<A> {
    FragmentKey {
        vm: headers.source,
        peer: headers.destination,
        id: headers.id,
        protocol: if A::PROTOCOL_TELLS_DATAGRAMS {
            headers.protocol
        } else {
            0
        },
        reserved: unused(),
    }
}

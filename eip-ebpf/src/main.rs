//! The kernel programs of kube-eip: entry points only.
//!
//! ```text
//!  network                                                             VM's network namespace
//!     │            ┌──────────── uplink ────────────┐                            ▲
//!     └───────────>│ XDP eip_uplink_xdp             │──(express lane)────────────┤
//!                  │ tc ingress eip_uplink_tc       │──redirect_peer─────────────┤
//!                  └───────┬────────────────────────┘                            │
//!                          │ redirect_neigh, or the kernel's own routing         │
//!                          v                                                     │
//!                  ┌──────── VM's port ─────────────┐                            │
//!                  │ tc egress  eip_door_in         │───EIP becomes VM──────────>┘
//!  network <───────│ tc ingress eip_door_out        │<──VM becomes EIP───────────┐
//!     redirect_neigh                                │                            │
//!                  └────────────────────────────────┘                            VM
//! ```
//!
//! Every stage names its outcome as a [`eip_common::reason::Reason`]; `verdict` turns that into an
//! action and counts it, once, per hook.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the program macros hand the context over by value"
)]

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use eip_common::{
    addr::{Ipv4Wire, Ipv6Wire},
    reason::{Hook, Reason},
};

use crate::{
    packet::{Frame, Skb},
    too_large::{TOO_LARGE, TOO_LARGE_FRAME},
    uplink::{Carries, carries},
    verdict::Verdict,
};

#[deny(unsafe_code)]
mod carry;
#[deny(unsafe_code)]
mod deliver;
#[deny(unsafe_code)]
mod door;
#[deny(unsafe_code)]
mod family;
#[deny(unsafe_code)]
mod flow;
mod maps;
#[deny(unsafe_code)]
mod neighbour;
mod packet;
#[deny(unsafe_code)]
mod quote;
#[deny(unsafe_code)]
mod rewrite;
#[deny(unsafe_code)]
mod too_large;
#[deny(unsafe_code)]
mod uplink;
#[deny(unsafe_code)]
mod verdict;

/// XDP on an uplink.
#[xdp]
fn eip_uplink_xdp(context: XdpContext) -> u32 {
    let frame = Frame::new(&context);
    match carries(frame.view()) {
        Carries::Ipv4 => match uplink::classify::<Ipv4Wire>(&frame) {
            TOO_LARGE_FRAME => too_large::in_xdp::<Ipv4Wire>(&frame),
            action => action,
        },
        Carries::Ipv6 => match uplink::classify::<Ipv6Wire>(&frame) {
            TOO_LARGE_FRAME => too_large::in_xdp::<Ipv6Wire>(&frame),
            action => action,
        },
        Carries::Tag => Verdict::of(Reason::Tagged).finish_xdp(Hook::UplinkXdp, &frame),
        Carries::Arp | Carries::Other => {
            Verdict::of(Reason::NotIp).finish_xdp(Hook::UplinkXdp, &frame)
        }
    }
}

/// tc ingress on an uplink.
#[classifier]
fn eip_uplink_tc(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    // This hook comes before the VLAN interface, where the same frame comes by without its tag. Delivered
    // from here it would keep the tag, and whoever receives it would drop it.
    if skb.is_tagged() {
        return tagged(Hook::UplinkTc, &skb);
    }
    match carries(skb.view()) {
        Carries::Ipv4 => match uplink::receive::<Ipv4Wire>(&skb) {
            TOO_LARGE => too_large::in_tc::<Ipv4Wire>(&skb, Hook::UplinkTc),
            action => action,
        },
        Carries::Ipv6 if neighbour::is_discovery(&skb) => neighbour::discovery(&skb),
        Carries::Ipv6 => match uplink::receive::<Ipv6Wire>(&skb) {
            TOO_LARGE => too_large::in_tc::<Ipv6Wire>(&skb, Hook::UplinkTc),
            action => action,
        },
        Carries::Arp => neighbour::arp(&skb),
        // Behind the tag of VLAN 0, which the kernel takes off first.
        Carries::Tag => Verdict::of(Reason::Tagged).finish_tc(Hook::UplinkTc, &skb),
        Carries::Other => not_ip(Hook::UplinkTc, &skb),
    }
}

/// tc egress on a VM's port.
#[classifier]
fn eip_door_in(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    if skb.is_tagged() {
        return tagged(Hook::DoorIn, &skb);
    }
    match carries(skb.view()) {
        Carries::Ipv4 => door::enter::<Ipv4Wire>(&skb),
        Carries::Ipv6 => door::enter::<Ipv6Wire>(&skb),
        Carries::Arp | Carries::Tag | Carries::Other => not_ip(Hook::DoorIn, &skb),
    }
}

/// tc ingress on a VM's port.
#[classifier]
fn eip_door_out(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    // A redirect would keep the tag: a VM could choose among the VLANs of the uplink.
    if skb.is_tagged() {
        return tagged(Hook::DoorOut, &skb);
    }
    match carries(skb.view()) {
        Carries::Ipv4 => door::leave::<Ipv4Wire>(&skb),
        Carries::Ipv6 => door::leave::<Ipv6Wire>(&skb),
        Carries::Arp | Carries::Tag | Carries::Other => not_ip(Hook::DoorOut, &skb),
    }
}

/// Ends a frame of a VLAN: not what this interface is about.
#[inline(always)]
fn tagged(hook: Hook, skb: &Skb<'_>) -> i32 {
    Verdict::of(Reason::Tagged).finish_tc(hook, skb)
}

/// Ends what no stage looks at.
#[inline(always)]
fn not_ip(hook: Hook, skb: &Skb<'_>) -> i32 {
    Verdict::of(Reason::NotIp).finish_tc(hook, skb)
}

/// A panic that could be reached would loop, and a loop without end fails verification.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

//! Kernel programs.
#![no_std]
#![no_main]
use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
#[xdp]
fn eip_uplink_xdp(_ctx: XdpContext) -> u32 { xdp_action::XDP_PASS }
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! { loop {} }

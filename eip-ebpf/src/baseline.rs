//! Programs that do nothing: what running any program costs, for benchmarks to subtract.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Passes every frame.
#[xdp]
fn noop_xdp(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Passes every packet.
#[classifier]
fn noop_tc(_context: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

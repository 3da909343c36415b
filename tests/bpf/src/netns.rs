//! A network namespace of a test's own, for what the programs ask the kernel's routing.

use std::{fs, process::Command, thread};

use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a fresh network namespace, which ends with it. Needs root.
pub fn in_own_netns<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let handle = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: tests need root");
            ip("link set lo up");
            test()
        });
        handle
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `ip` in the namespace of the calling thread.
pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .expect("ip is installed");
    assert!(status.success(), "ip {arguments}");
}

/// Makes the namespace of the calling thread forward IPv4.
pub fn forward() {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding is a sysctl");
}

/// Index of an interface in the namespace of the calling thread.
#[must_use]
pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("the interface exists")
}

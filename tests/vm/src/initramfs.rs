//! The guest's root file system: an archive the kernel unpacks into memory (`newc` of cpio, see
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use eip_lab::command;

use crate::{PROGRAMS, kernel::Kernel};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// What the first process does: modules, addresses, then the guest's own program. The kernel hands it
/// unknown words of its command line as variables.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
# Each uses some of the others; nobody here knows the order.
for round in 1 2 3; do
  for module in /modules/*; do $b insmod $module 2>/dev/null; done
done
echo "0 2147483647" > /proc/sys/net/ipv4/ping_group_range
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
$b ip link set lo up
$b ip link set eth0 mtu $vm_mtu up
$b ip addr add $vm_address dev eth0
$b ip route add $vm_gateway dev eth0 2>/dev/null
$b ip route add default via $vm_gateway dev eth0
$b ip -6 addr add $vm_address6 dev eth0
$b ip -6 route add default via $vm_gateway6 dev eth0
$b stty -F /dev/ttyS1 raw -echo
exec /guest
"#;

/// An archive as it grows.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.entries += 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(content.len())?,
            0,
            0,
            0,
            0,
            u32::try_from(name.len() + 1)?,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            write!(header, "{field:08x}")?;
        }
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A file with the directories on the way to it.
    fn add_file(&mut self, name: &Path, source: &Path) -> anyhow::Result<()> {
        let name = name.strip_prefix("/").unwrap_or(name);
        for dir in name.ancestors().skip(1).collect::<Vec<_>>().iter().rev() {
            if !dir.as_os_str().is_empty() {
                self.add(&dir.to_string_lossy(), DIRECTORY, &[])?;
            }
        }
        let content = fs::read(source).with_context(|| format!("read {}", source.display()))?;
        self.add(&name.to_string_lossy(), PROGRAM, &content)
    }
}

/// Packs busybox, the kernel's modules and the guest's program with the libraries it needs.
///
/// # Errors
/// When one of them cannot be read.
pub fn pack(kernel: &Kernel, guest: &Path) -> anyhow::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "sys", "run", "run/netns", "modules"] {
        archive.add(dir, DIRECTORY, &[])?;
    }
    // The lab's code takes a namespace by its name; the guest has one.
    archive.add("run/netns/vm", LINK, b"/proc/self/ns/net")?;
    archive.add("init", PROGRAM, INIT.as_bytes())?;
    archive.add_file(Path::new("bin/busybox"), &program("busybox")?)?;
    for (index, module) in kernel.modules.iter().enumerate() {
        archive.add_file(Path::new(&format!("modules/{index:02}")), module)?;
    }
    archive.add(
        PROGRAMS.trim_start_matches('/'),
        PROGRAM,
        eip_daemon::EBPF_OBJECT,
    )?;
    archive.add_file(Path::new("guest"), guest)?;
    for library in libraries(guest)? {
        archive.add_file(&library, &library)?;
    }
    archive.add("TRAILER!!!", 0, &[])?;
    Ok(archive.bytes)
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    let found = command::output(Command::new("sh").args(["-c", &format!("command -v {name}")]))?;
    Ok(PathBuf::from(found.trim()))
}

/// The shared libraries and the loader of a program, at the paths it looks for them.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed = command::output(Command::new("ldd").arg(program))?;
    Ok(listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

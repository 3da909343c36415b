//! qemu, and the guest that runs in it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail};
use eip_lab::{netns::Ns, plan::mac_text, wait};

use crate::{initramfs, kernel::Kernel};

/// A boot without KVM on a machine that has other things to do.
const BOOT: Duration = Duration::from_mins(2);
/// A boot with KVM takes two seconds where KVM works.
const BOOT_KVM: Duration = Duration::from_secs(15);
/// Longest thing a guest is asked for.
const ANSWER: Duration = Duration::from_mins(1);

/// How a guest is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its address with prefix length.
    pub address: String,
    /// Its gateway.
    pub gateway: String,
    /// As `address`, for IPv6.
    pub address6: String,
    /// As `gateway`, for IPv6.
    pub gateway6: String,
    /// MTU of its link.
    pub mtu: u32,
}

impl Setup {
    /// The kernel's command line; what the kernel does not know it hands to the first process.
    fn words(&self) -> String {
        let Self {
            address,
            gateway,
            address6,
            gateway6,
            mtu,
            ..
        } = self;
        // On a busy machine the guest's timer ticks too seldom for the check at boot.
        format!(
            "console=ttyS0 quiet panic=-1 no_timer_check vm_address={address} vm_gateway={gateway} \
             vm_address6={address6} vm_gateway6={gateway6} vm_mtu={mtu}"
        )
    }
}

/// The process with its files. Killed when dropped; tells its console when a test failed.
#[derive(Debug)]
struct Qemu {
    child: Child,
    dir: PathBuf,
}

/// A running VM.
#[derive(Debug)]
pub struct Machine {
    control: BufReader<UnixStream>,
    qemu: Qemu,
}

static NEXT: AtomicU32 = AtomicU32::new(0);
/// KVM failed once in this process.
static NO_KVM: AtomicBool = AtomicBool::new(false);

impl Machine {
    /// Boots a guest on `tap0` of a namespace and waits until its program answers: with KVM, and without
    /// where that is missing or does not work, as in many nested machines.
    ///
    /// # Errors
    /// When qemu does not start or the guest does not come up; the error carries its console.
    pub fn boot(ns: &Ns, kernel: &Kernel, guest: &Path, setup: &Setup) -> anyhow::Result<Self> {
        let initrd = initramfs::pack(kernel, guest)?;
        if Path::new("/dev/kvm").exists() && !NO_KVM.load(Ordering::Relaxed) {
            match Self::start(ns, kernel, &initrd, setup, "kvm", BOOT_KVM) {
                Ok(machine) => return Ok(machine),
                Err(_) => NO_KVM.store(true, Ordering::Relaxed),
            }
        }
        Self::start(ns, kernel, &initrd, setup, "tcg", BOOT)
    }

    fn start(
        ns: &Ns,
        kernel: &Kernel,
        initrd: &[u8],
        setup: &Setup,
        accelerator: &str,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("eip-vm-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let initramfs = dir.join("initramfs");
        fs::write(&initramfs, initrd)?;
        let socket = dir.join("control");
        let child = ns
            .command("qemu-system-x86_64")
            .args(["-accel", accelerator])
            .args(["-cpu", "max", "-m", "320", "-no-reboot", "-nodefaults"])
            .args(["-display", "none"])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", &setup.words()])
            .args(["-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no"])
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,netdev=net,romfile=,mac={}",
                mac_text(setup.mac)
            ))
            .arg("-serial")
            .arg(format!("file:{}", dir.join("console").display()))
            .arg("-serial")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("qemu"))?)
            .spawn()
            .context("start qemu")?;
        let mut qemu = Qemu { child, dir };
        let stream = wait::wait_for(limit, "qemu opens its control socket", || {
            let has_ended = matches!(qemu.child.try_wait(), Ok(Some(_)));
            match UnixStream::connect(&socket) {
                Ok(stream) => Some(Ok(stream)),
                Err(error) if has_ended => Some(Err(error)),
                Err(_) => None,
            }
        })?
        .with_context(|| format!("qemu ended\n{}", qemu.console()))?;
        let mut machine = Self {
            control: BufReader::new(stream),
            qemu,
        };
        let ready = machine.read(limit);
        ready.with_context(|| format!("boot a VM\n{}", machine.qemu.console()))?;
        Ok(machine)
    }

    /// Asks the guest to do something; see the guest's program for the words.
    ///
    /// # Errors
    /// With what went wrong in there.
    pub fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        writeln!(self.control.get_mut(), "{line}").context("ask the guest")?;
        let answer = self.read(ANSWER)?;
        match answer.split_once(' ') {
            Some(("ok", value)) => Ok(value.to_owned()),
            _ => bail!("the guest, asked to {line}: {answer}"),
        }
    }

    fn read(&mut self, limit: Duration) -> anyhow::Result<String> {
        self.control.get_ref().set_read_timeout(Some(limit))?;
        let mut line = String::new();
        self.control
            .read_line(&mut line)
            .context("wait for the guest")?;
        let line = line.trim();
        if line.is_empty() {
            bail!("the guest ended\n{}", self.qemu.console());
        }
        Ok(line.to_owned())
    }
}

impl Qemu {
    /// What the guest wrote to its console, and what qemu complained about.
    fn console(&self) -> String {
        let read = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        format!("{}{}", read("qemu"), read("console"))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- console of a VM ----\n{}", self.console());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

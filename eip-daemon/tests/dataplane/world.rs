//! A node to try things on: namespaces that belong to one thread and end with it.
//!
//! Nothing is named, so nothing can collide or stay behind, not even after a kill: the kernel removes
//! the network namespace with its interfaces and the mount namespace with its BPF file system when
//! the last thread in them is gone.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use eip_daemon::{
    dataplane::{DataPlane as _, DataPlaneOptions, KernelDataPlane},
    model::{Action, NetworkView, Observed, UplinkState},
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{geteuid, gettid},
};

/// Longest wait for something the kernel does in its own time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The node.
pub(crate) struct World {
    /// A BPF file system of its own.
    pub(crate) bpffs: PathBuf,
    _directory: tempfile::TempDir,
}

/// Runs a test on a node of its own. Its tests are marked as ignored, which is what they are without root;
/// `cargo xtask test` asks for them where it can.
pub(crate) fn on_a_node<F: AsyncFnOnce(World) + Send + 'static>(test: F) {
    assert!(geteuid().is_root(), "needs root");
    let node = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let world = World::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(world));
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

impl World {
    fn new() -> Self {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let bpffs = directory.path().join("bpf");
        fs::create_dir(&bpffs).unwrap();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none).unwrap();
        let world = Self {
            bpffs,
            _directory: directory,
        };
        run("ip link set lo up");
        world
    }

    /// Settings for this node.
    pub(crate) fn options(&self) -> DataPlaneOptions {
        DataPlaneOptions {
            bpffs: self.bpffs.clone(),
            max_bindings: 64,
            max_flows: 128,
            uplinks: vec!["up0".to_owned()],
            ..DataPlaneOptions::default()
        }
    }

    /// The kernel side with the default settings.
    pub(crate) fn open(&self) -> KernelDataPlane {
        KernelDataPlane::open(self.options()).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Names of what is pinned in a directory of ours.
    pub(crate) fn pins(&self, directory: &str) -> Vec<String> {
        let directory = self.bpffs.join("eip").join(directory);
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Where a map is pinned.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.bpffs.join("eip/maps").join(name)
    }
}

impl Drop for World {
    /// The directory it is mounted on can only be removed after it.
    fn drop(&mut self) {
        let _gone = umount2(&self.bpffs, MntFlags::MNT_DETACH);
    }
}

/// Another network namespace: a VM.
pub(crate) struct Guest {
    namespace: PathBuf,
    tid: i32,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(gettid().as_raw()).unwrap();
            let _ended = stopped.recv();
        });
        let tid = is_ready.recv().unwrap();
        let namespace = PathBuf::from(format!("/proc/{}/task/{tid}/ns/net", std::process::id()));
        Self {
            namespace,
            tid,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Runs a command inside.
    pub(crate) fn run(&self, command: &str) -> String {
        run(&format!(
            "nsenter --net={} {command}",
            self.namespace.display()
        ))
    }

    /// Gives it one end of a veth pair as `eth0`; the other end stays here under a name.
    pub(crate) fn plug(&self, port: &str, address: &str) {
        run(&format!(
            "ip link add {port} type veth peer name eth0 netns {}",
            self.tid
        ));
        run(&format!("ip link set {port} up"));
        self.run(&format!("ip address add {address} dev eth0"));
        self.run("ip link set eth0 up");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Runs a command and returns what it printed.
pub(crate) fn run(command: &str) -> String {
    run_words(&command.split_whitespace().collect::<Vec<_>>())
}

fn run_words(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// A filter of somebody else that matches nothing.
pub(crate) fn foreign_filter(interface: &str, place: &str) {
    let mut words = vec!["tc", "filter", "add", "dev", interface];
    words.extend(place.split_whitespace());
    words.extend(["bpf", "bytecode", "1,6 0 0 0", "classid", "1:1"]);
    run_words(&words);
}

/// Makes a veth pair, both ends up, and returns the index of the first.
pub(crate) fn veth(name: &str) -> u32 {
    run(&format!("ip link add {name} type veth peer name {name}p"));
    run(&format!("ip link set {name} up"));
    run(&format!("ip link set {name}p up"));
    ifindex(name)
}

pub(crate) fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// An error with its causes.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").unwrap();
        cause = error.source();
    }
    text
}

/// Looks until it is as it should be.
pub(crate) async fn eventually_sees(
    plane: &mut KernelDataPlane,
    vms: &[std::net::IpAddr],
    what: &str,
    is_right: impl Fn(&NetworkView) -> bool,
) -> NetworkView {
    let vms = vms.iter().copied().collect();
    let start = Instant::now();
    loop {
        let view = plane.view(&vms).await.unwrap();
        if is_right(&view) {
            return view;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {view:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn apply(plane: &mut KernelDataPlane, action: Action) {
    if let Err(error) = plane.apply(&action).await {
        panic!("{action:?}: {}", chain(&error));
    }
}

pub(crate) async fn refused(plane: &mut KernelDataPlane, action: Action) -> String {
    match plane.apply(&action).await {
        Ok(()) => panic!("{action:?} was not refused"),
        Err(error) => chain(&error),
    }
}

pub(crate) async fn observe(plane: &mut KernelDataPlane) -> Observed {
    plane
        .observe()
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

pub(crate) fn attach_uplink(ifindex: u32) -> Action {
    Action::AttachUplink(
        ifindex,
        UplinkState {
            name: "up0".to_owned(),
            mtu: 1500,
            mac: [0; 6],
        },
    )
}

/// What `bpftool` says about everything of ours that is loaded, for `is nothing left`.
pub(crate) fn pinned_anything(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

//! Two nodes, a router and a client around a control plane, and the programs under test on them.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use eip_lab::{
    binaries::Binaries,
    command,
    netns::{self, Ns},
    wait,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::{
    clock::Clock,
    control_plane::{ADDRESS, ControlPlane},
    kubevirt,
    process::Process,
    turnstile::Turnstile,
};

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// The client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Where elastic IPs come from.
pub const EIP_CIDR: &str = "203.0.113.0/24";
/// Where the lab's directories are.
const RUN_DIR: &str = "/run/kube-eip-lab";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its name, in the cluster and here.
    pub name: &'static str,
    /// Its namespace.
    pub ns: Ns,
    /// Its address on the uplink.
    pub uplink: Ipv4Addr,
    agent: Option<Process>,
    dir: PathBuf,
    kubeconfig: PathBuf,
}

/// The virt-launcher pod of a VM: a namespace behind a routed veth of a node.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub ns: Ns,
    /// Its address.
    pub address: Ipv4Addr,
    /// Name of its object.
    pub name: String,
    node: usize,
    port: String,
}

/// What is usually as tests want it.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where elastic IPs come from.
    pub eip_cidr: &'static str,
    /// Pod networks of the two nodes.
    pub pod_cidrs: [&'static str; 2],
    /// What the programs under test log.
    pub log_level: &'static str,
    /// How long a controller that is gone is waited for.
    pub lease_duration: &'static str,
    /// How often agents look at the kernel, events or not.
    pub resync: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            eip_cidr: EIP_CIDR,
            pod_cidrs: ["10.244.1.0/24", "10.244.2.0/24"],
            log_level: "debug",
            lease_duration: "3s",
            resync: "1s",
        }
    }
}

/// Everything.
#[derive(Debug)]
pub struct Cluster {
    controllers: Vec<Process>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The API server.
    pub control: ControlPlane,
    /// Who asks VMs from outside.
    pub client: Ns,
    /// Who knows at which node an elastic IP is.
    pub router: Ns,
    place: Ns,
    prefix: String,
    binaries: Binaries,
    dir: Home,
    options: Options,
    /// Flags of the agents beside those they all have.
    pub agent_flags: Vec<&'static str>,
    /// Flags of the controllers beside those they all have.
    pub controller_flags: Vec<&'static str>,
    clock: Option<Clock>,
}

/// A directory with mounts in it.
#[derive(Debug)]
struct Home(PathBuf);

impl Drop for Home {
    fn drop(&mut self) {
        for node in ["n1", "n2"] {
            // Not mounted is fine: the set-up may have failed before.
            let _ = umount2(&self.0.join(node).join("bpf"), MntFlags::MNT_DETACH);
        }
        if std::env::var_os("EIP_KEEP_LOGS").is_none()
            && let Err(error) = fs::remove_dir_all(&self.0)
        {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

impl Cluster {
    /// Raises it with the manifests of `deploy/kubernetes` applied; no program of ours runs yet.
    ///
    /// # Errors
    /// Without root, or when a program is missing.
    pub fn new() -> anyhow::Result<Self> {
        Self::with(Options::default())
    }

    /// As [`Cluster::new`], otherwise than tests want it.
    ///
    /// # Errors
    /// As [`Cluster::new`].
    pub fn with(options: Options) -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            let _swept = netns::sweep();
        }
        let prefix = format!("eip-{}-{number}-", std::process::id());
        let dir = Home(Path::new(RUN_DIR).join(prefix.trim_end_matches('-')));
        fs::create_dir_all(&dir.0).with_context(|| format!("create {}", dir.0.display()))?;
        let ns = |role: &str| Ns::create(&format!("{prefix}{role}"));
        let (place, client, router) = (ns("cp")?, ns("client")?, ns("router")?);
        place.ip(&format!(
            "link add mg0 type bridge\naddr add {ADDRESS}/24 dev mg0\nlink set mg0 up\n"
        ))?;
        outside(&client, &router)?;
        let control = ControlPlane::start(&place, &dir.0)?;
        let mut nodes = Vec::new();
        for (index, name) in ["n1", "n2"].into_iter().enumerate() {
            let host = u8::try_from(11 + index)?;
            let node = Node {
                name,
                ns: ns(name)?,
                uplink: Ipv4Addr::new(192, 0, 2, host),
                agent: None,
                dir: dir.0.join(name),
                kubeconfig: PathBuf::new(),
            };
            attach_node(&node, host, &router, &place)?;
            let bpf = node.dir.join("bpf");
            fs::create_dir_all(&bpf)?;
            mount(
                Some("bpf"),
                &bpf,
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )
            .with_context(|| format!("mount a BPF file system on {}", bpf.display()))?;
            nodes.push(node);
        }
        let mut cluster = Self {
            controllers: Vec::new(),
            nodes,
            control,
            client,
            router,
            place,
            prefix,
            binaries: Binaries::find()?,
            dir,
            options,
            agent_flags: Vec::new(),
            controller_flags: Vec::new(),
            clock: None,
        };
        cluster.install()?;
        Ok(cluster)
    }

    /// The shipped manifests, KubeVirt's definition, and the nodes with an agent's pod each.
    fn install(&mut self) -> anyhow::Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes");
        let root = root.to_string_lossy().into_owned();
        self.control
            .kubectl(&["apply", "--server-side", "--kustomize", &root])?;
        self.control.apply(&kubevirt::definition())?;
        self.control.kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=30s",
        ])?;
        for index in 0..self.nodes.len() {
            let name = self.nodes[index].name;
            self.control
                .apply(&kubevirt::node(name, self.options.pod_cidrs[index]))?;
            // The agent's token is that of a pod on its node, as the kubelet would ask for it.
            let pod = format!("agent-{name}");
            self.control.apply(&json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod, "namespace": "kube-eip"},
                "spec": {
                    "nodeName": name, "serviceAccountName": "kube-eip-agent",
                    "automountServiceAccountToken": false,
                    "containers": [{"name": "agent", "image": "kube-eip"}]
                }
            }))?;
            self.nodes[index].kubeconfig = self.control.kubeconfig("kube-eip-agent", Some(&pod))?;
        }
        // A policy is enforced a moment after it was stored.
        let policy = "validatingadmissionpolicy/kube-eip-agent";
        wait::wait_until(PATIENCE, "the policy was looked at", || {
            self.control
                .kubectl(&[
                    "get",
                    policy,
                    "--output=jsonpath={.status.observedGeneration}",
                ])
                .is_ok()
        })
    }

    /// Gives programs that are started from now on a wall clock that can be set.
    ///
    /// # Errors
    /// What sets it is not installed.
    pub fn take_clock(&mut self) -> anyhow::Result<()> {
        self.clock = Some(Clock::new(self.dir.0.join("clock"))?);
        self.set_clock("+0")
    }

    /// Sets the wall clock of our programs, by so much from the real one: `+1h`.
    ///
    /// # Errors
    /// It was not taken.
    pub fn set_clock(&self, offset: &str) -> anyhow::Result<()> {
        let clock = self.clock.as_ref().context("take the clock first")?;
        // Whole: it is read at any time.
        let new = clock.file.with_extension("new");
        fs::write(&new, offset)?;
        Ok(fs::rename(new, &clock.file)?)
    }

    /// Starts another controller.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_controller(&mut self) -> anyhow::Result<usize> {
        let number = self.controllers.len();
        let kubeconfig = self.control.kubeconfig("kube-eip-controller", None)?;
        let http = format!("--http=127.0.0.1:{}", 9470 + number);
        self.run_controller(&format!("controller-{number}"), &kubeconfig, &http)
    }

    /// Starts another controller behind a turnstile. All of those have one identity, so the next one need
    /// not wait for the Lease of one that was killed.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_controller_behind(&mut self, turnstile: &Turnstile) -> anyhow::Result<usize> {
        let kubeconfig = self.dir.0.join("turnstile.kubeconfig");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": turnstile.server()}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "nobody"}}],
            "current-context": "test",
        });
        fs::write(&kubeconfig, config.to_string())?;
        self.run_controller("controller", &kubeconfig, "--http=off")
    }

    fn run_controller(
        &mut self,
        identity: &str,
        kubeconfig: &Path,
        http: &str,
    ) -> anyhow::Result<usize> {
        let process = Process::start(
            identity,
            self.place
                .command(&self.binaries.daemon)
                .envs(self.clock.iter().flat_map(Clock::environment))
                .arg("controller")
                .arg(format!("--lease-duration={}", self.options.lease_duration))
                .arg(format!("--log-level={}", self.options.log_level))
                .arg(format!("--kubeconfig={}", kubeconfig.display()))
                .arg(format!("--identity={identity}"))
                .arg(http)
                .args(&self.controller_flags),
            &self.dir.0,
        )?;
        self.controllers.push(process);
        Ok(self.controllers.len() - 1)
    }

    /// How many controllers were started.
    #[must_use]
    pub const fn controllers(&self) -> usize {
        self.controllers.len()
    }

    /// A controller that was started.
    pub fn controller(&mut self, number: usize) -> &mut Process {
        &mut self.controllers[number]
    }

    /// Starts the agent of a node.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_agent(&mut self, index: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[index];
        let path = |name: &str| node.dir.join(name).display().to_string();
        let process = Process::start(
            &format!("agent-{}", node.name),
            node.ns
                .command(&self.binaries.daemon)
                .envs(self.clock.iter().flat_map(Clock::environment))
                .arg("agent")
                .arg(format!("--source=kube:{}", node.kubeconfig.display()))
                .arg(format!("--node-name={}", node.name))
                .arg(format!("--bpffs={}", path("bpf")))
                .arg(format!("--state-dir={}", path("state")))
                .arg(format!("--socket={}", path("eip.sock")))
                .arg(format!("--eip-cidr={}", self.options.eip_cidr))
                .arg(format!("--resync={}", self.options.resync))
                .arg(format!("--log-level={}", self.options.log_level))
                .args([
                    "--uplink=up0",
                    "--gateway-ip=192.0.2.1",
                    "--internal-net=172.16.0.0/24",
                    "--http=127.0.0.1:9469",
                ])
                .args(&self.agent_flags),
            &node.dir,
        )?;
        node.agent = Some(process);
        Ok(())
    }

    /// The agent of a node.
    ///
    /// # Errors
    /// It was not started.
    pub fn agent(&mut self, index: usize) -> anyhow::Result<&mut Process> {
        self.nodes[index]
            .agent
            .as_mut()
            .context("the agent was not started")
    }

    /// The agent's BPF file system.
    #[must_use]
    pub fn bpffs(&self, index: usize) -> PathBuf {
        self.nodes[index].dir.join("bpf")
    }

    /// Where the control plane and the controllers run.
    #[must_use]
    pub const fn place(&self) -> &Ns {
        &self.place
    }

    /// Begin of the names of all its namespaces.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where an agent keeps what it knew last.
    #[must_use]
    pub fn state_file(&self, index: usize) -> PathBuf {
        self.nodes[index].dir.join("state/facts.json")
    }

    /// What `eipctl` answers on a node.
    ///
    /// # Errors
    /// With what it said.
    pub fn eipctl(&self, index: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let node = &self.nodes[index];
        command::output(
            node.ns
                .command(&self.binaries.eipctl)
                .arg("--socket")
                .arg(node.dir.join("eip.sock"))
                .args(arguments),
        )
    }

    /// Whether a node serves an elastic IP, or is about to.
    #[must_use]
    pub fn serves(&self, index: usize, eip: Ipv4Addr) -> bool {
        let list = self.eipctl(index, &["list", "-o", "json"]);
        let list: Value = list
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let all = list.as_array().or_else(|| list["bindings"].as_array());
        let eip = eip.to_string();
        all.into_iter()
            .flatten()
            .any(|one| one["eip"] == eip && one["state"] != "elsewhere")
    }

    /// The nodes' addresses toward the router.
    #[must_use]
    pub fn uplinks(&self) -> Vec<Ipv4Addr> {
        self.nodes.iter().map(|node| node.uplink).collect()
    }

    /// Where everything of it is kept while it stands.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// Controller and agents, all ready.
    ///
    /// # Errors
    /// One is not ready in time.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        self.start_controller()?;
        for index in 0..self.nodes.len() {
            self.start_agent(index)?;
        }
        for index in 0..self.nodes.len() {
            self.wait_agent(index)?;
        }
        Ok(())
    }

    /// Waits until an agent answers.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_agent(&self, index: usize) -> anyhow::Result<()> {
        wait::wait_until(PATIENCE, "an agent answers", || {
            self.eipctl(index, &["status"]).is_ok()
        })
    }

    /// The network side of a virt-launcher pod: a namespace with an address behind a port of a node.
    ///
    /// # Errors
    /// The name is taken.
    pub fn plug(&self, name: &str, node: usize, address: Ipv4Addr) -> anyhow::Result<Pod> {
        let ns = Ns::create(&format!("{}{name}", self.prefix))?;
        let port = format!("p{}", name.replace('-', ""));
        let host = &self.nodes[node].ns;
        host.ip(&format!(
            "link add {port} type veth peer name eth0 netns {inside}
            link set {port} address ee:ee:ee:ee:ee:ee
            link set {port} up
            route add {address}/32 dev {port} scope link
            ",
            inside = ns.name()
        ))?;
        host.sysctl(&format!(
            "ipv4/conf/{port}/proxy_arp=1\nipv4/neigh/{port}/proxy_delay=0"
        ))?;
        ns.ip(&format!(
            "addr add {address}/32 dev eth0
            link set eth0 up
            route add 169.254.1.1 dev eth0 scope link
            route add default via 169.254.1.1 dev eth0
            "
        ))?;
        Ok(Pod {
            ns,
            address,
            name: name.to_owned(),
            node,
            port,
        })
    }

    /// Takes the port away, as the CNI does when the pod is gone.
    ///
    /// # Errors
    /// It is gone already.
    pub fn unplug(&self, pod: &Pod) -> anyhow::Result<()> {
        self.nodes[pod.node]
            .ns
            .ip(&format!("link del {}\n", pod.port))
    }

    /// Writes a running VM and its virt-launcher pod; returns the VM's uid.
    ///
    /// # Errors
    /// With what the API server said.
    pub fn run_vm(&self, vm: &str, pod: &Pod) -> anyhow::Result<String> {
        let node = self.nodes[pod.node].name;
        self.control
            .apply(&kubevirt::running(vm, node, pod.address))?;
        let object = self
            .control
            .get("vmi", "default", vm)?
            .context("the VM is there")?;
        let uid = object["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        self.write_pod(vm, &uid, pod)?;
        Ok(uid)
    }

    /// Writes the object of a virt-launcher pod that runs.
    ///
    /// # Errors
    /// With what the API server said.
    pub fn write_pod(&self, vm: &str, uid: &str, pod: &Pod) -> anyhow::Result<()> {
        let node = self.nodes[pod.node].name;
        self.control
            .apply(&kubevirt::launcher(&pod.name, vm, uid, node))?;
        let status = json!({"status": {
            "phase": "Running", "podIP": pod.address, "podIPs": [{"ip": pod.address}]
        }});
        self.patch_status("pod", &pod.name, &status)
    }

    /// Writes the object of a plain pod that runs.
    ///
    /// # Errors
    /// With what the API server said.
    pub fn run_pod(&self, pod: &Pod, is_host_network: bool) -> anyhow::Result<()> {
        let node = self.nodes[pod.node].name;
        let object = kubevirt::pod(&pod.name, node, is_host_network);
        self.control.apply(&object)?;
        let status = json!({"status": {
            "phase": "Running", "podIP": pod.address, "podIPs": [{"ip": pod.address}]
        }});
        self.patch_status("pod", &pod.name, &status)
    }

    /// Removes the object of a pod at once.
    ///
    /// # Errors
    /// With what the API server said.
    pub fn delete_pod(&self, pod: &Pod) -> anyhow::Result<()> {
        let arguments = ["delete", "pod", &pod.name, "--namespace=default", "--force"];
        self.control.kubectl(&arguments).map(drop)
    }

    /// Says of a pod that it has ended, as the kubelet does.
    ///
    /// # Errors
    /// With what the API server said.
    pub fn end_pod(&self, pod: &Pod) -> anyhow::Result<()> {
        let status = json!({"status": {"phase": "Succeeded"}});
        self.patch_status("pod", &pod.name, &status)
    }

    fn patch_status(&self, kind: &str, name: &str, change: &Value) -> anyhow::Result<()> {
        let change = change.to_string();
        let arguments = [
            "patch",
            kind,
            name,
            "--namespace=default",
            "--subresource=status",
            "--type=merge",
            "--patch",
            &change,
        ];
        self.control.kubectl(&arguments).map(drop)
    }

    /// Changes fields of a VM, as KubeVirt does.
    ///
    /// # Errors
    /// With what the API server said.
    pub fn patch_vm(&self, vm: &str, change: &Value) -> anyhow::Result<()> {
        let change = change.to_string();
        let arguments = [
            "patch",
            "vmi",
            vm,
            "--namespace=default",
            "--type=merge",
            "--patch",
            &change,
        ];
        self.control.kubectl(&arguments).map(drop)
    }

    /// A binding as it is stored, `NAME` or `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// With what the API server said.
    pub fn binding(&self, name: &str) -> anyhow::Result<Option<Value>> {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        self.control.get("eipb", namespace, name)
    }

    /// Waits until a node says that it serves a binding.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_served_by(&self, binding: &str, node: usize) -> anyhow::Result<()> {
        let node = self.nodes[node].name;
        let what = format!("{node} serves {binding}");
        let mut last = None;
        wait::wait_until(PATIENCE, &what, || {
            last = self.binding(binding).ok().flatten();
            let status = last.as_ref().map(|stored| &stored["status"]);
            status.is_some_and(|status| status["node"] == node && status["serving"]["node"] == node)
        })
        .with_context(|| format!("{last:#?}"))
    }

    /// The condition `Ready` of a binding: its status and its reason.
    ///
    /// # Errors
    /// With what the API server said.
    pub fn ready(&self, binding: &str) -> anyhow::Result<(String, String)> {
        let object = self.binding(binding)?;
        // What is said about an older version of the spec is not said about this one.
        let is_current = |object: &&Value| {
            object["status"]["observedGeneration"] == object["metadata"]["generation"]
        };
        let condition = object
            .as_ref()
            .filter(is_current)
            .and_then(|object| object["status"]["conditions"].as_array())
            .and_then(|all| all.iter().find(|one| one["type"] == "Ready"))
            .cloned()
            .unwrap_or_default();
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("reason")))
    }

    /// Waits for a reason of `Ready`.
    ///
    /// # Errors
    /// It does not come in time; says what came instead.
    pub fn wait_reason(&self, binding: &str, reason: &str) -> anyhow::Result<()> {
        let mut last = Default::default();
        wait::wait_until(PATIENCE, "a reason of Ready", || {
            last = self.ready(binding).unwrap_or_default();
            last.1 == reason
        })
        .with_context(|| format!("{binding}: {last:?} instead of {reason}"))
    }

    /// Points the router's route of an elastic IP at a node: what BGP does.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn route(&self, eip: Ipv4Addr, node: usize) -> anyhow::Result<()> {
        let via = self.nodes[node].uplink;
        self.router
            .ip(&format!("route replace {eip}/32 via {via}\n"))
    }
}

fn outside(client: &Ns, router: &Ns) -> anyhow::Result<()> {
    router.sysctl("ipv4/ip_forward=1")?;
    client.ip(&format!(
        "link add eth0 type veth peer name rc0 netns {}
        addr add {CLIENT}/24 dev eth0
        link set eth0 up
        route add default via 198.51.100.1
        ",
        router.name()
    ))?;
    router.ip("addr add 198.51.100.1/24 dev rc0
        link set rc0 up
        link add sw0 type bridge
        addr add 192.0.2.1/24 dev sw0
        link set sw0 up
        ")
}

fn attach_node(node: &Node, host: u8, router: &Ns, place: &Ns) -> anyhow::Result<()> {
    node.ns.sysctl(
        "ipv4/ip_forward=1
        ipv4/conf/all/rp_filter=1
        ipv4/conf/default/rp_filter=1",
    )?;
    node.ns.ip(&format!(
        "link add up0 type veth peer name {name} netns {router}
        link add mg0 type veth peer name {name} netns {place}
        addr add {uplink}/24 dev up0
        addr add 172.16.0.{host}/24 dev mg0
        link set up0 up
        link set mg0 up
        route add default via 192.0.2.1
        ",
        name = node.name,
        router = router.name(),
        place = place.name(),
        uplink = node.uplink,
    ))?;
    router.ip(&format!(
        "link set {0} master sw0\nlink set {0} up\n",
        node.name
    ))?;
    // Whole frames with complete checksums, as from a wire.
    router.sh(&format!("ethtool -K {} tx off", node.name))?;
    place.ip(&format!(
        "link set {0} master mg0\nlink set {0} up\n",
        node.name
    ))
}

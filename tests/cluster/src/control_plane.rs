//! etcd and kube-apiserver in a namespace, as a cluster runs them: RBAC on, service accounts signed.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use eip_lab::{command, netns::Ns, wait};
use serde_json::Value;

use crate::{assets, process::Process};

/// Where the API server listens.
pub const ADDRESS: &str = "172.16.0.1";
/// Time a control plane has to be ready.
const PATIENCE: Duration = Duration::from_secs(90);
/// Token of the administrator.
const ADMIN: &str = "the-administrator-of-a-test";

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    api: Option<Process>,
    _etcd: Process,
    ns: Ns,
    assets: PathBuf,
    dir: PathBuf,
}

impl ControlPlane {
    /// Starts it in a namespace that has [`ADDRESS`]; files go to `dir`.
    ///
    /// # Errors
    /// A program is missing, or nothing is ready in time.
    pub fn start(ns: &Ns, dir: &Path) -> anyhow::Result<Self> {
        let assets = assets()?;
        let ns = Ns::open(ns.name())?;
        fs::create_dir_all(dir)?;
        fs::write(
            dir.join("tokens.csv"),
            format!("{ADMIN},admin,admin,system:masters\n"),
        )?;
        command::output(
            Command::new("openssl")
                .args([
                    "ecparam",
                    "-name",
                    "prime256v1",
                    "-genkey",
                    "-noout",
                    "-out",
                ])
                .arg(dir.join("service-accounts.key")),
        )
        .context("make the key of service accounts")?;
        let etcd = Process::start(
            "etcd",
            ns.command(assets.join("etcd"))
                .arg("--data-dir")
                .arg(dir.join("etcd"))
                .args([
                    "--listen-client-urls=http://127.0.0.1:2379",
                    "--advertise-client-urls=http://127.0.0.1:2379",
                    "--listen-peer-urls=http://127.0.0.1:2380",
                    "--log-level=warn",
                ]),
            dir,
        )?;
        let mut plane = Self {
            api: None,
            _etcd: etcd,
            ns,
            assets,
            dir: dir.to_owned(),
        };
        plane.start_api()?;
        Ok(plane)
    }

    /// Starts the API server and waits until it is ready.
    ///
    /// # Errors
    /// It is not ready in time.
    pub fn start_api(&mut self) -> anyhow::Result<()> {
        let dir = &self.dir;
        let key = dir.join("service-accounts.key");
        let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let api = Process::start(
            "kube-apiserver",
            self.ns
                .command(self.assets.join("kube-apiserver"))
                .args([
                    "--etcd-servers=http://127.0.0.1:2379",
                    "--secure-port=6443",
                    "--authorization-mode=RBAC",
                    "--service-cluster-ip-range=10.96.0.0/16",
                    "--disable-admission-plugins=ServiceAccount",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    "--endpoint-reconciler-type=none",
                ])
                .arg(format!("--bind-address={ADDRESS}"))
                .arg(format!("--advertise-address={ADDRESS}"))
                .arg(flag("cert-dir", &dir.join("certificates")))
                .arg(flag("token-auth-file", &dir.join("tokens.csv")))
                .arg(flag("service-account-key-file", &key))
                .arg(flag("service-account-signing-key-file", &key)),
            dir,
        )?;
        self.api = Some(api);
        wait::wait_until(PATIENCE, "the API server is ready", || {
            self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
        })
    }

    /// Kills the API server; etcd keeps what was stored.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_api(&mut self) -> anyhow::Result<()> {
        let mut api = self.api.take().context("the API server does not run")?;
        api.kill()
    }

    /// Has etcd forget everything but the present, as the API server does every few minutes.
    ///
    /// # Errors
    /// With what was said.
    pub fn compact(&self) -> anyhow::Result<()> {
        let list = self.kubectl(&["get", "--raw", "/api/v1/namespaces"])?;
        let list: Value = serde_json::from_str(&list)?;
        let revision = list["metadata"]["resourceVersion"].clone();
        let body = serde_json::json!({ "revision": revision }).to_string();
        let request = format!(
            "POST /v3/kv/compaction HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.ns.run(|| -> std::io::Result<String> {
            let mut etcd = TcpStream::connect((Ipv4Addr::LOCALHOST, 2379))?;
            etcd.write_all(request.as_bytes())?;
            let mut answer = String::new();
            etcd.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        ensure!(answer.contains(" 200 "), "etcd: {answer}");
        Ok(())
    }

    fn kubectl_command(&self) -> Command {
        let mut command = self.ns.command(self.assets.join("kubectl"));
        command
            .env("KUBECONFIG", "/dev/null")
            .env("HOME", &self.dir)
            .arg(format!("--server=https://{ADDRESS}:6443"))
            .arg(format!(
                "--certificate-authority={}",
                self.authority().display()
            ))
            .arg(format!("--token={ADMIN}"));
        command
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// With what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        command::output(self.kubectl_command().args(arguments))
    }

    /// Runs kubectl with a kubeconfig of its own among the arguments.
    ///
    /// # Errors
    /// With what it said.
    pub fn kubectl_as(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.ns.command(self.assets.join("kubectl"));
        command::output(command.env("HOME", &self.dir).args(arguments))
    }

    /// `kubectl apply` of an object, or of a `List` of them.
    ///
    /// # Errors
    /// With what it said.
    pub fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let mut apply = self.kubectl_command();
        apply.args([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename=-",
        ]);
        command::feed(&mut apply, &object.to_string())?;
        Ok(())
    }

    /// The object, or nothing when there is none.
    ///
    /// # Errors
    /// With what kubectl said.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> anyhow::Result<Option<Value>> {
        let text = self.kubectl(&[
            "get",
            kind,
            name,
            "--namespace",
            namespace,
            "--ignore-not-found",
            "--output=json",
        ])?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// A kubeconfig with the token of a service account, bound to a pod when one is named.
    ///
    /// # Errors
    /// There is no such account or pod.
    pub fn kubeconfig(&self, account: &str, pod: Option<&str>) -> anyhow::Result<PathBuf> {
        let mut arguments = vec!["create", "token", account, "--namespace=kube-eip"];
        if let Some(pod) = pod {
            arguments.extend(["--bound-object-kind=Pod", "--bound-object-name", pod]);
        }
        let token = self.kubectl(&arguments)?;
        ensure!(!token.trim().is_empty(), "no token for {account}");
        self.write_kubeconfig(pod.unwrap_or(account), token.trim())
    }

    /// A kubeconfig of the administrator.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn administrator(&self) -> anyhow::Result<PathBuf> {
        self.write_kubeconfig("administrator", ADMIN)
    }

    fn write_kubeconfig(&self, name: &str, token: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(format!("{name}.kubeconfig"));
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{ADDRESS}:6443"),
                "certificate-authority": self.authority(),
            }}],
            "users": [{"name": "account", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "account"}}],
            "current-context": "test",
        });
        fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// `kubectl proxy` with the rights of a service account, on a port of the loopback.
    ///
    /// # Errors
    /// There is no such account, or it cannot be started.
    pub fn proxy(&self, account: &str, port: u16) -> anyhow::Result<Process> {
        let kubeconfig = self.kubeconfig(account, None)?;
        let mut command = self.ns.command(self.assets.join("kubectl"));
        command
            .env("HOME", &self.dir)
            .arg("proxy")
            .arg(format!("--port={port}"))
            .arg(format!("--kubeconfig={}", kubeconfig.display()));
        Process::start("kubectl-proxy", &mut command, &self.dir)
    }

    /// The namespace of the control plane.
    #[must_use]
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    fn authority(&self) -> PathBuf {
        self.dir.join("certificates/apiserver.crt")
    }
}

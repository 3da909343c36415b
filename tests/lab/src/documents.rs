//! Documents as a cluster would hold them, in the directory the agent reads.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::plan::{self, GuestPlan};

/// The directory the agent reads, and what is written into it.
#[derive(Debug, Clone)]
pub struct Documents {
    dir: PathBuf,
}

impl Documents {
    /// Takes hold of a directory.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where they are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file in one step, as every careful writer does: the agent never reads half of it.
    ///
    /// # Errors
    /// When the directory does not take it.
    pub fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.dir.join(file);
        let unfinished = self.dir.join(format!(".{file}.unfinished"));
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, file: &str) -> anyhow::Result<()> {
        let path = self.dir.join(file);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// The VM of a guest, running on this node.
    ///
    /// # Errors
    /// As [`Documents::write`].
    pub fn put_vm(&self, guest: &GuestPlan) -> anyhow::Result<()> {
        self.write(&vm_file(guest.name), &vm(guest, plan::NODE_NAME, "Running"))
    }

    /// A binding of an EIP to a VM; named like the file.
    ///
    /// # Errors
    /// As [`Documents::write`].
    pub fn put_binding(&self, name: &str, eip: impl Into<IpAddr>, vm: &str) -> anyhow::Result<()> {
        self.write(&binding_file(name), &binding(name, eip, vm, ""))
    }

    /// Removes what [`Documents::put_binding`] wrote.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_binding(&self, name: &str) -> anyhow::Result<()> {
        self.remove(&binding_file(name))
    }

    /// Removes what [`Documents::put_vm`] wrote.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_vm(&self, name: &str) -> anyhow::Result<()> {
        self.remove(&vm_file(name))
    }
}

fn vm_file(name: &str) -> String {
    format!("vmi-{name}.yaml")
}

fn binding_file(name: &str) -> String {
    format!("eipb-{name}.yaml")
}

/// A `BgpPeer` at the lab's router; `more` is added to its spec, indented by two.
#[must_use]
pub fn peer(name: &str, more: &str) -> String {
    let (address, asn) = (plan::ROUTER_UPLINK.v4, crate::bird::ROUTER_AS);
    format!(
        "apiVersion: virteip.github.com/v1\nkind: BgpPeer\nmetadata:\n  name: {name}\n\
         spec:\n  peerAddress: {address}\n  peerAs: {asn}\n  holdTimeSeconds: 9\n{more}"
    )
}

/// An `EipBinding`; `more` is added to its spec, indented by two.
#[must_use]
pub fn binding(name: &str, eip: impl Into<IpAddr>, vm: &str, more: &str) -> String {
    let eip = eip.into();
    format!(
        "apiVersion: virteip.github.com/v1\nkind: EipBinding\nmetadata:\n  name: {name}\n  \
         namespace: default\n  creationTimestamp: \"2025-03-01T10:00:00Z\"\n  generation: 1\n\
         spec:\n  eip: \"{eip}\"\n  vmi: {vm}\n{more}"
    )
}

/// A `VirtualMachineInstance` as KubeVirt reports one with masquerade binding.
#[must_use]
pub fn vm(guest: &GuestPlan, node: &str, phase: &str) -> String {
    let GuestPlan {
        name, address, mac, ..
    } = guest;
    let mac = plan::mac_text(*mac);
    format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata:\n  name: {name}\n  \
         namespace: default\n  uid: 7e6b1ad5-9d2f-4f0b-8f5c-0000000000{:02x}\n  \
         creationTimestamp: \"2025-03-01T09:00:00Z\"\n  generation: 7\n  labels:\n    \
         kubevirt.io/nodeName: {node}\n\
         spec:\n  domain:\n    devices:\n      interfaces:\n      - name: default\n        \
         masquerade: {{}}\n  networks:\n  - name: default\n    pod: {{}}\n\
         status:\n  phase: {phase}\n  nodeName: {node}\n  interfaces:\n  - name: default\n    \
         mac: {mac}\n    ipAddress: {}\n    ipAddresses:\n    - {}\n    - {}\n    \
         infoSource: domain, guest-agent\n    queueCount: 1\n",
        mac_last(guest.mac),
        address.v4,
        address.v4,
        address.v6
    )
}

fn mac_last(mac: [u8; 6]) -> u8 {
    let [.., last] = mac;
    last
}

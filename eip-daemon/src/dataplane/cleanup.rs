//! Takes everything of ours out of the kernel. Idempotent: a second run finds nothing.
//!
//! In the order in which traffic stops cleanly: programs first (links and filters), then the policy
//! rules and routes that led packets to them, then the maps. Works without the programs' object, on a
//! node whose interfaces are gone, and for what another version left. Nothing of others is touched.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::{
    DataPlaneError, adopt, attach,
    netlink::{RouteClient, filters, links, routes, rules},
    options::{link_directory, map_directory, pin_directory},
};

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// Programs taken off, as `interface hook`.
    pub programs: Vec<String>,
    /// Pins removed.
    pub pins: Vec<PathBuf>,
    /// Routes removed.
    pub routes: Vec<String>,
    /// Policy rules removed.
    pub rules: Vec<String>,
    /// What could not be removed, and why. Empty after a complete cleanup.
    pub failures: Vec<String>,
}

impl CleanupReport {
    /// There was nothing to remove and nothing went wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn fail(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.failures.push(attach::chain(error));
    }
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupOptions {
    /// The BPF file system.
    pub bpffs: PathBuf,
}

/// Removes programs, pins, maps, routes and rules of ours. The daemon must not be running: it would
/// put them back. Has to be called inside a tokio runtime.
///
/// # Errors
/// When the interfaces cannot be read at all; what fails singly is in the report.
pub async fn cleanup(options: CleanupOptions) -> Result<CleanupReport, DataPlaneError> {
    let client = RouteClient::new(NETLINK_ROUTE);
    let interfaces = links::list(&client).await?;
    let names = interfaces
        .into_iter()
        .map(|(ifindex, found)| (ifindex, found.link.name))
        .collect();
    let mut report = CleanupReport::default();
    remove_links(&link_directory(&options.bpffs), &names, &mut report);
    remove_filters(&client, &names, &mut report).await;
    match rules::remove_all(&client).await {
        Ok(removed) => report.rules = removed,
        Err(error) => report.fail(&error),
    }
    match routes::remove_all(&client).await {
        Ok(removed) => report.routes = removed,
        Err(error) => report.fail(&error),
    }
    remove_pins(&map_directory(&options.bpffs), &mut report);
    remove_directories(&options.bpffs, &mut report);
    Ok(report)
}

fn remove_links(directory: &Path, names: &BTreeMap<u32, String>, report: &mut CleanupReport) {
    for (ifindex, hook) in adopt::pins(directory) {
        let path = attach::link_path(directory, ifindex, hook);
        match attach::unpin(&path) {
            Ok(()) => {
                let name = names.get(&ifindex).map_or("(gone)", String::as_str);
                report.programs.push(format!("{name} {}", hook.name()));
                report.pins.push(path);
            }
            Err(error) => report.fail(&error),
        }
    }
    remove_pins(directory, report);
}

async fn remove_filters(
    client: &RouteClient,
    names: &BTreeMap<u32, String>,
    report: &mut CleanupReport,
) {
    let interfaces = match filters::interfaces(client).await {
        Ok(interfaces) => interfaces,
        Err(error) => return report.fail(&error),
    };
    for ifindex in interfaces {
        for (hook, place) in adopt::tc_hooks() {
            match attach::remove_filters(client, ifindex, hook, place).await {
                Ok(true) => {
                    let name = names.get(&ifindex).map_or("(gone)", String::as_str);
                    report.programs.push(format!("{name} {}", hook.name()));
                }
                Ok(false) => {}
                Err(error) => report.fail(&error),
            }
        }
    }
}

/// Whatever is pinned in a directory of ours is ours.
fn remove_pins(directory: &Path, report: &mut CleanupReport) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match fs::remove_file(&path) {
            Ok(()) => report.pins.push(path),
            Err(error) => report
                .failures
                .push(format!("remove pin {}: {error}", path.display())),
        }
    }
}

/// Only empty ones go: a pin that stayed keeps its directory.
fn remove_directories(bpffs: &Path, report: &mut CleanupReport) {
    for path in [
        map_directory(bpffs),
        link_directory(bpffs),
        pin_directory(bpffs),
    ] {
        match fs::remove_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                report
                    .failures
                    .push(format!("remove directory {}: {error}", path.display()));
            }
            _ => {}
        }
    }
}

//! GoBGP 3.

use std::process::Command;

use serde_json::Value;

use super::{Known, Router, RouterOptions, json, run};

impl Router<'_> {
    pub(super) fn start_gobgp(&mut self) -> anyhow::Result<()> {
        let config = self.write("gobgpd.toml", &configuration(&self.options))?;
        let api = format!("--api-hosts=unix://{}", self.path("gobgp.sock").display());
        let config = config.display().to_string();
        self.launch(
            "/usr/bin/gobgpd",
            &["-f", &config, &api, "-l", "debug", "-p"],
        )
    }

    pub(super) fn gobgp(&self, words: &[&str]) -> anyhow::Result<String> {
        let target = format!("unix:{}", self.path("gobgp.sock").display());
        run(Command::new("timeout")
            .args(["60", "gobgp", "--target", &target])
            .args(words))
    }

    pub(super) fn gobgp_known(&self) -> anyhow::Result<Known> {
        let neighbours = json(&self.gobgp(&["neighbor", "-j"])?)?;
        let mut known = Known::default();
        let families = neighbours
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|neighbour| neighbour["afi_safis"].as_array())
            .flatten();
        for family in families {
            let count = family["state"]["received"].as_u64().unwrap_or(0);
            let afi = family["state"]["family"]["afi"].as_u64();
            match afi {
                Some(2) => known.ipv6 += usize::try_from(count)?,
                _ => known.ipv4 += usize::try_from(count)?,
            }
        }
        Ok(known)
    }

    pub(super) fn gobgp_stale(&self) -> anyhow::Result<usize> {
        let mut stale = 0;
        for family in ["ipv4", "ipv6"] {
            let rib = json(&self.gobgp(&["global", "rib", "-a", family, "-j"])?)?;
            let paths = |routes: &Value| -> usize {
                let paths = routes.as_array().into_iter().flatten();
                paths.filter(|path| path["stale"] == true).count()
            };
            stale += rib
                .as_object()
                .into_iter()
                .flatten()
                .map(|(_, routes)| paths(routes))
                .sum::<usize>();
        }
        Ok(stale)
    }
}

fn configuration(options: &RouterOptions) -> String {
    let peers = if let Some(range) = options.range {
        format!(
            "[[peer-groups]]
[peer-groups.config]
peer-group-name = \"tor\"
peer-as = {}
{}[[dynamic-neighbors]]
[dynamic-neighbors.config]
prefix = \"{range}\"
peer-group = \"tor\"
",
            options.peer_as,
            settings("peer-groups", options)
        )
    } else {
        let second = options.second.then_some("10.99.1.2");
        let peers = std::iter::once(options.peer).chain(second);
        let peer = |peer| {
            format!(
                "[[neighbors]]
[neighbors.config]
neighbor-address = \"{peer}\"
peer-as = {}
{}",
                options.peer_as,
                settings("neighbors", options)
            )
        };
        peers.map(peer).collect::<Vec<_>>().concat()
    };
    format!(
        "[global.config]
as = {}
router-id = \"10.99.0.1\"
[global.use-multiple-paths.config]
enabled = true
{peers}",
        options.local_as
    )
}

/// What a neighbour and a group of them have in common; follows the table with its name and AS.
fn settings(table: &str, options: &RouterOptions) -> String {
    let RouterOptions {
        hold,
        passive,
        graceful_restart,
        ..
    } = options;
    let keepalive = (hold / 3).max(1);
    let password = options
        .password
        .map_or_else(String::new, |key| format!("auth-password = \"{key}\""));
    let security = if options.ttl_security {
        format!("[{table}.ttl-security.config]\nenabled = true\nttl-min = 255\n")
    } else {
        String::new()
    };
    let multihop = options.multihop.map_or_else(String::new, |hops| {
        format!("[{table}.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = {hops}\n")
    });
    let limit = options.limit.map_or_else(String::new, |limit| {
        format!("[{table}.afi-safis.prefix-limit.config]\nmax-prefixes = {limit}\n")
    });
    let family = |name: &str| {
        format!(
            "[[{table}.afi-safis]]
[{table}.afi-safis.config]
afi-safi-name = \"{name}\"
[{table}.afi-safis.mp-graceful-restart.config]
enabled = {graceful_restart}
{limit}"
        )
    };
    format!(
        "{password}
[{table}.transport.config]
passive-mode = {passive}
[{table}.timers.config]
hold-time = {hold}
keepalive-interval = {keepalive}
connect-retry = 5
idle-hold-time-after-reset = 2
{security}{multihop}[{table}.graceful-restart.config]
enabled = {graceful_restart}
restart-time = 30
notification-enabled = true
helper-only = true
{}{}",
        family("ipv4-unicast"),
        family("ipv6-unicast")
    )
}

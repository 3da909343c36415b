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
            .args(["10", "gobgp", "--target", &target])
            .args(words))
    }

    pub(super) fn gobgp_known(&self) -> anyhow::Result<Known> {
        let neighbours = json(&self.gobgp(&["neighbor", "-j"])?)?;
        let mut known = Known::default();
        let families = neighbours[0]["afi_safis"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for family in families {
            let count = family["state"]["received"].as_u64().unwrap_or(0);
            let afi = family["state"]["family"]["afi"].as_u64();
            match afi {
                Some(2) => known.ipv6 = usize::try_from(count)?,
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
    let RouterOptions {
        local_as,
        peer_as,
        peer,
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
        "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n"
    } else {
        ""
    };
    let family = |name: &str| {
        format!(
            "[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = \"{name}\"
[neighbors.afi-safis.mp-graceful-restart.config]
enabled = {graceful_restart}
"
        )
    };
    format!(
        "[global.config]
as = {local_as}
router-id = \"10.99.0.1\"
[[neighbors]]
[neighbors.config]
neighbor-address = \"{peer}\"
peer-as = {peer_as}
{password}
[neighbors.transport.config]
passive-mode = {passive}
[neighbors.timers.config]
hold-time = {hold}
keepalive-interval = {keepalive}
connect-retry = 5
idle-hold-time-after-reset = 2
{security}[neighbors.graceful-restart.config]
enabled = {graceful_restart}
restart-time = 30
notification-enabled = true
helper-only = true
{}{}",
        family("ipv4-unicast"),
        family("ipv6-unicast")
    )
}

//! BIRD 2.

use std::process::Command;

use anyhow::Context as _;

use super::{Known, Router, RouterOptions, run};

impl Router<'_> {
    pub(super) fn start_bird(&mut self) -> anyhow::Result<()> {
        let config = configuration(&self.options, &self.path("bird.log").display().to_string());
        let config = self.write("bird.conf", &config)?;
        let control = self.path("bird.ctl");
        let arguments = [
            "-f",
            "-c",
            &config.display().to_string(),
            "-s",
            &control.display().to_string(),
        ];
        self.launch("/usr/sbin/bird", &arguments)
    }

    pub(super) fn birdc(&self, words: &[&str]) -> anyhow::Result<String> {
        run(Command::new("birdc")
            .arg("-s")
            .arg(self.path("bird.ctl"))
            .args(words))
    }

    pub(super) fn bird_known(&self) -> anyhow::Result<Known> {
        let count = |table: &str| -> anyhow::Result<usize> {
            let words = [
                "show", "route", "table", table, "where", "source", "=", "RTS_BGP", "count",
            ];
            let answer = self.birdc(&words)?;
            let line = answer
                .lines()
                .find(|line| line.contains(" of "))
                .context("a count")?;
            Ok(line
                .split_whitespace()
                .next()
                .context("a number")?
                .parse()?)
        };
        Ok(Known {
            ipv4: count("master4")?,
            ipv6: count("master6")?,
        })
    }

    /// The lines of sessions, without the heading.
    pub(super) fn bird_bfd(&self) -> anyhow::Result<String> {
        let answer = self.birdc(&["show", "bfd", "sessions"])?;
        let lines = answer.lines().filter(|line| line.contains("v0"));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    pub(super) fn bird_watch(&self, neighbour: &str) -> anyhow::Result<()> {
        let config = std::fs::read_to_string(self.path("bird.conf"))?;
        let watcher = watcher(100);
        let (open, _closing) = watcher.rsplit_once('}').context("the end of it")?;
        let also = format!("{config}{open} neighbor {neighbour} dev \"v0\"; }}\n");
        self.write("bird.conf", &also)?;
        self.birdc(&["configure"]).map(|_| ())
    }

    pub(super) fn bird_stale(&self) -> anyhow::Result<usize> {
        let state = self.birdc(&["show", "protocols", "all"])?;
        let known = self.bird_known()?;
        let is_stale = state.contains("Neighbor graceful restart active");
        Ok(if is_stale { known.ipv4 + known.ipv6 } else { 0 })
    }
}

fn watcher(interval: u32) -> String {
    format!("protocol bfd {{ interface \"v*\" {{ interval {interval} ms; multiplier 3; }}; }}\n")
}

fn configuration(options: &RouterOptions, log: &str) -> String {
    let line = |is_on: bool, text: &str| if is_on { text } else { "" }.to_owned();
    let RouterOptions {
        local_as,
        peer_as,
        peer,
        local,
        hold,
        ..
    } = options;
    let password = options
        .password
        .map_or_else(String::new, |key| format!("password \"{key}\";"));
    let security = line(options.ttl_security, "ttl security on;");
    let passive = line(options.passive, "passive on;");
    let multihop = options
        .multihop
        .map_or_else(String::new, |hops| format!("multihop {hops};"));
    let restart = if options.graceful_restart {
        "graceful restart aware;"
    } else {
        "graceful restart off;"
    };
    let limit = options.limit.map_or_else(String::new, |limit| {
        format!("import limit {limit} action restart;")
    });
    let bfd = line(options.bfd.is_some(), "bfd on;");
    let watcher = options.bfd.map_or_else(String::new, watcher);
    let (neighbour, extended) = if options.unnumbered {
        (
            format!("interface \"v0\"; neighbor range fe80::/10 as {peer_as};"),
            "extended next hop on;",
        )
    } else if let Some(range) = options.range {
        (format!("neighbor range {range} as {peer_as};"), "")
    } else {
        (
            format!("local {local} as {local_as}; neighbor {peer} as {peer_as};"),
            "",
        )
    };
    let advertise = line(
        options.unnumbered,
        "protocol radv { interface \"v0\" { min ra interval 3; max ra interval 5; }; }\n",
    );
    let second = line(
        options.second,
        &format!(
            "protocol bgp second from tor {{ neighbor 10.99.1.2 as {peer_as}; }}
protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; merge paths on limit 16; }}\n"
        ),
    );
    format!(
        "log \"{log}\" all;
debug protocols {{ states }};
router id 10.99.0.1;
protocol device {{}}
protocol direct {{ ipv4; ipv6; }}
{watcher}{advertise}filter hosts4 {{ if net.len = 32 then accept; reject; }}
filter hosts6 {{ if net.len = 128 then accept; reject; }}
template bgp tor {{
  local as {local_as};
  hold time {hold};
  connect retry time 2; connect delay time 1; error wait time 1, 4;
  {password} {security} {passive} {restart} {multihop} {bfd}
  ipv4 {{ import filter hosts4; export none; {limit} {extended} }};
  ipv6 {{ import filter hosts6; export none; {limit} }};
}}
protocol bgp speaker from tor {{ {neighbour} }}
{second}"
    )
}

//! FRR: zebra and bgpd by hand, without its init scripts.

use std::{path::Path, process::Command, time::Duration};

use eip_lab::wait::wait_until;

use super::{Known, Router, RouterOptions, json, run};

impl Router<'_> {
    pub(super) fn start_frr(&mut self) -> anyhow::Result<()> {
        let dir = self.bench.dir().display().to_string();
        let log = self.path("bgpd.log").display().to_string();
        let bgpd = self.write("bgpd.conf", &configuration(&self.options, &log))?;
        let zebra = if self.options.unnumbered {
            "hostname tor\ninterface v0\n ipv6 nd ra-interval 3\n no ipv6 nd suppress-ra\n"
        } else {
            "hostname tor\n"
        };
        let zebra = self.write("zebra.conf", zebra)?;
        let bfdd = self.write("bfdd.conf", "hostname tor\n")?;
        let control = format!("{dir}/bfdd.sock");
        let api = format!("{dir}/zserv.api");
        for (daemon, config) in [("zebra", zebra), ("bfdd", bfdd), ("bgpd", bgpd)] {
            if daemon == "bfdd" && self.options.bfd.is_none() {
                continue;
            }
            let config = config.display().to_string();
            let pid = format!("{dir}/{daemon}.pid");
            let mut arguments = vec![
                "-u",
                "frr",
                "-g",
                "frr",
                "--vty_socket",
                &dir,
                "-z",
                &api,
                "-A",
                "127.0.0.1",
                "-P",
                "0",
                "-f",
                &config,
                "-i",
                &pid,
            ];
            if daemon == "bfdd" {
                arguments.extend(["--bfdctl", &control]);
            }
            if daemon == "bgpd" && self.options.bfd.is_some() {
                // What bgpd wants of bfdd goes through zebra and is lost while bfdd is not there.
                wait_until(Duration::from_mins(1), "bfdd has met zebra", || {
                    let clients = self.vtysh("show zebra client summary");
                    clients.is_ok_and(|clients| clients.contains("bfd"))
                })?;
            }
            self.launch(&format!("/usr/lib/frr/{daemon}"), &arguments)?;
            if daemon == "zebra" {
                // The others would look for it again only after ten seconds.
                wait_until(Duration::from_mins(1), "zebra is there", || {
                    Path::new(&api).exists()
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn vtysh(&self, line: &str) -> anyhow::Result<String> {
        run(Command::new("vtysh")
            .arg("--vty_socket")
            .arg(self.bench.dir())
            .args(["-c", line]))
    }

    pub(super) fn frr_known(&self) -> anyhow::Result<Known> {
        let count = |family: &str| -> anyhow::Result<usize> {
            let summary = json(&self.vtysh(&format!("show bgp {family} unicast summary json"))?)?;
            let peers = summary["peers"].as_object();
            let counts = peers.into_iter().flatten();
            let counts = counts.filter_map(|(_, peer)| peer["pfxRcd"].as_u64());
            Ok(usize::try_from(counts.sum::<u64>())?)
        };
        Ok(Known {
            ipv4: count("ipv4")?,
            ipv6: count("ipv6")?,
        })
    }

    pub(super) fn frr_stale(&self) -> anyhow::Result<usize> {
        let mut stale = 0;
        for family in ["ipv4", "ipv6"] {
            let routes = self.vtysh(&format!("show bgp {family} unicast json"))?;
            stale += routes.matches("\"stale\":true").count();
        }
        Ok(stale)
    }
}

fn configuration(options: &RouterOptions, log: &str) -> String {
    let RouterOptions {
        local_as,
        peer_as,
        peer,
        hold,
        ..
    } = options;
    let keepalive = (hold / 3).max(1);
    let mut settings = vec![
        format!("remote-as {peer_as}"),
        format!("timers {keepalive} {hold}"),
        "timers connect 2".to_owned(),
    ];
    let mut set = |is_on: bool, text: String| {
        if is_on {
            settings.push(text);
        }
    };
    set(
        options.password.is_some(),
        format!("password {}", options.password.unwrap_or_default()),
    );
    set(options.ttl_security, "ttl-security hops 1".to_owned());
    set(
        options.passive && options.range.is_none(),
        "passive".to_owned(),
    );
    set(
        options.multihop.is_some(),
        format!("ebgp-multihop {}", options.multihop.unwrap_or_default()),
    );
    let interval = options.bfd.unwrap_or_default();
    set(
        options.bfd.is_some(),
        format!("bfd 3 {interval} {interval}"),
    );
    let settings = settings.join("\n neighbor TOR ");
    let mut members = if options.unnumbered {
        " neighbor v0 interface peer-group TOR\n".to_owned()
    } else if let Some(range) = options.range {
        format!(" bgp listen range {range} peer-group TOR\n")
    } else {
        format!(" neighbor {peer} peer-group TOR\n")
    };
    if options.second {
        members.push_str(" neighbor 10.99.1.2 peer-group TOR\n");
    }
    let restart = if options.graceful_restart {
        " bgp graceful-restart stalepath-time 360\n"
    } else {
        " bgp graceful-restart-disable\n"
    };
    let limit = options.limit.map_or_else(String::new, |limit| {
        format!("  neighbor TOR maximum-prefix {limit} restart 1\n")
    });
    let family = |name: &str| {
        format!(
            " address-family {name} unicast
  neighbor TOR activate
{limit}  maximum-paths 16
 exit-address-family
"
        )
    };
    format!(
        "hostname tor
log file {log} debugging
debug bgp neighbor-events
router bgp {local_as}
 bgp router-id 10.99.0.1
 no bgp default ipv4-unicast
 no bgp ebgp-requires-policy
{restart} neighbor TOR peer-group
 neighbor TOR {settings}
{members}{}{}!
",
        family("ipv4"),
        family("ipv6")
    )
}

//! FRR: zebra and bgpd by hand, without its init scripts.

use std::process::Command;

use super::{Known, Router, RouterOptions, json, run};

impl Router<'_> {
    pub(super) fn start_frr(&mut self) -> anyhow::Result<()> {
        let log = self.path("bgpd.log").display().to_string();
        let bgpd = self.write("bgpd.conf", &configuration(&self.options, &log))?;
        let zebra = self.write("zebra.conf", "hostname tor\n")?;
        let dir = self.bench.dir().display().to_string();
        let api = format!("{dir}/zserv.api");
        for (daemon, config) in [("zebra", zebra), ("bgpd", bgpd)] {
            let config = config.display().to_string();
            let pid = format!("{dir}/{daemon}.pid");
            let arguments = [
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
            self.launch(&format!("/usr/lib/frr/{daemon}"), &arguments)?;
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
            let count = summary["peers"][self.options.peer]["pfxRcd"]
                .as_u64()
                .unwrap_or(0);
            Ok(usize::try_from(count)?)
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
    let line = |is_on: bool, text: String| if is_on { text } else { String::new() };
    let password = options.password.unwrap_or_default();
    let password = line(
        !password.is_empty(),
        format!(" neighbor {peer} password {password}\n"),
    );
    let security = line(
        options.ttl_security,
        format!(" neighbor {peer} ttl-security hops 1\n"),
    );
    let passive = line(options.passive, format!(" neighbor {peer} passive\n"));
    let restart = if options.graceful_restart {
        " bgp graceful-restart stalepath-time 360\n"
    } else {
        " bgp graceful-restart-disable\n"
    };
    let keepalive = (hold / 3).max(1);
    format!(
        "hostname tor
log file {log} debugging
debug bgp neighbor-events
router bgp {local_as}
 bgp router-id 10.99.0.1
 no bgp default ipv4-unicast
 no bgp ebgp-requires-policy
{restart} neighbor {peer} remote-as {peer_as}
 neighbor {peer} timers {keepalive} {hold}
 neighbor {peer} timers connect 2
{password}{security}{passive} address-family ipv4 unicast
  neighbor {peer} activate
 exit-address-family
 address-family ipv6 unicast
  neighbor {peer} activate
 exit-address-family
!
"
    )
}

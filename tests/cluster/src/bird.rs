//! BIRD as the nodes' router: what it learns over BGP becomes its kernel's routes.

use std::{iter, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::Context as _;
use eip_lab::{bird, netns::Ns, wait};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// The router's AS.
pub const ROUTER_AS: u32 = 64500;
/// The nodes' AS.
pub const NODE_AS: u32 = 64512;

/// A running BIRD; stopped when dropped.
#[derive(Debug)]
pub struct Bird(bird::Bird);

impl Bird {
    /// Starts it with a session for each node's address.
    ///
    /// # Errors
    /// It is not installed, or does not answer.
    pub fn start(router: &Ns, dir: &Path, nodes: &[Ipv4Addr]) -> anyhow::Result<Self> {
        bird::Bird::launch(router, &dir.join("bird"), &configuration(nodes)).map(Self)
    }

    /// What it knows of an elastic IP, the way it takes first.
    #[must_use]
    pub fn ways(&self, eip: Ipv4Addr) -> String {
        self.0.describe(&format!("{eip}/32")).unwrap_or_default()
    }

    /// Waits until it knows exactly these ways to an elastic IP.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_ways(&self, eip: Ipv4Addr, nodes: &[Ipv4Addr]) -> anyhow::Result<()> {
        let via = |text: &str, node: &Ipv4Addr| text.contains(&format!("via {node} on"));
        let what = format!("the router reaches {eip} by {nodes:?}");
        wait::wait_until(PATIENCE, &what, || {
            let text = self.ways(eip);
            nodes.iter().all(|node| via(&text, node)) && text.matches("via ").count() == nodes.len()
        })
        .with_context(|| self.ways(eip))
    }
}

fn configuration(nodes: &[Ipv4Addr]) -> String {
    let head = "log stderr all;
router id 192.0.2.1;
protocol device {}
protocol direct { ipv4; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
";
    let sessions = nodes.iter().enumerate().map(session);
    iter::once(head.to_owned()).chain(sessions).collect()
}

fn session((index, node): (usize, &Ipv4Addr)) -> String {
    format!(
        "protocol bgp n{index} {{
  local 192.0.2.1 as {ROUTER_AS};
  neighbor {node} as {NODE_AS};
  passive on;
  hold time 9;
  ipv4 {{ import where net.len = 32; export none; }};
}}
"
    )
}

//! `eip-daemon check`: can this kernel and this node carry elastic IPs, and what is missing?
//!
//! Looks only: nothing is mounted, set or attached. [`judge`] is pure; [`run`] collects what it
//! judges. What is *missing* makes the agent useless and the exit code 1; *advice* is about what
//! works, but not as well or not for everybody.

pub mod forward;
mod judge;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use serde::Serialize;

use crate::{
    cli::CheckOutput,
    config::{Discovered, NodeConfig},
    dataplane::{
        self,
        features::{self, Features},
    },
    model::NetworkView,
};

use forward::DroppingChain;
pub use judge::judge;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, but not as well or not for everybody.
    Advice,
    /// Elastic IPs do not work without it.
    Missing,
}

impl Verdict {
    const fn label(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Advice => "advice",
            Self::Missing => "MISSING",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What.
    pub subject: String,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; a command where one does it.
    pub cure: Option<String>,
}

impl Finding {
    fn good(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            verdict: Verdict::Good,
            found: found.into(),
            cure: None,
        }
    }

    fn advice(subject: &str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        let good = Self::good(subject, found);
        Self {
            verdict: Verdict::Advice,
            cure: Some(cure.into()),
            ..good
        }
    }

    fn missing(subject: &str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        let good = Self::good(subject, found);
        Self {
            verdict: Verdict::Missing,
            cure: Some(cure.into()),
            ..good
        }
    }
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkup {
    /// In the order in which things depend on each other.
    pub findings: Vec<Finding>,
}

impl Checkup {
    /// Nothing that is required is missing.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.verdict != Verdict::Missing)
    }

    /// For standard output.
    #[must_use]
    pub fn render(&self, form: CheckOutput) -> String {
        match form {
            CheckOutput::Text => self.text(),
            CheckOutput::Json => {
                let text = serde_json::to_string_pretty(self).unwrap_or_default();
                format!("{text}\n")
            }
        }
    }

    fn text(&self) -> String {
        let width = self
            .findings
            .iter()
            .map(|finding| finding.subject.len())
            .max();
        let width = width.unwrap_or_default();
        let mut text = String::new();
        for Finding {
            subject,
            verdict,
            found,
            cure,
        } in &self.findings
        {
            let label = verdict.label();
            let _infallible = writeln!(text, "{label:7}  {subject:width$}  {found}");
            if let Some(cure) = cure {
                let _infallible = writeln!(text, "{:7}  {:width$}  -> {cure}", "", "");
            }
        }
        let last = if self.is_good() {
            "this node can carry elastic IPs"
        } else {
            "this node cannot carry elastic IPs yet: see what is MISSING"
        };
        let _infallible = writeln!(text, "\n{last}");
        text
    }
}

/// What is judged.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What the kernel and the drivers can do.
    pub features: Features,
    /// Whether the verifier takes the programs; the error as text.
    pub programs: Result<(), String>,
    /// The node, with the routes to the gateways.
    pub view: NetworkView,
    /// Chains of netfilter that drop what they forward; `None` when nobody could be asked.
    pub forward: Option<Vec<DroppingChain>>,
    /// Programs of others on interfaces that may be ports of VMs, by interface: they see what a VM sends
    /// before ours do.
    pub before_the_door: BTreeMap<String, Vec<String>>,
}

/// Looks at this node and judges it.
pub async fn run(node: &NodeConfig, found: &Discovered) -> Checkup {
    let gateways: BTreeSet<IpAddr> = judge::gateways(node).collect();
    let programs = tokio::task::spawn_blocking(dataplane::try_programs).await;
    let programs = match programs {
        Ok(tried) => tried.map_err(|error| format!("{:#}", anyhow::Error::from(error))),
        Err(panicked) => Err(panicked.to_string()),
    };
    let evidence = Evidence {
        features: features::probe(&node.bpffs, &node.settings.uplinks).await,
        programs,
        // Without an answer about the gateways the first look still tells about the interfaces.
        view: dataplane::discover(&gateways)
            .await
            .unwrap_or_else(|_| found.view.clone()),
        forward: tokio::task::spawn_blocking(forward::read)
            .await
            .unwrap_or_default(),
        before_the_door: dataplane::examine::foreign_at_ports().await,
    };
    judge(node, &evidence)
}

#[cfg(test)]
mod tests;

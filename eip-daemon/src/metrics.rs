//! Every metric of the agent, read when somebody scrapes: nothing is counted twice, and a binding
//! that is gone takes its series along.
//!
//! Label values come from `name()` methods or from what the node holds (bindings, maps), so their
//! number is bounded by the maps' capacities.

use std::{collections::BTreeMap, fmt, sync::Arc};

use eip_common::{abi::BY_PORT, reason::Direction};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::{
    announce::bgp::{Counters, FamilySnapshot, SessionSnapshot, State},
    ctl::{phases, state::AgentState},
    dataplane::{DataPlaneError, SlotReasonCount},
    report::{DURATION_BOUNDS, Durations, Report},
};

/// The media type of [`scrape`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as text. Reads the kernel: call it where blocking is allowed.
///
/// # Errors
/// Never, as long as text can be written to memory.
pub fn scrape(state: Arc<AgentState>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(AgentCollector { state }));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

#[derive(Debug)]
struct AgentCollector {
    state: Arc<AgentState>,
}

impl Collector for AgentCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page {
            encoder,
            unreadable: 0,
        };
        let report = self.state.report();
        self.agent(&mut page, &report)?;
        self.packets(&mut page)?;
        self.bindings(&mut page, &report)?;
        self.exceptions(&mut page, &report)?;
        self.maps(&mut page)?;
        self.bgp(&mut page)?;
        let unreadable = page.unreadable;
        page.gauge(
            "eip_scrape_errors",
            "What could not be read from the kernel for this page",
            unreadable,
        )
    }
}

impl AgentCollector {
    fn agent(&self, page: &mut Page<'_>, report: &Report) -> fmt::Result {
        let mut info = page.family("eip_build_info", "Version of the agent", MetricType::Gauge)?;
        let node = self.state.settings.node_name.as_str();
        set(
            &mut info,
            &[("version", env!("CARGO_PKG_VERSION")), ("node", node)],
            1,
        )?;
        let is_in_sync = u64::from(report.in_sync);
        page.gauge("eip_in_sync", "1 when the kernel is as desired", is_in_sync)?;
        page.gauge(
            "eip_failing_changes",
            "Changes that do not work",
            count(report.failing.len()),
        )?;
        let refused = count(report.refused.len());
        page.gauge(
            "eip_refused_documents",
            "Documents nobody could read",
            refused,
        )?;
        page.counter(
            "eip_reconcile_rounds",
            "Comparisons with the kernel",
            report.rounds,
        )?;
        let help = "Elastic IPs that somebody else on an uplink's segment claims";
        let contested = count(self.state.l2.conflicts().len());
        page.gauge("eip_l2_conflicts", help, contested)?;
        let help = "Changes made because somebody else had changed the kernel";
        page.counter("eip_reconcile_repairs", help, report.repairs)?;
        let help = "Duration of the last comparison with the kernel";
        let name = "eip_reconcile_last_duration_seconds";
        page.family(name, help, MetricType::Gauge)?
            .encode_gauge(&report.last_round.as_secs_f64())?;
        let help = "Durations of the comparisons with the kernel";
        let Durations { counts, sum } = report.durations;
        let bounds = DURATION_BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(counts).collect();
        page.family(
            "eip_reconcile_duration_seconds",
            help,
            MetricType::Histogram,
        )?
        .encode_histogram::<NoLabelSet>(
            sum.as_secs_f64(),
            counts.iter().sum(),
            &buckets,
            None,
        )
    }

    fn packets(&self, page: &mut Page<'_>) -> fmt::Result {
        let counts = page
            .readable(self.state.counters.reasons())
            .unwrap_or_default();
        let help = "Packets by where and how they ended";
        let mut family = page.family("eip_dataplane_packets", help, MetricType::Counter)?;
        for count in counts {
            let labels = [
                ("direction", count.hook.direction().name()),
                ("hook", count.hook.name()),
                ("reason", count.reason.name()),
                ("class", count.reason.class().name()),
            ];
            add(&mut family, &labels, count.packets)?;
        }
        Ok(())
    }

    fn bindings(&self, page: &mut Page<'_>, report: &Report) -> fmt::Result {
        let mut states = page.family("eip_bindings", "Binding objects", MetricType::Gauge)?;
        for (phase, number) in phases(report) {
            set(&mut states, &[("state", phase.name())], count(number))?;
        }
        let traffic = self.traffic(page, report);
        let help = "Packets of an elastic IP";
        let mut packets = page.family("eip_binding_packets", help, MetricType::Counter)?;
        for (eip, traffic) in &traffic {
            add_both_ways(&mut packets, eip, traffic.in_packets, traffic.out_packets)?;
        }
        let help = "Bytes of an elastic IP, from the IP header on";
        let mut bytes = page.family("eip_binding_bytes", help, MetricType::Counter)?;
        for (eip, traffic) in &traffic {
            add_both_ways(&mut bytes, eip, traffic.in_bytes, traffic.out_bytes)?;
        }
        Ok(())
    }

    /// What happened to packets of an elastic IP that were not simply carried, and what its VM sent as
    /// somebody else.
    fn exceptions(&self, page: &mut Page<'_>, report: &Report) -> fmt::Result {
        let read = self.state.counters.all_binding_reasons();
        let counts = page.readable(read).unwrap_or_default();
        let bound = report.bindings.iter();
        let slots = bound.filter_map(|item| Some((item.slot?, item.fact.eip.to_string())));
        let help = "Packets of an elastic IP that were not simply carried";
        add_reasons(
            page,
            "eip_binding_exceptions",
            help,
            &slots.collect(),
            &counts,
        )?;
        let primary = report.bindings.iter().filter_map(|item| {
            let state = item.programmed.as_ref().filter(|state| state.is_primary)?;
            Some((BY_PORT | state.port, item.fact.eip.to_string()))
        });
        let help = "Dropped packets that the VM of an elastic IP sent as somebody else";
        add_reasons(
            page,
            "eip_binding_impostures",
            help,
            &primary.collect(),
            &counts,
        )
    }

    fn traffic(
        &self,
        page: &mut Page<'_>,
        report: &Report,
    ) -> Vec<(String, eip_common::abi::Traffic)> {
        let slots = report
            .bindings
            .iter()
            .filter_map(|item| Some((item.fact.eip, item.slot?)));
        slots
            .filter_map(|(eip, slot)| {
                let traffic = page.readable(self.state.counters.traffic(slot))?;
                Some((eip.to_string(), traffic))
            })
            .collect()
    }

    /// A peer that is gone takes its series along. Their number is that of peers.
    fn bgp(&self, page: &mut Page<'_>) -> fmt::Result {
        let report = self.state.bgp.report();
        let drained = u64::from(report.drain.is_some());
        page.gauge("eip_bgp_drained", "1 while the node is drained", drained)?;
        let help = "BGP peers that are refused";
        page.gauge("eip_bgp_peers_refused", help, count(report.refused.len()))?;
        let peers: Vec<_> = report
            .peers
            .iter()
            .map(|peer| (peer.status.name.0.as_str(), &peer.status.session))
            .collect();
        let help = "1 while the session is established";
        let mut up = page.family("eip_bgp_session_up", help, MetricType::Gauge)?;
        for (peer, session) in &peers {
            let is_up = session.state == State::Established;
            set(&mut up, &[("peer", *peer)], u64::from(is_up))?;
        }
        let help = "Times the session was lost";
        let mut lost = page.family("eip_bgp_session_lost", help, MetricType::Counter)?;
        for (peer, session) in &peers {
            add(&mut lost, &[("peer", *peer)], session.counters.lost)?;
        }
        let help = "UPDATE messages by direction";
        let mut updates = page.family("eip_bgp_updates", help, MetricType::Counter)?;
        for (peer, session) in &peers {
            let Counters {
                updates_sent,
                updates_received,
                ..
            } = session.counters;
            for (direction, value) in [("sent", updates_sent), ("received", updates_received)] {
                let labels = [("peer", *peer), ("direction", direction)];
                add(&mut updates, &labels, value)?;
            }
        }
        let help = "Routes the peer has";
        bgp_routes(page, "eip_bgp_routes_advertised", help, &peers, |routes| {
            routes.0
        })?;
        let help = "Routes the peer has still to be told about";
        bgp_routes(page, "eip_bgp_routes_pending", help, &peers, |routes| {
            routes.1
        })
    }

    fn maps(&self, page: &mut Page<'_>) -> fmt::Result {
        let maps = page
            .readable(self.state.inspector.map_fill())
            .unwrap_or_default();
        let mut used = page.family("eip_map_entries", "Entries in use", MetricType::Gauge)?;
        for fill in &maps {
            set(&mut used, &[("map", fill.map)], fill.entries.into())?;
        }
        let mut room = page.family("eip_map_capacity", "Room for entries", MetricType::Gauge)?;
        for fill in &maps {
            set(&mut room, &[("map", fill.map)], fill.capacity.into())?;
        }
        Ok(())
    }
}

/// The page being written, and what could not be read for it.
struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
    unreadable: u64,
}

impl Page<'_> {
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.encoder.encode_descriptor(name, help, None, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// What was read; what was not is counted and left out.
    fn readable<T>(&mut self, read: Result<T, DataPlaneError>) -> Option<T> {
        read.inspect_err(|error| {
            self.unreadable += 1;
            tracing::debug!(error = %error, "counters cannot be read");
        })
        .ok()
    }
}

/// Routes by peer and family, where the family is spoken.
fn bgp_routes(
    page: &mut Page<'_>,
    name: &str,
    help: &str,
    peers: &[(&str, &SessionSnapshot)],
    pick: fn((usize, usize)) -> usize,
) -> fmt::Result {
    let mut family = page.family(name, help, MetricType::Gauge)?;
    for (peer, session) in peers {
        for (label, routes) in [("ipv4", session.ipv4), ("ipv6", session.ipv6)] {
            let Some(FamilySnapshot::Announced {
                advertised,
                pending,
            }) = routes
            else {
                continue;
            };
            let labels = [("peer", *peer), ("family", label)];
            set(&mut family, &labels, count(pick((advertised, pending))))?;
        }
    }
    Ok(())
}

fn set(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    family.encode_family(labels)?.encode_gauge(&value)
}

fn add(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    family
        .encode_family(labels)?
        .encode_counter::<NoLabelSet, _, u64>(&value, None)
}

/// The two series of an elastic IP.
fn add_both_ways(
    family: &mut MetricEncoder<'_>,
    eip: &str,
    ingress: u64,
    egress: u64,
) -> fmt::Result {
    for (direction, value) in [(Direction::Ingress, ingress), (Direction::Egress, egress)] {
        add(
            family,
            &[("eip", eip), ("direction", direction.name())],
            value,
        )?;
    }
    Ok(())
}

/// Counters by reason, of those that somebody owns.
fn add_reasons(
    page: &mut Page<'_>,
    name: &str,
    help: &str,
    owners: &BTreeMap<u32, String>,
    counts: &[SlotReasonCount],
) -> fmt::Result {
    let mut family = page.family(name, help, MetricType::Counter)?;
    for SlotReasonCount { slot, count } in counts {
        let Some(eip) = owners.get(slot) else {
            continue;
        };
        let labels = [
            ("eip", eip.as_str()),
            ("direction", count.hook.direction().name()),
            ("hook", count.hook.name()),
            ("reason", count.reason.name()),
            ("class", count.reason.class().name()),
        ];
        add(&mut family, &labels, count.packets)?;
    }
    Ok(())
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::scrape;
    use crate::ctl::fixture;

    #[test]
    fn a_page_has_every_family_and_ends_as_the_format_wants() {
        let page = scrape(fixture::agent().0).unwrap();
        for line in [
            "eip_in_sync 0",
            "eip_reconcile_rounds_total 42",
            "eip_reconcile_repairs_total 3",
            "eip_reconcile_last_duration_seconds 0.0015",
            "eip_reconcile_duration_seconds_sum 0.0015",
            "eip_reconcile_duration_seconds_bucket{le=\"0.001\"} 0",
            "eip_reconcile_duration_seconds_bucket{le=\"0.0025\"} 1",
            "eip_reconcile_duration_seconds_bucket{le=\"10.0\"} 1",
            "eip_reconcile_duration_seconds_bucket{le=\"+Inf\"} 1",
            "eip_bindings{state=\"programmed\"} 1",
            "eip_bindings{state=\"pending\"} 0",
            "eip_binding_packets_total{eip=\"203.0.113.10\",direction=\"ingress\"} 1000",
            "eip_binding_bytes_total{eip=\"203.0.113.10\",direction=\"egress\"} 50000",
            "eip_map_entries{map=\"EIP4_V1\"} 3900",
            "eip_map_capacity{map=\"EIP4_V1\"} 4096",
            "eip_scrape_errors 0",
            "eip_bgp_drained 0",
            "eip_dataplane_packets_total{direction=\"egress\",hook=\"door-out\",\
             reason=\"spoofed-vm\",class=\"drop\"} 3",
            "eip_binding_exceptions_total{eip=\"203.0.113.10\",direction=\"egress\",\
             hook=\"door-out\",reason=\"spoofed-vm\",class=\"drop\"} 3",
            "eip_binding_impostures_total{eip=\"203.0.113.10\",direction=\"egress\",\
             hook=\"door-out\",reason=\"spoofed-eip\",class=\"drop\"} 7",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn only_programmed_bindings_have_traffic_series() {
        let page = scrape(fixture::agent().0).unwrap();
        assert_eq!(
            page.matches("eip_binding_packets_total{").count(),
            2,
            "{page}"
        );
    }
}

//! Answers as tables and lines for people. Pure text; every list says so when it is empty.

use std::fmt::Write as _;

pub(super) mod bgp;

use super::api::{
    BgpSummary, BindAnswer, BindBody, Binding, BindingPhase, Conflict, ExplainAnswer, Explanation,
    FollowEvent, LinkState, MapFill, Net, PacketView, ReasonCounter, ReasonList, SampleEvent,
    Status, TraceAnswer, TraceWay, UnbindAnswer, UplinkStatus,
};
use crate::model::Announce;

/// Shown for what is not known or does not apply.
const NOTHING: &str = "-";
/// A map this full is worth a word.
const NEARLY_FULL_PERCENT: u64 = 90;

/// Columns as wide as their widest cell, two blanks apart; the last one is not padded.
fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let _infallible = write!(line, "{cell:width$}  ");
        }
        format!("{}\n", line.trim_end())
    };
    let body = rows
        .iter()
        .map(|row| line(row.each_ref().map(String::as_str)));
    std::iter::once(line(head)).chain(body).collect()
}

fn or_nothing(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| value.to_string())
}

pub(super) fn bindings(list: &[Binding]) -> String {
    if list.is_empty() {
        return "no bindings on this node\n".to_owned();
    }
    let row = |binding: &Binding| {
        [
            binding.eip.to_string(),
            format!("{}/{}", binding.namespace, binding.name),
            binding.vm.clone(),
            or_nothing(binding.vm_address),
            binding.state.name().to_owned(),
            or_nothing(binding.delivery.map(lane)),
            or_nothing(binding.port.as_ref()),
            or_nothing(remark(binding)),
        ]
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    table(
        [
            "EIP", "BINDING", "VM", "VM-IP", "STATE", "LANE", "PORT", "REMARK",
        ],
        &rows,
    )
}

fn lane(lane: crate::model::Lane) -> &'static str {
    eip_common::abi::Delivery::from(lane).name()
}

/// Whether it works, and who is told where it is.
fn ready(binding: &Binding) -> Option<String> {
    let find = |type_: &str| {
        let mut all = binding.conditions.iter();
        all.find(|condition| condition.type_ == type_)
    };
    let (ready, announced) = (find("Ready")?, find("Announced")?);
    Some(match (ready.status.as_str(), announced.status.as_str()) {
        ("True", "True") => format!("yes, announced {}", announced.message),
        ("True", _) => format!("yes; {}", announced.message),
        _ => format!("no: {}", ready.message),
    })
}

/// Reason and message of what is not as it should be.
fn remark(binding: &Binding) -> Option<String> {
    if let Some(Conflict { mac, uplink, .. }) = &binding.conflict {
        return Some(format!("Contested: {mac} on {uplink} claims it too"));
    }
    match (&binding.reason, &binding.message) {
        (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
        (reason, message) => reason.clone().or_else(|| message.clone()),
    }
}

/// Lines of `name  value`, the names padded to one width.
fn lines(pairs: &[(&str, String)]) -> String {
    let width = pairs
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or_default();
    let mut text = String::new();
    for (name, value) in pairs {
        let _infallible = writeln!(text, "{name:width$}  {value}");
    }
    text
}

pub(super) fn binding(binding: &Binding) -> String {
    let mut pairs = vec![
        ("EIP", binding.eip.to_string()),
        ("binding", format!("{}/{}", binding.namespace, binding.name)),
        (
            "VM",
            format!("{} ({})", binding.vm, or_nothing(binding.vm_address)),
        ),
        ("state", binding.state.name().to_owned()),
    ];
    pairs.extend(remark(binding).map(|remark| ("remark", remark)));
    pairs.extend(ready(binding).map(|ready| ("ready", ready)));
    if let Some(conflict) = &binding.conflict {
        let (since, claims) = (&conflict.since, conflict.claims);
        pairs.push(("contested", format!("since {since}, heard {claims} times")));
    }
    if !binding.contenders.is_empty() {
        pairs.push(("also wanted by", binding.contenders.join(", ")));
    }
    pairs.push((
        "primary",
        if binding.primary { "yes" } else { "no" }.to_owned(),
    ));
    pairs.extend(
        binding
            .bgp
            .as_ref()
            .map(|route| ("BGP", bgp::route_line(route))),
    );
    if let (Some(port), Some(l3)) = (&binding.port, &binding.l3_device) {
        pairs.push(("lane", or_nothing(binding.delivery.map(lane))));
        pairs.extend(binding.policy.clone().map(|policy| ("policy", policy)));
        pairs.push((
            "announced",
            or_nothing(binding.announce.map(Announce::name)),
        ));
        pairs.push(("port", place(port, l3)));
        pairs.push(("VM MAC", or_nothing(binding.vm_mac.as_ref())));
        pairs.push(("MTU", or_nothing(binding.mtu)));
    }
    pairs.extend(binding.origin.clone().map(|origin| ("read from", origin)));
    if let Some(traffic) = binding.traffic {
        pairs.push(("to the VM", volume(traffic.in_packets, traffic.in_bytes)));
        pairs.push((
            "from the VM",
            volume(traffic.out_packets, traffic.out_bytes),
        ));
    }
    let mut text = lines(&pairs);
    if let Some(reasons) = binding
        .reasons
        .as_ref()
        .filter(|reasons| !reasons.is_empty())
    {
        text.push('\n');
        text.push_str(&reason_table(reasons));
    }
    text
}

pub(super) fn explanations(answer: &ExplainAnswer) -> String {
    let chains: Vec<_> = answer.explanations.iter().map(explanation).collect();
    chains.join("\n")
}

fn explanation(explanation: &Explanation) -> String {
    let whose = or_nothing(explanation.binding.as_ref());
    let mut text = format!("{}  {whose}\n", explanation.eip);
    let chain = &explanation.chain;
    let width = chain.iter().map(|link| link.name.len()).max();
    let width = width.unwrap_or_default();
    for link in chain {
        let label = match link.state {
            LinkState::Ok => "ok",
            LinkState::Bad => "BAD",
            LinkState::Skipped => "-",
        };
        let (name, found) = (&link.name, &link.found);
        let _infallible = writeln!(text, "  {label:3}  {name:width$}  {found}");
        for note in &link.notes {
            let _infallible = writeln!(text, "       {:width$}  note: {note}", "");
        }
        if let Some(cure) = &link.cure {
            let _infallible = writeln!(text, "       {:width$}  -> {cure}", "");
        }
    }
    text
}

pub(super) fn trace(answer: &TraceAnswer) -> String {
    let mut text = way("packet", &answer.forward);
    if let Some(reply) = &answer.reply {
        text.push('\n');
        text.push_str(&way("answer", reply));
    }
    text
}

fn way(name: &str, way: &TraceWay) -> String {
    let mut text = format!("{name}  {}\n", packet(&way.packet));
    let width = way
        .hops
        .iter()
        .map(|hop| hop.hook.len() + hop.interface.len() + 4);
    let width = width.max().unwrap_or_default();
    for hop in &way.hops {
        let place = format!("{} on {}", hop.hook, hop.interface);
        let reason = or_nothing(hop.reason.as_ref());
        let (action, meaning) = (&hop.action, &hop.meaning);
        let _infallible = writeln!(text, "  {place:width$}  {action}  {reason}  {meaning}");
        if let Some(after) = &hop.after {
            let _infallible = writeln!(text, "  {:width$}  = {}", "", packet(after));
        }
        if hop.is_attached == Some(false) {
            let _infallible = writeln!(
                text,
                "  {:width$}  ! no program with these instructions is attached there",
                ""
            );
        }
    }
    let _infallible = writeln!(text, "  => {}", way.end);
    text
}

fn packet(view: &PacketView) -> String {
    let checksums = view.checksums.as_ref();
    let checksums = checksums.map_or_else(String::new, |word| format!(", checksums {word}"));
    let quotes = view.quotes.as_ref();
    let quotes = quotes.map_or_else(String::new, |quote| format!(", about {quote}"));
    format!("{}{checksums}{quotes}", view.summary)
}

/// A line, or none for what nobody has to read.
pub(super) fn event(event: &FollowEvent) -> String {
    let mut text = String::new();
    if let Some(sample) = &event.sample {
        let SampleEvent {
            time,
            hook,
            reason,
            class,
            interface,
            ..
        } = sample;
        let eip = or_nothing(sample.eip);
        let packet = packet(&sample.packet);
        text = format!("{time}  {hook} {interface}  {class} {reason}  {eip}  {packet}\n");
    }
    if event.lost > 0 {
        let _infallible = writeln!(text, "... {} more were not shown", event.lost);
    }
    text
}

fn place(port: &str, l3_device: &str) -> String {
    if port == l3_device {
        port.to_owned()
    } else {
        format!("{port} of {l3_device}")
    }
}

fn volume(packets: u64, bytes: u64) -> String {
    format!("{packets} packets, {bytes} bytes")
}

fn reason_table(reasons: &[ReasonCounter]) -> String {
    let row = |reason: &ReasonCounter| {
        [
            reason.direction.clone(),
            reason.hook.clone(),
            reason.reason.clone(),
            reason.class.clone(),
            reason.packets.to_string(),
            match &reason.remark {
                Some(remark) => format!("{} ({remark})", reason.meaning),
                None => reason.meaning.clone(),
            },
        ]
    };
    let rows: Vec<_> = reasons.iter().map(row).collect();
    table(
        ["DIRECTION", "HOOK", "REASON", "CLASS", "PACKETS", "MEANING"],
        &rows,
    )
}

pub(super) fn drops(list: &ReasonList, all: bool) -> String {
    if list.reasons.is_empty() {
        let whose = list
            .eip
            .map_or_else(|| "on this node".to_owned(), |eip| format!("of {eip}"));
        let what = if all {
            "nothing counted"
        } else {
            "no packets dropped"
        };
        return format!("{what} {whose}\n");
    }
    reason_table(&list.reasons)
}

pub(super) fn nets(list: &[Net]) -> String {
    if list.is_empty() {
        return "no prefixes on this node: name some with --internal-net and --eip-cidr\n".into();
    }
    let row = |net: &Net| {
        [
            net.net.to_string(),
            kind(net).to_owned(),
            place_of(net).to_owned(),
        ]
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    table(["PREFIX", "KIND", "KERNEL"], &rows)
}

fn kind(net: &Net) -> &'static str {
    match (net.bypass, net.eip_range) {
        (true, true) => "internal, eip-range",
        (true, false) => "internal",
        (false, true) => "eip-range",
        (false, false) => "neither",
    }
}

fn place_of(net: &Net) -> &'static str {
    match (net.wanted, net.programmed) {
        (true, true) => "programmed",
        (true, false) => "missing",
        _ => "to be removed",
    }
}

pub(super) fn unbound(gone: &UnbindAnswer) -> String {
    let UnbindAnswer {
        namespace,
        name,
        eip,
        unprogrammed,
    } = gone;
    let rest = if *unprogrammed {
        ""
    } else {
        "; the kernel still has it for a moment"
    };
    format!("unbound {eip} ({namespace}/{name}){rest}\n")
}

pub(super) fn bound(body: &BindBody, answer: &BindAnswer) -> String {
    let state = answer
        .binding
        .as_ref()
        .map_or(BindingPhase::Pending, |binding| binding.state);
    match &answer.binding {
        Some(binding) if state == BindingPhase::Programmed => {
            let vm = format!("{} ({})", binding.vm, or_nothing(binding.vm_address));
            let lane = or_nothing(binding.delivery.map(lane));
            format!("bound {} to {vm}, lane {lane}\n", binding.eip)
        }
        _ => format!(
            "written to {}: {} -> {}, {}\n",
            answer.file,
            body.eip,
            body.vm,
            state.name()
        ),
    }
}

pub(super) fn status(status: &Status) -> String {
    let mut text = lines(&overview(status));
    section(&mut text, "UPLINKS", &status.uplinks, uplink);
    section(&mut text, "FAILING", &status.failing, |change| {
        let (tries, error) = (change.attempts, &change.error);
        format!("{}: {error} (tried {tries} times)", change.action)
    });
    section(
        &mut text,
        "REFUSED DOCUMENTS",
        &status.refused_documents,
        |document| {
            let object = document.object.as_ref().map(|object| format!("{object}: "));
            format!(
                "{}: {}{}",
                document.origin,
                object.unwrap_or_default(),
                document.problem
            )
        },
    );
    section(&mut text, "NOTICES", &status.notices, Clone::clone);
    section(&mut text, "MAPS", &status.maps, map_fill);
    text
}

fn overview(status: &Status) -> Vec<(&'static str, String)> {
    let ready = status
        .not_ready
        .as_ref()
        .map_or_else(|| "yes".into(), |why| format!("no: {why}"));
    let mut pairs = vec![
        ("node", status.node.clone()),
        (
            "version",
            format!("{} (map ABI {})", status.version, status.abi_version),
        ),
        (
            "since",
            format!("{} ({})", status.since, age(status.uptime_seconds)),
        ),
        ("source", status.source.clone()),
        ("ready", ready),
        ("in sync", in_sync(status)),
    ];
    let gateways: Vec<_> = [status.gateway4, status.gateway6]
        .into_iter()
        .flatten()
        .collect();
    let gateways = gateways
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let gateway = if gateways.is_empty() {
        "as the routing table says".into()
    } else {
        gateways
    };
    pairs.push(("gateway", gateway));
    pairs.push(("announce", status.announce.name().to_owned()));
    pairs.extend(bgp_summary(&status.bgp).map(|text| ("BGP", text)));
    pairs.push(("bindings", counts(status)));
    pairs.push(("policy", status.policy.clone()));
    pairs
}

fn bgp_summary(bgp: &BgpSummary) -> Option<String> {
    let BgpSummary {
        peers,
        established,
        refused,
        drained,
        problem,
    } = bgp;
    if let Some(problem) = problem {
        return Some(problem.clone());
    }
    if *peers + *refused == 0 {
        return None;
    }
    let mut text = format!("{established} of {peers} sessions established");
    if *refused > 0 {
        let _infallible = write!(text, ", {refused} peers refused");
    }
    if *drained {
        text.push_str(", drained");
    }
    Some(text)
}

fn in_sync(status: &Status) -> String {
    let word = match (&status.round_error, status.in_sync) {
        (Some(error), _) => format!("no: {error}"),
        (None, true) => "yes".to_owned(),
        (None, false) => "no".to_owned(),
    };
    let (rounds, repairs) = (status.rounds, status.repairs);
    let ms = status.last_round_us.div_ceil(1000);
    format!("{word} ({rounds} rounds, the last in {ms} ms; {repairs} repairs)")
}

fn counts(status: &Status) -> String {
    let count = |phase: &BindingPhase| {
        let count = status
            .bindings
            .get(phase.name())
            .copied()
            .unwrap_or_default();
        (count > 0).then(|| format!("{count} {}", phase.name()))
    };
    let counts: Vec<_> = BindingPhase::ALL.iter().filter_map(count).collect();
    if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    }
}

/// `3d 4h`, `4h 5m`, `5m 6s`, `6s`: two units say enough.
fn age(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

fn section<T>(text: &mut String, title: &str, items: &[T], line: impl Fn(&T) -> String) {
    if items.is_empty() {
        return;
    }
    let _infallible = writeln!(text, "\n{title}");
    for item in items {
        let _infallible = writeln!(text, "  {}", line(item));
    }
}

fn uplink(uplink: &UplinkStatus) -> String {
    if !uplink.present {
        return format!(
            "{}: no such interface; it is taken when it appears",
            uplink.name
        );
    }
    let state = if uplink.up { "up" } else { "down" };
    let mtu = or_nothing(uplink.mtu);
    let xdp = uplink.xdp.as_deref().unwrap_or("no XDP");
    let tc = uplink.tc.as_deref().unwrap_or("no tc program");
    format!("{}: {state}, MTU {mtu}, {xdp}, {tc}", uplink.name)
}

fn map_fill(fill: &MapFill) -> String {
    let MapFill {
        map,
        entries,
        capacity,
    } = fill;
    let percent = u64::from(*entries) * 100 / u64::from(*capacity).max(1);
    let remark = if percent >= NEARLY_FULL_PERCENT {
        ", nearly full"
    } else {
        ""
    };
    format!("{map}: {entries} of {capacity} ({percent} %{remark})")
}

#[cfg(test)]
mod tests {
    use super::{age, bindings, drops, nets, table};
    use crate::ctl::{api::ReasonList, fixture, view};

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let rows = [
            ["a".to_owned(), "b".to_owned()],
            ["long".to_owned(), String::new()],
        ];
        assert_eq!(table(["X", "Y"], &rows), "X     Y\na     b\nlong\n");
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in [
            (6, "6s"),
            (306, "5m 6s"),
            (14_706, "4h 5m"),
            (273_600, "3d 4h"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn empty_lists_say_so() {
        assert_eq!(bindings(&[]), "no bindings on this node\n");
        assert!(nets(&[]).starts_with("no prefixes"));
        let none = ReasonList {
            eip: None,
            reasons: Vec::new(),
        };
        assert_eq!(drops(&none, false), "no packets dropped on this node\n");
        let eip = Some("203.0.113.10".parse().unwrap());
        let none = ReasonList {
            eip,
            reasons: Vec::new(),
        };
        assert_eq!(drops(&none, true), "nothing counted of 203.0.113.10\n");
    }

    #[test]
    fn the_list_shows_every_binding_with_what_is_wrong() {
        let text = bindings(&view::bindings(&fixture::report()));
        let expected = "\
EIP           BINDING          VM    VM-IP      STATE       LANE  PORT  REMARK
203.0.113.10  default/web      vm-a  10.0.0.10  programmed  peer  vm0   -
203.0.113.10  default/thief    vm-b  -          refused     -     -     Conflict: default/web is older and holds it
203.0.113.11  default/away     vm-c  -          elsewhere   -     -     its VM runs on node-b
203.0.113.12  default/waiting  vm-d  -          waiting     -     -     VmNotFound: no VirtualMachineInstance default/vm-d
203.0.113.13  default/failing  vm-e  10.0.0.13  failing     -     -     map EIP4_V1 is full: raise --max-bindings
";
        assert_eq!(text, expected);
    }
}

//! What the kernel has for the EIP: entries, route, neighbour, device, programs.

use eip_common::reason::Hook;

use super::{Case, bad, ok};
use crate::{
    ctl::{api::ChainLink, view::mac},
    dataplane::examine::{TcProgram, Toward},
    model::{BindingState, Lane, Link},
};

pub(super) const NAMES: [&str; 5] = [MAPS, ROUTE, NEIGHBOUR, DEVICE, PROGRAMS];
const MAPS: &str = "maps";
const ROUTE: &str = "route";
const NEIGHBOUR: &str = "neighbour";
const DEVICE: &str = "device";
const PROGRAMS: &str = "programs";

/// What the agent puts right by itself.
const REPAIRED: &str = "the agent repairs this within seconds; if it comes back, somebody else changes it: \
                        look for `repair` in the agent's log";

pub(super) fn links(case: &Case<'_>, wanted: &BindingState) -> Vec<ChainLink> {
    vec![
        maps(case, wanted),
        route(case, wanted),
        neighbour(case, wanted),
        device(case, wanted),
        programs(case, wanted),
    ]
}

fn maps(case: &Case<'_>, wanted: &BindingState) -> ChainLink {
    let eip = case.eip();
    let kernel = &case.now.kernel;
    let desired = &case.report.desired;
    let mut wrong = Vec::new();
    match kernel.bindings.get(&eip) {
        None => wrong.push(format!("the EIP map has no {eip}")),
        Some((found, _)) => wrong.extend(difference(case, found, wanted)),
    }
    match (kernel.vms.get(&wanted.vm), desired.vms.get(&wanted.vm)) {
        (None, _) => wrong.push(format!("the VM map has no {}", wanted.vm)),
        (Some((found, _)), Some(wanted_vm)) if found != wanted_vm => wrong.push(format!(
            "the VM map has {} with {} on {}, wanted is {} on {}",
            wanted.vm,
            found.eip,
            case.name_of(found.port),
            wanted_vm.eip,
            case.name_of(wanted_vm.port)
        )),
        _ => {}
    }
    let missing = desired
        .nets
        .iter()
        .filter(|(net, state)| kernel.nets.get(net) != Some(*state));
    wrong.extend(missing.map(|(net, _)| format!("prefix {net} is not in the kernel as wanted")));
    if kernel.gateway.as_ref() != Some(&desired.gateway) {
        wrong.push("the config map has another gateway than wanted".to_owned());
    }
    if wrong.is_empty() && kernel.is_fenced(&eip, case.now.boot_time) {
        let ended = kernel
            .bindings
            .get(&eip)
            .and_then(|(_, slot)| kernel.leases.get(slot));
        let ago = case.now.boot_time.saturating_sub(*ended.unwrap_or(&0)) / 1_000_000_000;
        return bad(
            MAPS,
            format!("the agent did not renew {eip} in time: it is fenced since {ago} s"),
            "the agent begins anew with what it reads from the API server; see its log for what keeps \
             it from that (`--fence-after`, `--fence-on`)",
        );
    }
    if wrong.is_empty() {
        return ok(
            MAPS,
            format!("{eip} is {}, and {} is {eip}'s", wanted.vm, wanted.vm),
        );
    }
    bad(MAPS, wrong.join("; "), REPAIRED)
}

/// Field by field, for people.
fn difference(case: &Case<'_>, found: &BindingState, wanted: &BindingState) -> Vec<String> {
    let eip = case.eip();
    let fields = [
        ("VM", found.vm.to_string(), wanted.vm.to_string()),
        ("port", case.name_of(found.port), case.name_of(wanted.port)),
        ("L3 device", case.name_of(found.l3), case.name_of(wanted.l3)),
        ("MTU", found.mtu.to_string(), wanted.mtu.to_string()),
        ("VM MAC", mac(found.vm_mac), mac(wanted.vm_mac)),
        ("node MAC", mac(found.node_mac), mac(wanted.node_mac)),
        ("lane", lane(found.delivery), lane(wanted.delivery)),
    ];
    let mut wrong: Vec<_> = fields
        .into_iter()
        .filter(|(_, found, wanted)| found != wanted)
        .map(|(name, found, wanted)| {
            format!("the EIP map has {eip} with {name} {found}, wanted is {wanted}")
        })
        .collect();
    if wrong.is_empty() && found != wanted {
        wrong.push(format!(
            "the EIP map has {eip} with other flags than wanted"
        ));
    }
    wrong
}

fn lane(lane: Lane) -> String {
    eip_common::abi::Delivery::from(lane).name().to_owned()
}

fn route(case: &Case<'_>, wanted: &BindingState) -> ChainLink {
    let (eip, vm) = (case.eip(), wanted.vm);
    let l3 = case.name_of(wanted.l3);
    let ours = case.now.kernel.routes.iter();
    let is_there = ours
        .clone()
        .any(|route| route.eip == eip && route.vm == vm && route.l3 == wanted.l3);
    if !is_there {
        let found = format!("the route {eip} via {vm} dev {l3} is missing");
        return bad(ROUTE, found, REPAIRED);
    }
    let view = &case.now.view;
    let look_at_it = || {
        format!(
            "see `ip route get {eip}` and `ip rule`: a rule or a more specific route is before ours"
        )
    };
    match view.routes.get(&eip) {
        Some(found) if found.ifindex == wanted.l3 => {}
        Some(found) => {
            let other = case.name_of(found.ifindex);
            return bad(
                ROUTE,
                format!("the kernel sends {eip} out of {other}, not {l3}"),
                look_at_it(),
            );
        }
        None => {
            return bad(
                ROUTE,
                format!("the kernel has no route for {eip}"),
                look_at_it(),
            );
        }
    }
    match view.routes.get(&vm) {
        Some(found) if found.ifindex == wanted.l3 => ok(ROUTE, format!("{eip} via {vm} dev {l3}")),
        Some(found) => {
            let other = case.name_of(found.ifindex);
            let cure = "the CNI moved the VM; the agent follows within seconds";
            bad(
                ROUTE,
                format!("the VM {vm} is reached by {other}, not {l3}"),
                cure,
            )
        }
        None => {
            let cure = "the CNI took the VM's route away: look at the VM's pod and the CNI's log";
            bad(
                ROUTE,
                format!("the kernel has no route for the VM {vm}"),
                cure,
            )
        }
    }
}

fn neighbour(case: &Case<'_>, wanted: &BindingState) -> ChainLink {
    let (vm, l3) = (wanted.vm, case.name_of(wanted.l3));
    match case.now.view.neighbours.get(&(wanted.l3, vm)) {
        Some(found) if wanted.vm_mac == [0; 6] || *found == wanted.vm_mac => {
            ok(NEIGHBOUR, format!("{vm} is at {} on {l3}", mac(*found)))
        }
        Some(found) => bad(
            NEIGHBOUR,
            format!(
                "{vm} answers from {} on {l3}, programmed is {}",
                mac(*found),
                mac(wanted.vm_mac)
            ),
            "the agent follows within seconds; if it goes back and forth, two guests use the address",
        ),
        None => bad(
            NEIGHBOUR,
            format!("{vm} does not answer on {l3}"),
            "look inside the VM: is it running, is its interface up, has it this address? \
             A firewall in the guest must let ARP and neighbour discovery pass",
        ),
    }
}

fn device(case: &Case<'_>, wanted: &BindingState) -> ChainLink {
    let links = &case.now.view.links;
    let (port, l3) = (case.name_of(wanted.port), case.name_of(wanted.l3));
    let Some(link) = links.get(&wanted.port) else {
        let found = format!("the VM's port {port} is gone");
        return bad(
            DEVICE,
            found,
            "the VM's pod is gone or new: the agent follows within seconds",
        );
    };
    if let Some(down) = [wanted.port, wanted.l3]
        .into_iter()
        .find_map(|ifindex| is_down(case, ifindex))
    {
        return down;
    }
    if wanted.port != wanted.l3 && link.master != Some(wanted.l3) {
        let found = format!("{port} is no port of {l3}");
        return bad(DEVICE, found, format!("ip link set {port} master {l3}"));
    }
    if link.mtu != wanted.mtu {
        let found = format!(
            "{port} takes {} bytes, programmed are {}",
            link.mtu, wanted.mtu
        );
        return bad(DEVICE, found, REPAIRED);
    }
    let place = if port == l3 {
        port
    } else {
        format!("{port} of {l3}")
    };
    ok(DEVICE, format!("{place}, {} bytes", link.mtu))
}

/// An interface that is there but carries nothing.
fn is_down(case: &Case<'_>, ifindex: u32) -> Option<ChainLink> {
    let Link { name, is_up, .. } = case.now.view.links.get(&ifindex)?;
    if !is_up {
        return Some(bad(
            DEVICE,
            format!("{name} is down"),
            format!("ip link set {name} up"),
        ));
    }
    if !case.now.running.contains(&ifindex) {
        let cure = "the VM's side of it is down: look inside the pod";
        return Some(bad(DEVICE, format!("{name} has no carrier"), cure));
    }
    None
}

fn programs(case: &Case<'_>, wanted: &BindingState) -> ChainLink {
    let port = case.name_of(wanted.port);
    for hook in [Hook::DoorIn, Hook::DoorOut] {
        if let Some(wrong) = not_attached(case, wanted.port, hook) {
            return bad(PROGRAMS, wrong, REPAIRED);
        }
    }
    let mut link = ok(PROGRAMS, format!("both of the door run on {port}"));
    for (toward, hook) in [(Toward::Wire, Hook::DoorIn), (Toward::Node, Hook::DoorOut)] {
        let before = before_ours(case, wanted.port, toward);
        if !before.is_empty() {
            link.notes.push(format!(
                "before {} on {port} runs {}: if it ends the chain, ours never sees the packet, and its counter stands still",
                hook.name(),
                before.join(", ")
            ));
        }
    }
    link
}

/// Why our program does not run there; `None` when it does.
pub(super) fn not_attached(case: &Case<'_>, ifindex: u32, hook: Hook) -> Option<String> {
    let interface = case.name_of(ifindex);
    let here = case
        .now
        .attachments
        .iter()
        .find(|at| at.ifindex == ifindex && at.hook == hook);
    match here {
        None => Some(format!("{} does not run on {interface}", hook.name())),
        Some(at)
            if case
                .now
                .programs
                .get(&hook)
                .is_some_and(|id| *id != at.program_id) =>
        {
            Some(format!(
                "{} on {interface} is that of another process",
                hook.name()
            ))
        }
        Some(_) => None,
    }
}

/// Programs of others that see a packet before ours does.
fn before_ours(case: &Case<'_>, ifindex: u32, toward: Toward) -> Vec<String> {
    let all = case
        .now
        .tc
        .get(&(ifindex, toward))
        .map_or(&[][..], Vec::as_slice);
    foreign_before(all)
}

/// As [`before_ours`], for a chain.
pub(crate) fn foreign_before(chain: &[TcProgram]) -> Vec<String> {
    chain
        .iter()
        .take_while(|program| !program.is_ours)
        .map(|program| {
            let name = if program.name.is_empty() {
                "a program"
            } else {
                &program.name
            };
            format!("{name} (id {})", program.id)
        })
        .collect()
}

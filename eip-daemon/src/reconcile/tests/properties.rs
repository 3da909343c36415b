//! Properties over random worlds: whatever the objects say, whatever state the kernel was left in,
//! whatever fails on the way.

use proptest::{collection::vec, prelude::*, sample::select, test_runner::Config};
use tokio::runtime;

use super::*;
use crate::reconcile::fake::{Fault, Violation, apply};

const ADDRESSES4: [&str; 5] = [
    "10.244.0.1",
    "10.244.0.2",
    "10.244.0.3",
    "10.244.9.4",
    "10.244.9.5",
];
const ADDRESSES6: [&str; 3] = ["fd00:10::1", "fd00:10::2", "fd00:10::3"];
const EIPS: [&str; 7] = [
    "203.0.113.10",
    "203.0.113.11",
    "203.0.113.12",
    "2001:db8:1::10",
    "2001:db8:1::11",
    "203.0.113.1",
    "198.51.100.1",
];
const VMS: [&str; 4] = ["a", "b", "c", "d"];

/// As many cases as a quick run bears; `PROPTEST_CASES` asks for more.
fn config(cases: u32) -> Config {
    let default = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let is_asked = std::env::var_os("PROPTEST_CASES").is_some();
    if is_asked {
        default
    } else {
        Config { cases, ..default }
    }
}

fn any_vm(name: &'static str) -> impl Strategy<Value = VmFact> {
    let phase = prop_oneof![
        6 => Just(VmPhase::Running),
        1 => Just(VmPhase::Pending),
        1 => Just(VmPhase::Final),
    ];
    let node = prop_oneof![5 => Just("here"), 1 => Just("there")];
    let first = proptest::option::weighted(0.9, select(ADDRESSES4.to_vec()));
    let second = proptest::option::of(select(ADDRESSES6.to_vec()));
    (phase, node, first, second, 0..2_u8).prop_map(move |(phase, node, first, second, uid)| {
        let addresses: Vec<&str> = first.into_iter().chain(second).collect();
        VmFact {
            phase,
            node: Some(node.to_owned()),
            uid: Some(uid.to_string()),
            ..vm(name, &addresses)
        }
    })
}

fn any_binding() -> impl Strategy<Value = BindingFact> {
    let delivery = prop_oneof![
        3 => Just(None),
        1 => select(vec![DeliveryChoice::Stack, DeliveryChoice::Peer, DeliveryChoice::Xdp])
            .prop_map(Some),
    ];
    let announce = proptest::option::of(select(vec![Announce::L2, Announce::None]));
    (
        select(vec!["k", "l", "m", "n", "o", "p"]),
        select(EIPS.to_vec()),
        select(VMS.to_vec()),
        proptest::option::of(0..3_i64),
        any::<bool>(),
        delivery,
        announce,
    )
        .prop_map(
            |(name, eip, vm, created, primary, delivery, announce)| BindingFact {
                moving: crate::model::Moving::default(),
                created,
                primary,
                delivery,
                announce,
                ..binding(name, eip, vm)
            },
        )
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let vms = VMS.map(any_vm);
    (vec(any_binding(), 0..6), vms, 0..16_u8).prop_map(|(mut bindings, vms, there)| {
        bindings.sort_by(|a, b| a.name.cmp(&b.name));
        bindings.dedup_by(|a, b| a.name == b.name);
        let vms = vms
            .into_iter()
            .enumerate()
            .filter(|(i, _)| there & (1 << i) != 0 || there > 3);
        facts(bindings, vms.map(|(_, vm)| vm).collect())
    })
}

/// Where each address is: the number picks the port, some are nowhere.
fn any_view() -> impl Strategy<Value = NetworkView> {
    (vec(0..5_u32, 8), any::<bool>(), vec(0..2_u32, 2)).prop_map(|(places, leads_out, quirks)| {
        let mut view = bare_node();
        for (index, address) in ADDRESSES4.iter().chain(&ADDRESSES6).enumerate() {
            let index = u32::try_from(index).unwrap();
            match places[index as usize] {
                0 => {}
                1 => route_to_bridge(&mut view, address, 40 + index),
                2 => route_to_bridge(&mut view, address, 60 + index),
                3 => route_to_veth(&mut view, address, 80 + index),
                _ => route_to_veth(&mut view, address, 10 + index),
            }
        }
        if leads_out {
            view.default_routes[0] = DefaultRoute {
                ifindex: UPLINK,
                gateway: Some(ip("203.0.113.1")),
                metric: 0,
            };
        }
        view.xdp_ports = view
            .links
            .keys()
            .copied()
            .filter(|i| i % 2 == quirks[0])
            .collect();
        view.foreign_egress = view
            .links
            .keys()
            .copied()
            .filter(|i| i % 3 == quirks[1])
            .collect();
        view
    })
}

/// Part of the one, part of the other: what people do to objects one at a time. Bit by bit `mask` says
/// whose VM stays and whose binding is dropped.
fn mix(old: &Facts, new: &Facts, mask: u32) -> Facts {
    let picks_old = |position: usize| mask & (1 << position) != 0;
    let mut vms = new.vms.clone();
    for (position, vm) in old.vms.iter().enumerate() {
        if picks_old(position) {
            vms.retain(|other| other.name != vm.name);
            vms.push(vm.clone());
        }
    }
    let mut bindings = old.bindings.clone();
    for (position, binding) in new.bindings.iter().enumerate() {
        if picks_old(8 + position) {
            bindings.retain(|other| other.name != binding.name);
            bindings.push(binding.clone());
        }
    }
    facts(bindings, vms)
}

/// A node with objects, and the same some time later.
#[derive(Debug, Clone)]
struct Change {
    before: (Facts, NetworkView),
    after: (Facts, NetworkView),
}

fn any_change() -> impl Strategy<Value = Change> {
    let mask = prop_oneof![1 => Just(None), 4 => any::<u32>().prop_map(Some)];
    let worlds = ((any_facts(), any_view()), (any_facts(), any_view()));
    (worlds, mask, proptest::bool::weighted(0.7)).prop_map(|((before, later), mask, stays)| {
        let facts = match mask {
            Some(mask) => mix(&before.0, &later.0, mask),
            None => later.0,
        };
        let view = if stays { before.1.clone() } else { later.1 };
        Change {
            before,
            after: (facts, view),
        }
    })
}

#[derive(Debug, Clone)]
enum Damage {
    LoseBinding(usize),
    LoseVm(usize),
    LoseRoute(usize),
    LosePort(usize),
    LoseRule(usize),
    LoseNet(usize),
    LoseUplinks,
    LoseGateway,
    SwapVm(usize),
    ShareSlot(usize),
    Leftover,
}

fn any_damage() -> impl Strategy<Value = Damage> {
    let position = 0..8_usize;
    prop_oneof![
        position.clone().prop_map(Damage::LoseBinding),
        position.clone().prop_map(Damage::LoseVm),
        position.clone().prop_map(Damage::LoseRoute),
        position.clone().prop_map(Damage::LosePort),
        position.clone().prop_map(Damage::LoseRule),
        position.clone().prop_map(Damage::LoseNet),
        Just(Damage::LoseUplinks),
        Just(Damage::LoseGateway),
        position.clone().prop_map(Damage::SwapVm),
        position.prop_map(Damage::ShareSlot),
        Just(Damage::Leftover),
    ]
}

fn do_damage(observed: &mut Observed, damage: &Damage) {
    fn pick<K: Clone>(mut keys: impl Iterator<Item = K>, position: usize) -> Option<K> {
        keys.nth(position)
    }
    match *damage {
        Damage::LoseBinding(at) => {
            let key = pick(observed.bindings.keys().copied(), at);
            key.map(|key| observed.bindings.remove(&key));
        }
        Damage::LoseVm(at) => {
            let key = pick(observed.vms.keys().copied(), at);
            key.map(|key| observed.vms.remove(&key));
        }
        Damage::LoseRoute(at) => {
            let key = pick(observed.routes.iter().cloned(), at);
            key.map(|key| observed.routes.remove(&key));
        }
        Damage::LosePort(at) => {
            let key = pick(observed.ports.iter().copied(), at);
            key.map(|key| observed.ports.remove(&key));
        }
        Damage::LoseRule(at) => {
            let key = pick(observed.rules.iter().cloned(), at);
            key.map(|key| observed.rules.remove(&key));
        }
        Damage::LoseNet(at) => {
            let key = pick(observed.nets.keys().copied(), at);
            key.map(|key| observed.nets.remove(&key));
        }
        Damage::LoseUplinks => observed.uplinks.clear(),
        Damage::LoseGateway => observed.gateway = None,
        Damage::SwapVm(at) => {
            let stolen = observed.vms.keys().next().copied();
            let entry = observed.bindings.values_mut().nth(at);
            if let (Some((state, _)), Some(vm)) = (entry, stolen) {
                state.vm = vm;
            }
        }
        Damage::ShareSlot(at) => {
            if let Some((_, slot)) = observed.bindings.values_mut().nth(at) {
                *slot = 0;
            }
        }
        Damage::Leftover => drop(observed.leftovers.insert(99)),
    }
}

fn carry_out(observed: &mut Observed, actions: &[Action]) -> BTreeSet<Violation> {
    let mut introduced = BTreeSet::new();
    for action in actions {
        let before = violations(observed);
        apply(observed, action);
        introduced.extend(violations(observed).difference(&before).cloned());
    }
    introduced
}

/// What a kernel looks like after a life with these facts.
fn settled(facts: &Facts, view: &NetworkView) -> Observed {
    let desired = desired::compute(facts, &settings(), view);
    let mut observed = Observed::default();
    let actions = plan(&desired, &observed, Removal::Allowed);
    carry_out(&mut observed, &actions);
    observed
}

fn is_as_desired(observed: &Observed, facts: &Facts, view: &NetworkView) -> bool {
    let desired = desired::compute(facts, &settings(), view);
    let bindings = observed
        .bindings
        .iter()
        .map(|(eip, (state, _))| (*eip, state.clone()));
    let vms = observed
        .vms
        .iter()
        .map(|(vm, (state, _))| (*vm, state.clone()));
    bindings.eq(desired.bindings.clone())
        && vms.eq(desired.vms.clone())
        && observed.nets == desired.nets
        && observed.gateway.as_ref() == Some(&desired.gateway)
        && observed.uplinks == desired.uplinks
        && observed.ports == desired.ports
        && observed.routes == desired.routes
        && observed.rules == desired.rules
        && observed.table_defaults == desired.table_defaults
        && observed.leftovers.is_empty()
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn a_plan_leads_from_any_life_to_any_other_without_a_wrong_moment(
        Change { before: (facts1, view1), after: (facts2, view2) } in any_change(),
    ) {
        let mut observed = settled(&facts1, &view1);
        prop_assert_eq!(violations(&observed), BTreeSet::new());
        let desired = desired::compute(&facts2, &settings(), &view2);
        let actions = plan(&desired, &observed, Removal::Allowed);
        for (position, action) in actions.iter().enumerate() {
            prop_assert!(!actions[..position].contains(action), "twice: {:?}", action);
        }
        let introduced = carry_out(&mut observed, &actions);
        prop_assert_eq!(introduced, BTreeSet::new(), "{:#?}", actions);
        prop_assert!(is_as_desired(&observed, &facts2, &view2));
        prop_assert_eq!(plan(&desired, &observed, Removal::Allowed), []);
    }

    #[test]
    fn a_plan_mends_a_damaged_kernel_and_makes_nothing_worse(
        Change { before: (facts1, view1), after: (facts2, view2) } in any_change(),
        damage in vec(any_damage(), 0..6),
    ) {
        let mut observed = settled(&facts1, &view1);
        for damage in &damage {
            do_damage(&mut observed, damage);
        }
        let desired = desired::compute(&facts2, &settings(), &view2);
        let actions = plan(&desired, &observed, Removal::Allowed);
        carry_out(&mut observed, &actions);
        prop_assert!(is_as_desired(&observed, &facts2, &view2), "{:#?}", actions);
        prop_assert_eq!(violations(&observed), BTreeSet::new());
        prop_assert_eq!(plan(&desired, &observed, Removal::Allowed), []);
    }

    #[test]
    fn a_deferred_plan_only_adds(
        Change { before: (facts1, view1), after: (facts2, view2) } in any_change(),
    ) {
        let before = settled(&facts1, &view1);
        let desired = desired::compute(&facts2, &settings(), &view2);
        let actions = plan(&desired, &before, Removal::Deferred);
        let mut after = before.clone();
        let introduced = carry_out(&mut after, &actions);
        prop_assert_eq!(introduced, BTreeSet::new(), "{:#?}", actions);
        for (eip, (state, slot)) in &before.bindings {
            let (now, now_slot) = &after.bindings[eip];
            prop_assert_eq!((now.vm, *now_slot), (state.vm, *slot));
        }
        for (vm, (state, _)) in &before.vms {
            let (now, _) = &after.vms[vm];
            prop_assert_eq!(now.eip, state.eip);
            prop_assert!(now.has_many || !state.has_many);
        }
        prop_assert!(after.ports.is_superset(&before.ports));
        for route in &before.routes {
            prop_assert!(after.routes.iter().any(|r| (r.eip, r.vm) == (route.eip, route.vm)));
        }
        prop_assert_eq!(plan(&desired, &after, Removal::Deferred), []);
    }

    /// Any part of what leaves may be held, in any state the rest may be in.
    #[test]
    fn what_is_held_stays_reachable_and_everything_else_becomes_as_desired(
        Change { before: (facts1, view1), after: (facts2, view2) } in any_change(),
        mask in any::<u32>(),
    ) {
        let mut observed = settled(&facts1, &view1);
        let desired = desired::compute(&facts2, &settings(), &view2);
        let held: BTreeSet<IpAddr> = observed
            .bindings
            .keys()
            .enumerate()
            .filter(|(position, eip)| {
                mask & (1 << position) != 0 && !desired.bindings.contains_key(*eip)
            })
            .map(|(_, eip)| *eip)
            .collect();
        let vms: Vec<(IpAddr, IpAddr)> =
            held.iter().map(|eip| (*eip, observed.bindings[eip].0.vm)).collect();
        let kept = keep(&desired, &observed, &held);
        let actions = plan(&kept, &observed, Removal::Allowed);
        let mut world = observed.clone();
        for action in &actions {
            let before = violations(&world);
            apply(&mut world, action);
            let introduced: BTreeSet<_> =
                violations(&world).difference(&before).cloned().collect();
            prop_assert_eq!(introduced, BTreeSet::new(), "{:#?}", actions);
            for (eip, vm) in &vms {
                prop_assert_eq!(world.bindings.get(eip).map(|(is, _)| is.vm), Some(*vm));
                let has_route = |observed: &Observed| {
                    observed.routes.iter().any(|route| (route.eip, route.vm) == (*eip, *vm))
                };
                prop_assert_eq!(has_route(&world), has_route(&observed));
            }
        }
        prop_assert_eq!(plan(&kept, &world, Removal::Allowed), []);
        for eip in world.bindings.keys() {
            prop_assert!(held.contains(eip) || desired.bindings.contains_key(eip));
        }
        for eip in desired.bindings.keys() {
            prop_assert!(world.bindings.contains_key(eip));
        }
        observed = world;
        let actions = plan(&desired, &observed, Removal::Allowed);
        let introduced = carry_out(&mut observed, &actions);
        prop_assert_eq!(introduced, BTreeSet::new(), "{:#?}", actions);
        prop_assert!(is_as_desired(&observed, &facts2, &view2));
    }

    #[test]
    fn an_eip_and_a_vm_address_have_one_owner((facts, view) in (any_facts(), any_view())) {
        let desired = desired::compute(&facts, &settings(), &view);
        prop_assert_eq!(desired.outcomes.len(), facts.bindings.len());
        let served = facts.bindings.iter().filter_map(|binding| {
            match &desired.outcomes[&binding.name] {
                Outcome::Served { vm, .. } => Some((binding, *vm)),
                _ => None,
            }
        });
        let mut owners = std::collections::BTreeMap::new();
        let mut eips = BTreeSet::new();
        for (binding, vm) in served {
            prop_assert!(eips.insert(binding.eip));
            prop_assert_eq!(owners.entry(vm).or_insert(&binding.vm), &&binding.vm);
        }
        prop_assert_eq!(eips, desired.bindings.keys().copied().collect::<BTreeSet<_>>());
    }
}

/// One thing that happens while the reconciler runs.
#[derive(Debug, Clone)]
enum Event {
    Facts(Facts),
    /// Some objects change.
    Edit(Facts, u32),
    View(NetworkView),
    Damage(Damage),
    /// From now on every n-th change fails.
    Faults(u32),
    Crash,
    Pause(u64),
    /// The network takes nothing, or listens again.
    Deaf(bool),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => any_facts().prop_map(Event::Facts),
        5 => (any_facts(), any::<u32>()).prop_map(|(facts, mask)| Event::Edit(facts, mask)),
        2 => any_view().prop_map(Event::View),
        2 => any_damage().prop_map(Event::Damage),
        2 => (0..4_u32).prop_map(Event::Faults),
        1 => Just(Event::Crash),
        1 => (0..40_000_u64).prop_map(Event::Pause),
        2 => any::<bool>().prop_map(Event::Deaf),
    ]
}

fn fault(every: u32) -> Option<Fault> {
    let mut count = 0;
    (every > 0).then(|| -> Fault {
        Box::new(move |_| {
            count += 1;
            count % (every + 1) == 0
        })
    })
}

async fn live(events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut bench = Bench::new(bare_node(), Facts::default());
    let mut last = Facts {
        complete: true,
        ..Facts::default()
    };
    // What was on its way out while time went by: patience may have ended.
    let mut given_up = BTreeSet::new();
    for event in events {
        let is_damage = matches!(event, Event::Damage(_));
        match event {
            Event::Facts(facts) => last = facts,
            Event::Edit(facts, mask) => last = mix(&last, &facts, mask),
            Event::View(view) => bench.kernel.world().view = view,
            Event::Damage(damage) => do_damage(&mut bench.kernel.world().observed, &damage),
            Event::Faults(every) => bench.kernel.world().fails = fault(every),
            Event::Crash => {
                let (kernel, network) = (bench.kernel.clone(), bench.network.clone());
                bench = Bench::between(kernel, network, Facts::default());
            }
            Event::Deaf(is_deaf) => bench.network.air().is_deaf = is_deaf,
            Event::Pause(millis) => {
                let air = bench.network.air().believed.clone();
                let wanted = bench.network.air().wanted.wanted.clone();
                given_up.extend(air.into_iter().filter(|eip| !wanted.contains_key(eip)));
                tokio::time::advance(std::time::Duration::from_millis(millis)).await;
            }
        }
        bench.facts.send_replace(last.clone());
        bench.kernel.world().introduced.clear();
        let was_good = violations(&bench.kernel.world().observed).is_empty();
        let before = bench.kernel.world().observed.bindings.clone();
        bench.deaf_round().await;
        // What the network believes goes only when there was time to tell it. (One that changes
        // hands can get stuck half-way by a fault.)
        if was_good && !is_damage {
            let after = bench.kernel.world().observed.bindings.clone();
            for eip in before.keys().filter(|eip| !after.contains_key(*eip)) {
                let is_believed = bench.network.air().believed.contains(eip);
                let is_leaving = !bench.report().desired.bindings.contains_key(eip);
                let is_bad = is_leaving && is_believed && !given_up.contains(eip);
                prop_assert!(!is_bad, "{}", eip);
            }
        }
        bench.network.listen();
        if was_good && !is_damage {
            prop_assert_eq!(
                &bench.kernel.world().introduced,
                &std::collections::BTreeMap::new()
            );
        }
    }
    bench.kernel.world().fails = None;
    bench.network.air().is_deaf = false;
    for _ in 0..4 {
        tokio::time::advance(std::time::Duration::from_secs(31)).await;
        bench.round().await;
    }
    prop_assert!(bench.report().in_sync);
    prop_assert!(bench.report().failing.is_empty());
    prop_assert_eq!(violations(&bench.kernel.world().observed), BTreeSet::new());
    // A new process without memory wants the same, but for addresses a status stopped reporting.
    let observed = bench.kernel.world().observed.clone();
    let report = bench.report();
    let bindings = observed
        .bindings
        .iter()
        .map(|(eip, (state, _))| (*eip, state.clone()));
    prop_assert!(bindings.eq(report.desired.bindings.clone()));
    prop_assert_eq!(&bench.network.air().too_early, &BTreeSet::new());
    prop_assert!(
        bench
            .network
            .air()
            .believed
            .iter()
            .eq(report.desired.bindings.keys())
    );
    Ok(())
}

fn run(future: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(future)
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn whatever_happens_in_whatever_order_the_kernel_ends_up_as_specified(
        events in vec(any_event(), 1..25),
    ) {
        run(live(events))?;
    }

    /// Killed after each single change of a plan, by a fault that lets nothing more through; a new
    /// process takes over from there.
    #[test]
    fn a_process_killed_at_any_step_leaves_what_its_successor_completes(
        Change { before: (facts1, view1), after: (facts2, view2) } in any_change(),
    ) {
        let start = settled(&facts1, &view1);
        let desired = desired::compute(&facts2, &settings(), &view2);
        let steps = plan(&desired, &start, Removal::Allowed).len();
        for kill_at in 0..=steps {
            let mut observed = start.clone();
            let actions = plan(&desired, &observed, Removal::Allowed);
            let introduced = carry_out(&mut observed, &actions[..kill_at]);
            prop_assert_eq!(introduced, BTreeSet::new());
            let rest = plan(&desired, &observed, Removal::Allowed);
            let introduced = carry_out(&mut observed, &rest);
            prop_assert_eq!(introduced, BTreeSet::new(), "killed at {}: {:#?}", kill_at, rest);
            prop_assert!(is_as_desired(&observed, &facts2, &view2));
        }
    }
}

//! Single stories, round by round.

use super::*;

#[tokio::test]
async fn a_binding_is_programmed_door_first_and_route_last() {
    let (view, mut facts) = three_vms();
    facts.bindings.truncate(1);
    let mut bench = Bench::new(view, facts);
    let actions = bench.round().await;
    let position = |wanted: fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
    let door = position(|action| matches!(action, Action::AttachPort(11)));
    let vm = position(|action| matches!(action, Action::PutVm { .. }));
    let eip = position(|action| {
        matches!(
            action,
            Action::PutBinding {
                is_new_slot: true,
                ..
            }
        )
    });
    let route = position(|action| matches!(action, Action::PutRoute(_)));
    assert!(door < vm && vm < eip && eip < route, "{actions:#?}");
    assert!(bench.report().in_sync);
}

#[tokio::test]
async fn an_idle_round_changes_nothing() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    assert!(!bench.round().await.is_empty());
    assert_eq!(bench.round().await, []);
    assert_eq!(bench.report().repairs, 0);
    assert_eq!(bench.report().rounds, 2);
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    let mut restarted = Bench::on(bench.kernel.clone(), facts);
    assert_eq!(restarted.round().await, []);
    assert!(restarted.report().in_sync);
}

#[tokio::test]
async fn nothing_is_removed_before_the_facts_are_complete() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    let standing = bench.kernel.world().observed.clone();

    let mut restarted = Bench::on(bench.kernel.clone(), Facts::default());
    assert_eq!(restarted.round().await, []);
    assert!(!restarted.report().in_sync);
    assert_eq!(bench.kernel.world().observed, standing);

    let gone = Facts {
        complete: true,
        ..Facts::default()
    };
    restarted.facts.send_replace(gone);
    restarted.round().await;
    assert!(bench.kernel.world().observed.bindings.is_empty());
    assert!(bench.kernel.world().observed.routes.is_empty());
    assert!(bench.kernel.world().observed.ports.is_empty());
}

#[tokio::test]
async fn incomplete_facts_take_no_eip_from_its_vm() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    let mut partial = facts;
    partial.complete = false;
    partial.bindings = vec![binding("newer", "203.0.113.10", "b")];
    let mut restarted = Bench::on(bench.kernel.clone(), partial);
    assert_eq!(restarted.round().await, []);
}

#[tokio::test]
async fn drift_is_repaired_and_counted() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    bench.round().await;
    let good = bench.kernel.world().observed.clone();

    for damage in [
        |observed: &mut Observed| _ = observed.bindings.remove(&ip("203.0.113.10")),
        |observed: &mut Observed| observed.routes.clear(),
        |observed: &mut Observed| observed.ports.clear(),
        |observed: &mut Observed| observed.uplinks.clear(),
        |observed: &mut Observed| observed.rules.clear(),
        |observed: &mut Observed| observed.nets.clear(),
        |observed: &mut Observed| observed.vms.clear(),
        |observed: &mut Observed| observed.gateway = None,
        |observed: &mut Observed| {
            let stale = observed.bindings[&ip("203.0.113.11")].clone();
            observed.bindings.insert(ip("203.0.113.99"), (stale.0, 77));
        },
        |observed: &mut Observed| {
            observed.bindings.get_mut(&ip("203.0.113.10")).unwrap().0.vm = ip("10.244.0.66");
        },
    ] {
        let before = bench.report().repairs;
        damage(&mut bench.kernel.world().observed);
        let done = bench.round().await;
        assert!(!done.is_empty());
        assert_eq!(bench.report().repairs, before + done.len() as u64);
        assert_eq!(bench.kernel.world().observed, good);
        assert!(bench.report().in_sync);
    }
}

#[tokio::test]
async fn a_change_of_facts_is_no_repair() {
    let (view, mut facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    facts.bindings.pop();
    bench.facts.send_replace(facts);
    assert!(!bench.round().await.is_empty());
    assert_eq!(bench.report().repairs, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failing_door_holds_back_its_binding_and_nothing_else() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    bench.kernel.world().fails = Some(Box::new(|action| matches!(action, Action::AttachPort(11))));
    bench.round().await;

    let observed = bench.kernel.world().observed.clone();
    assert!(!observed.bindings.contains_key(&ip("203.0.113.10")));
    assert!(!observed.vms.contains_key(&ip("10.244.0.1")));
    assert!(
        observed
            .routes
            .iter()
            .all(|route| route.eip != ip("203.0.113.10"))
    );
    assert!(observed.bindings.contains_key(&ip("203.0.113.11")));
    assert!(observed.bindings.contains_key(&ip("203.0.113.12")));
    let report = bench.report();
    assert!(!report.in_sync);
    assert_eq!(report.failing.len(), 1);
    assert_eq!(report.failing[0].action, "attach door interface=cali11");
    assert!(report.bindings[0].error.is_some() && report.bindings[1].error.is_none());

    bench.kernel.world().fails = None;
    assert_eq!(bench.round().await, [], "the pause is not over");
    tokio::time::advance(std::time::Duration::from_millis(300)).await;
    bench.round().await;
    assert!(bench.report().in_sync);
    assert!(bench.report().failing.is_empty());
}

#[tokio::test(start_paused = true)]
async fn pauses_between_tries_grow_up_to_half_a_minute() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    bench.kernel.world().fails = Some(Box::new(|action| matches!(action, Action::AttachPort(11))));
    for _ in 0..600 {
        bench.round().await;
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
    }
    // 1, 1, 1, 2, 4, 8, 16, then every 30 seconds.
    let attempts = bench.report().failing[0].attempts;
    assert!((20..=30).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn a_failing_rule_holds_back_the_rules_after_it() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    bench.kernel.world().fails = Some(Box::new(
        |action| matches!(action, Action::AddRule(rule) if rule.priority == 1180),
    ));
    bench.round().await;
    assert!(bench.kernel.world().observed.rules.is_empty());
    assert!(bench.kernel.world().introduced.is_empty());
    assert_eq!(bench.kernel.world().observed.bindings.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_table_without_default_is_not_looked_up() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    bench.kernel.world().fails = Some(Box::new(|action| {
        matches!(action, Action::PutTableDefault(_))
    }));
    bench.round().await;
    let world = bench.kernel.world();
    assert!(!world.observed.rules.is_empty());
    assert!(world.introduced.is_empty(), "{:?}", world.introduced);
}

#[tokio::test(start_paused = true)]
async fn a_vm_changes_its_primary_only_when_the_eips_it_keeps_record_their_flows() {
    let (view, mut facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    let second = binding("second", "203.0.113.20", "a");
    facts.bindings.push(BindingFact {
        primary: true,
        ..second
    });
    bench.facts.send_replace(facts);
    let kept = ip("203.0.113.10");
    bench.kernel.world().fails = Some(Box::new(
        move |action| matches!(action, Action::PutBinding { eip, .. } if *eip == kept),
    ));
    bench.round().await;
    let world = bench.kernel.world();
    assert!(world.introduced.is_empty(), "{:?}", world.introduced);
    assert_eq!(world.observed.vms[&ip("10.244.0.1")].0.eip, kept);
    assert!(!world.observed.bindings.contains_key(&ip("203.0.113.20")));
}

#[tokio::test(start_paused = true)]
async fn an_eip_that_cannot_be_taken_from_its_vm_is_not_given_to_another() {
    let (view, mut facts) = three_vms();
    facts.bindings.push(binding("another", "203.0.113.20", "a"));
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    facts.bindings.retain(|binding| binding.name.name != "two");
    facts.bindings.last_mut().unwrap().vm = object("b");
    bench.facts.send_replace(facts);
    let moved = ip("203.0.113.20");
    bench.kernel.world().fails = Some(Box::new(
        move |action| matches!(action, Action::RemoveBinding { eip } if *eip == moved),
    ));
    bench.round().await;
    let world = bench.kernel.world();
    assert!(world.introduced.is_empty(), "{:?}", world.introduced);
    assert_eq!(world.observed.bindings[&moved].0.vm, ip("10.244.0.1"));
}

#[tokio::test]
async fn a_vm_that_loses_its_primary_falls_back_to_an_eip_it_has() {
    let (view, mut facts) = three_vms();
    facts.bindings.push(binding("xtra", "203.0.113.20", "a"));
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    facts.bindings[0].vm = object("b");
    bench.facts.send_replace(facts);
    let actions = bench.round().await;
    let writes = |wanted: &str| {
        let vm_address = ip(wanted);
        let is_write =
            move |action: &&Action| matches!(action, Action::PutVm { vm, .. } if *vm == vm_address);
        actions.iter().filter(is_write).count()
    };
    assert_eq!(
        (writes("10.244.0.1"), writes("10.244.0.2")),
        (1, 1),
        "{actions:#?}"
    );
    assert!(bench.kernel.world().introduced.is_empty());
    assert!(bench.report().in_sync);
}

#[tokio::test]
async fn two_vms_can_exchange_their_eips() {
    let (view, mut facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    facts.bindings[0].vm = object("b");
    facts.bindings[1].vm = object("a");
    bench.facts.send_replace(facts);
    bench.round().await;
    let world = bench.kernel.world();
    assert!(world.introduced.is_empty(), "{:?}", world.introduced);
    assert_eq!(
        world.observed.bindings[&ip("203.0.113.10")].0.vm,
        ip("10.244.0.2")
    );
    assert_eq!(
        world.observed.bindings[&ip("203.0.113.11")].0.vm,
        ip("10.244.0.1")
    );
    assert_eq!(
        world.observed.bindings[&ip("203.0.113.10")].1,
        0,
        "the EIP keeps its slot"
    );
}

#[tokio::test]
async fn an_emptied_address_does_not_unbind_a_running_vm() {
    let (view, mut facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    facts.vms[0].interfaces[0].addresses.clear();
    bench.facts.send_replace(facts.clone());
    assert_eq!(bench.round().await, []);
    facts.vms[0].interfaces.clear();
    bench.facts.send_replace(facts.clone());
    assert_eq!(bench.round().await, []);

    facts.vms[0].phase = VmPhase::Final;
    bench.facts.send_replace(facts);
    assert!(!bench.round().await.is_empty());
    assert!(matches!(
        bench.outcome("one"),
        Outcome::Waiting {
            reason: WaitReason::VmNotRunning,
            ..
        }
    ));
}

#[tokio::test]
async fn a_restarted_vm_does_not_inherit_the_address_of_its_predecessor() {
    let (view, mut facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    facts.vms[0].uid = Some("another".to_owned());
    facts.vms[0].interfaces[0].addresses.clear();
    bench.facts.send_replace(facts);
    bench.round().await;
    assert!(matches!(
        bench.outcome("one"),
        Outcome::Waiting {
            reason: WaitReason::VmHasNoAddress,
            ..
        }
    ));
}

#[tokio::test]
async fn an_emptied_address_that_another_vm_reports_is_not_given_back() {
    let (view, mut facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    facts.vms[0].interfaces[0].addresses.clear();
    facts.vms[1].interfaces[0].addresses = vec![ip("10.244.0.1")];
    bench.facts.send_replace(facts);
    bench.round().await;
    assert_eq!(
        bench.outcome("two"),
        Outcome::Served {
            vm: ip("10.244.0.1"),
            note: None
        }
    );
}

#[tokio::test]
async fn a_vm_that_moves_to_another_port_is_never_without_a_door() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    bench.round().await;
    route_to_bridge(&mut bench.kernel.world().view, "10.244.9.3", 34);
    let actions = bench.round().await;
    let attach = actions
        .iter()
        .position(|a| matches!(a, Action::AttachPort(34)))
        .unwrap();
    let detach = actions
        .iter()
        .position(|a| matches!(a, Action::DetachPort(33)))
        .unwrap();
    let put = actions
        .iter()
        .position(|a| matches!(a, Action::PutBinding { .. }))
        .unwrap();
    assert!(attach < put && put < detach);
    assert!(
        !actions
            .iter()
            .any(|a| matches!(a, Action::RemoveBinding { .. }))
    );
    assert!(bench.kernel.world().introduced.is_empty());
}

#[tokio::test]
async fn a_blind_round_keeps_the_last_picture_and_says_so() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    bench.round().await;
    bench.kernel.world().is_blind = true;
    bench.round().await;
    let report = bench.report();
    assert!(report.round_error.is_some() && !report.in_sync);
    assert!(
        report
            .bindings
            .iter()
            .all(|binding| binding.programmed.is_some())
    );
    bench.kernel.world().is_blind = false;
    bench.round().await;
    assert!(bench.report().in_sync && bench.report().round_error.is_none());
}

#[tokio::test]
async fn a_binding_keeps_its_slot_and_a_new_one_gets_the_lowest_free() {
    let (view, mut facts) = three_vms();
    let mut bench = Bench::new(view, facts.clone());
    bench.round().await;
    let removed = facts.bindings.remove(0);
    bench.facts.send_replace(facts.clone());
    bench.round().await;
    facts.bindings.push(BindingFact {
        eip: ip("203.0.113.50"),
        ..removed
    });
    bench.facts.send_replace(facts);
    bench.round().await;
    let slots: BTreeSet<u32> = bench
        .kernel
        .world()
        .observed
        .bindings
        .values()
        .map(|(_, slot)| *slot)
        .collect();
    assert_eq!(slots, BTreeSet::from([0, 1, 2]));
}

#[tokio::test]
async fn two_eips_with_one_slot_are_told_apart_again() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    bench.round().await;
    bench
        .kernel
        .world()
        .observed
        .bindings
        .get_mut(&ip("203.0.113.11"))
        .unwrap()
        .1 = 0;
    bench.round().await;
    assert_eq!(violations(&bench.kernel.world().observed), BTreeSet::new());
    assert!(bench.report().in_sync);
}

#[tokio::test]
async fn a_leftover_is_removed_unless_it_is_a_half_made_door_in_use() {
    let (view, facts) = three_vms();
    let mut bench = Bench::new(view, facts);
    {
        let observed = &mut bench.kernel.world().observed;
        observed.leftovers.extend([11, 99]);
    }
    let actions = bench.round().await;
    assert!(actions.contains(&Action::RemoveLeftover(99)));
    assert!(!actions.contains(&Action::RemoveLeftover(11)));
    assert!(bench.kernel.world().observed.ports.contains(&11));
}

#[tokio::test(start_paused = true)]
async fn the_loop_follows_facts_and_kernel_events_and_stops_without_a_trace() {
    let (view, facts) = three_vms();
    let kernel = FakeKernel::default();
    kernel.world().view = view;
    let (sender, receiver) = watch::channel(facts);
    let events = Arc::new(Notify::new());
    let (reconciler, mut reports) = Reconciler::new(
        kernel.clone(),
        receiver,
        Arc::new(settings()),
        Arc::clone(&events),
    );
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(reconciler.run(stopped));
    reports
        .wait_for(|report| report.in_sync && report.bindings.len() == 3)
        .await
        .unwrap();

    kernel.world().observed.routes.clear();
    events.notify_one();
    reports
        .wait_for(|report| report.repairs == 3)
        .await
        .unwrap();

    sender.send_modify(|facts| drop(facts.bindings.pop()));
    reports
        .wait_for(|report| report.bindings.len() == 2)
        .await
        .unwrap();

    drop(sender);
    let rounds = reports.borrow().rounds;
    reports
        .wait_for(|report| report.rounds > rounds + 2)
        .await
        .unwrap();
    stop.send_replace(true);
    task.await.unwrap();
    assert_eq!(kernel.world().observed.bindings.len(), 2);
    assert_eq!(kernel.world().observed.ports.len(), 2);
}

#[test]
fn routes_of_two_interfaces_for_one_eip_are_cleaned_up() {
    let (view, facts) = three_vms();
    let desired = desired::compute(&facts, &settings(), &view);
    let mut observed = Observed::default();
    for action in plan(&desired, &observed.clone(), Removal::Allowed) {
        super::super::fake::apply(&mut observed, &action);
    }
    let extra = HostRoute {
        eip: ip("203.0.113.10"),
        vm: ip("10.244.0.1"),
        l3: 12,
    };
    observed.routes.insert(extra.clone());
    assert_eq!(
        plan(&desired, &observed, Removal::Allowed),
        [Action::RemoveRoute(extra)]
    );
}

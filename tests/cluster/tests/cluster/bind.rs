//! Objects in, addresses that work out.

use std::{net::Ipv4Addr, time::Duration};

use eip_cluster_tests::{
    kubevirt,
    world::{CLIENT, PATIENCE},
};
use eip_lab::{echo::Echo, traffic};
use serde_json::json;

use crate::{EIP, ON_N1, ON_N2, cluster};

#[test]
fn a_binding_as_the_older_operator_wrote_it_is_served_and_loses_its_finalizer() {
    let cluster = cluster();
    let pod = cluster.plug("vm1", 0, ON_N1).unwrap();
    let echo = Echo::start(&pod.ns, ON_N1, 7000).unwrap();
    let mut old = kubevirt::binding("sample", EIP, "vm1");
    old["metadata"]["finalizers"] = json!(["virteip.github.com/finlizer"]);
    old["spec"]["jobHistory"] = json!(5);
    old["spec"]["lastHyper"] = json!("192.0.2.99");
    old["spec"]["LastIP"] = json!("10.9.9.9");
    cluster.control.apply(&old).unwrap();
    cluster.wait_reason("sample", "VmNotFound").unwrap();

    cluster.run_vm("vm1", &pod).unwrap();
    cluster.route(EIP, 0).unwrap();
    cluster.wait_reason("sample", "Serving").unwrap();
    let answer = traffic::udp(
        &cluster.client,
        (EIP, 7000).into(),
        64,
        Duration::from_secs(5),
    );
    assert_eq!(answer.unwrap().came_from.ip(), EIP);
    assert_eq!(echo.seen()[0].ip(), CLIENT);

    let stored = cluster
        .control
        .get("eipb", "default", "sample")
        .unwrap()
        .unwrap();
    assert_eq!(stored["spec"]["jobHistory"], 5);
    assert_eq!(stored["metadata"]["finalizers"], serde_json::Value::Null);
    assert_eq!(stored["status"]["node"], "n1");
    assert_eq!(stored["status"]["serving"]["interface"], "pvm1");
    let table = cluster.control.kubectl(&["get", "eipb"]).unwrap();
    for column in ["EIP", "VMI", "VMI-IP", "NODE", "READY", "REASON", "AGE"] {
        assert!(table.contains(column), "{table}");
    }
    assert!(table.contains("Serving"), "{table}");
    let events = cluster.control.kubectl(&["get", "events"]).unwrap();
    assert!(
        events.contains("Serving") && events.contains("VmNotFound"),
        "{events}"
    );

    cluster
        .control
        .kubectl(&["delete", "eipb", "sample", "--timeout=20s"])
        .unwrap();
    eip_lab::wait::wait_until(PATIENCE, "the binding leaves the node", || {
        cluster
            .eipctl(0, &["list", "-o", "json"])
            .is_ok_and(|text| !text.contains(&EIP.to_string()))
    })
    .unwrap();
}

#[test]
fn each_node_programs_its_own_vms_only_and_one_elastic_ip_has_one_holder() {
    let cluster = cluster();
    let (first, second) = (
        cluster.plug("vm1", 0, ON_N1).unwrap(),
        cluster.plug("vm2", 1, ON_N2).unwrap(),
    );
    let other = "203.0.113.20".parse().unwrap();
    cluster.run_vm("vm1", &first).unwrap();
    cluster.run_vm("vm2", &second).unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("one", EIP, "vm1"))
        .unwrap();
    cluster.wait_reason("one", "Serving").unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("two", other, "vm2"))
        .unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("late", EIP, "vm2"))
        .unwrap();
    cluster.wait_reason("two", "Serving").unwrap();
    cluster.wait_reason("late", "Conflict").unwrap();
    for (node, own, not_own) in [(0, EIP, other), (1, other, EIP)] {
        let list = cluster.eipctl(node, &["list", "-o", "json"]).unwrap();
        assert!(list.contains(&own.to_string()), "{list}");
        assert!(!list.contains(&not_own.to_string()), "{list}");
    }
    // The loser gets the address when the holder is gone, and on the other node.
    cluster.control.kubectl(&["delete", "eipb", "one"]).unwrap();
    cluster.wait_reason("late", "Serving").unwrap();
    let list = cluster.eipctl(1, &["list", "-o", "json"]).unwrap();
    assert!(list.contains(&EIP.to_string()), "{list}");
}

#[test]
fn a_plain_pod_is_served_while_it_lives_and_has_an_address_of_its_own() {
    let cluster = cluster();
    let pod = cluster.plug("web", 0, ON_N1).unwrap();
    let _echo = Echo::start(&pod.ns, ON_N1, 7000).unwrap();
    let bind = kubevirt::pod_binding("b", EIP, &pod.name);
    cluster.control.apply(&bind).unwrap();
    cluster.wait_reason("b", "PodNotFound").unwrap();
    cluster.run_pod(&pod, false).unwrap();
    cluster.route(EIP, 0).unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    let patience = Duration::from_mins(1);
    let answer = traffic::udp(&cluster.client, (EIP, 7000).into(), 64, patience);
    assert_eq!(answer.unwrap().came_from.ip(), EIP);

    cluster.delete_pod(&pod).unwrap();
    cluster.wait_reason("b", "PodNotFound").unwrap();
    // Of the same name, and with its node's addresses: nothing that could be translated to.
    cluster.run_pod(&pod, true).unwrap();
    cluster.wait_reason("b", "PodHasNoAddress").unwrap();

    // One of the two, of a kind that is known.
    let other = "203.0.113.40".parse().unwrap();
    let mut both = kubevirt::pod_binding("both", other, "web");
    both["spec"]["vmi"] = json!("vm1");
    let mut neither = kubevirt::binding("neither", other, "vm1");
    neither["spec"].as_object_mut().unwrap().remove("vmi");
    let mut address = kubevirt::pod_binding("address", other, "10.244.1.10");
    address["spec"]["target"]["kind"] = json!("Address");
    for (refused, words) in [
        (both, "one of spec.vmi and spec.target"),
        (neither, "one of spec.vmi and spec.target"),
        (address, "VirtualMachineInstance or Pod"),
    ] {
        let said = format!("{:#}", cluster.control.apply(&refused).unwrap_err());
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn an_edit_takes_the_old_address_out_and_the_new_one_in() {
    let cluster = cluster();
    let pod = cluster.plug("vm1", 0, ON_N1).unwrap();
    cluster.run_vm("vm1", &pod).unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("b", EIP, "vm1"))
        .unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    let new = "203.0.113.77".parse().unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("b", new, "vm1"))
        .unwrap();
    eip_lab::wait::wait_until(PATIENCE, "the new address alone", || {
        cluster
            .eipctl(0, &["list", "-o", "json"])
            .is_ok_and(|text| text.contains(&new.to_string()) && !text.contains(&EIP.to_string()))
    })
    .unwrap();
    cluster.wait_reason("b", "Serving").unwrap();

    // And from one VM to another, on another node.
    let other = cluster.plug("vm2", 1, ON_N2).unwrap();
    cluster.run_vm("vm2", &other).unwrap();
    let edited = kubevirt::binding("b", new, "vm2");
    cluster.control.apply(&edited).unwrap();
    cluster.wait_served_by("b", 1).unwrap();
    eip_lab::wait::wait_until(PATIENCE, "one node alone", || {
        cluster.serves(1, new) && !cluster.serves(0, new)
    })
    .unwrap();
}

#[test]
fn an_address_no_pod_of_the_vm_has_is_never_the_target() {
    let cluster = cluster();
    let pod = cluster.plug("vm1", 0, ON_N1).unwrap();
    let victim = "10.244.1.99".parse().unwrap();
    let lie = kubevirt::running("vm1", "n1", victim);
    cluster.control.apply(&lie).unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("b", EIP, "vm1"))
        .unwrap();
    cluster.wait_reason("b", "AddressUnverified").unwrap();
    let object = cluster
        .control
        .get("vmi", "default", "vm1")
        .unwrap()
        .unwrap();
    let uid = object["metadata"]["uid"].as_str().unwrap();
    cluster.write_pod("vm1", uid, &pod).unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    let stored = cluster
        .control
        .get("eipb", "default", "b")
        .unwrap()
        .unwrap();
    assert_eq!(stored["status"]["vmAddress"], ON_N1.to_string());
    // Another network of the VM, though it is first in the status, is not the pod network.
    let two = json!({
        "spec": {"networks": [
            {"name": "storage", "multus": {"networkName": "storage"}},
            {"name": "default", "pod": {}}
        ]},
        "status": {"interfaces": [
            {"name": "storage", "ipAddress": "192.168.7.7"},
            {"name": "default", "ipAddress": ON_N1}
        ]}
    });
    cluster.patch_vm("vm1", &two).unwrap();
    // What the guest agent empties stays bound.
    cluster
        .patch_vm(
            "vm1",
            &json!({"status": {"nodeName": null, "interfaces": []}}),
        )
        .unwrap();
    eip_lab::wait::pause(Duration::from_secs(2));
    assert_eq!(
        cluster.ready("b").unwrap(),
        ("True".to_owned(), "Serving".to_owned())
    );
    let stored = cluster.binding("b").unwrap().unwrap();
    assert_eq!(stored["status"]["vmAddress"], ON_N1.to_string());
}

#[test]
fn an_elastic_ip_leads_to_the_network_of_the_vm_that_its_binding_names() {
    let mut cluster = cluster();
    let pod = cluster.plug("vm1", 0, ON_N1).unwrap();
    let second = Ipv4Addr::new(10, 244, 1, 80);
    let nic = cluster.plug("nic2", 0, second).unwrap();
    let _echo = Echo::start(&nic.ns, second, 7000).unwrap();
    cluster.run_vm("vm1", &pod).unwrap();
    let two = json!({"spec": {"networks": [
        {"name": "blue", "multus": {"networkName": "blue-net"}}, {"name": "default", "pod": {}}
    ]}});
    cluster.patch_vm("vm1", &two).unwrap();
    let other: Ipv4Addr = "203.0.113.20".parse().unwrap();
    let bind = |name: &str, eip, interface: &str| {
        let mut binding = kubevirt::binding(name, eip, "vm1");
        binding["spec"]["interface"] = json!(interface);
        cluster.control.apply(&binding).unwrap();
    };
    bind("wrong", "203.0.113.30".parse().unwrap(), "red");
    bind("pod-network", other, "default");
    bind("b", EIP, "blue");
    cluster.wait_reason("wrong", "InterfaceNotFound").unwrap();
    cluster.wait_reason("pod-network", "Serving").unwrap();
    // Who may edit the pod may write whatever address there: not believed unless asked for.
    let networks = json!([{"name": "default/blue-net", "interface": "net1", "ips": [second]}]);
    let networks = format!("k8s.v1.cni.cncf.io/network-status={networks}");
    let annotate = [
        "annotate",
        "pod",
        &pod.name,
        "--namespace=default",
        &networks,
    ];
    cluster.control.kubectl(&annotate).unwrap();
    cluster.wait_reason("b", "InterfaceUnverified").unwrap();

    cluster.controller(0).kill().unwrap();
    cluster.controller_flags = vec!["--trust-network-status"];
    cluster.start_controller().unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    cluster.route(EIP, 0).unwrap();
    let answer = traffic::udp(&cluster.client, (EIP, 7000).into(), 64, PATIENCE).unwrap();
    assert_eq!(answer.came_from.ip(), EIP);
    assert_eq!(answer.server_was.ip(), second);
    for (name, address) in [("b", second), ("pod-network", ON_N1)] {
        let stored = cluster.binding(name).unwrap().unwrap();
        assert_eq!(stored["status"]["vmAddress"], address.to_string());
    }
    let mut pods = kubevirt::pod_binding("pods", "203.0.113.40".parse().unwrap(), "web");
    pods["spec"]["interface"] = json!("blue");
    let said = format!("{:#}", cluster.control.apply(&pods).unwrap_err());
    assert!(said.contains("spec.interface is for VMs"), "{said}");
}

#[test]
fn an_agents_token_reports_for_its_own_node_and_grants_nothing() {
    let cluster = cluster();
    let pod = cluster.plug("vm1", 0, ON_N1).unwrap();
    cluster.run_vm("vm1", &pod).unwrap();
    cluster
        .control
        .apply(&kubevirt::binding("b", EIP, "vm1"))
        .unwrap();
    cluster.wait_reason("b", "Serving").unwrap();
    let attempt = |agent: &str, status: serde_json::Value| {
        let pod = format!("agent-{agent}");
        let config = cluster
            .control
            .kubeconfig("kube-eip-agent", Some(&pod))
            .unwrap();
        let patch = json!({ "status": status }).to_string();
        let config = format!("--kubeconfig={}", config.display());
        cluster.control.kubectl_as(&[
            &config,
            "patch",
            "eipb",
            "b",
            "--namespace=default",
            "--subresource=status",
            "--type=merge",
            "--patch",
            &patch,
        ])
    };
    let refusal = |result: anyhow::Result<String>| format!("{:#}", result.unwrap_err());
    let denied = refusal(attempt("n2", json!({"node": "n2"})));
    assert!(denied.contains("granted to another node"), "{denied}");
    let denied = refusal(attempt("n1", json!({"vmAddress": "10.244.1.99"})));
    assert!(denied.contains("only the controller grants"), "{denied}");
    let denied = refusal(attempt("n1", json!({"serving": {"node": "n2"}})));
    assert!(denied.contains("its own node only"), "{denied}");
    let config = cluster
        .control
        .kubeconfig("kube-eip-agent", Some("agent-n1"))
        .unwrap();
    let config = format!("--kubeconfig={}", config.display());
    for what in [
        ["delete", "eipb", "b", "--namespace=default"],
        ["get", "secrets", "--namespace=kube-system", "--output=name"],
        ["get", "pods", "--namespace=default", "--output=name"],
    ] {
        let mut arguments = vec![config.as_str()];
        arguments.extend(what);
        let denied = refusal(cluster.control.kubectl_as(&arguments));
        assert!(denied.contains("forbidden"), "{denied}");
    }
}

#[test]
fn a_router_in_an_object_is_a_peer_of_the_nodes_it_selects() {
    let cluster = cluster();
    let peer = json!({
        "apiVersion": "virteip.github.com/v1", "kind": "BgpPeer",
        "metadata": {"name": "tor"},
        "spec": {
            "peerAddress": "192.0.2.1", "peerAs": 64512, "localAs": 64513,
            "nodeSelector": {"kubevirt.io/schedulable": "true"},
            "bfd": {"multiplier": 5}
        }
    });
    cluster.control.apply(&peer).unwrap();
    for node in 0..2 {
        eip_lab::wait::wait_until(PATIENCE, "the agent knows the peer", || {
            cluster
                .eipctl(node, &["bgp", "-o", "json"])
                .is_ok_and(|text| text.contains("192.0.2.1"))
        })
        .unwrap();
    }
    let mut wrong = peer;
    wrong["spec"]["bfd"] = json!({"multiplayer": 5});
    let refused = format!("{:#}", cluster.control.apply(&wrong).unwrap_err());
    assert!(refused.contains("multiplayer"), "{refused}");
}

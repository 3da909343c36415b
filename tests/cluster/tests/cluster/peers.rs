//! What agents say of their BGP sessions, and what the controller makes of it.

use eip_cluster_tests::{
    bird::{Bird, ROUTER_AS},
    world::{Cluster, PATIENCE},
};
use eip_lab::wait;
use serde_json::{Value, json};

use crate::cluster_with;

fn put_peer(cluster: &Cluster, name: &str, peer_as: &Value) {
    let peer = json!({
        "apiVersion": "virteip.github.com/v1", "kind": "BgpPeer",
        "metadata": {"name": name},
        "spec": {"peerAddress": "192.0.2.1", "peerAs": peer_as, "connectTimeoutSeconds": 2}
    });
    cluster.control.apply(&peer).unwrap();
}

fn wait_status(cluster: &Cluster, name: &str, what: &str, is: impl Fn(&Value) -> bool) {
    let mut last = None;
    wait::wait_until(PATIENCE, what, || {
        last = cluster.control.get("bgpp", "", name).ok().flatten();
        last.as_ref().is_some_and(|peer| is(&peer["status"]))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last:#?}"));
}

fn condition(status: &Value, of: &str, field: &str) -> String {
    let all = status["conditions"].as_array();
    let one = all.and_then(|all| all.iter().find(|one| one["type"] == of));
    let text = one.and_then(|one| one[field].as_str());
    text.unwrap_or_default().to_owned()
}

#[test]
fn a_peer_says_how_many_nodes_have_a_session_and_why_the_others_have_not() {
    let cluster = cluster_with(&["--bgp-local-as=64512"]);
    let nodes = cluster.uplinks();
    // The router knows the first node alone, and closes what comes from the second one.
    let bird = Bird::start(&cluster.router, cluster.dir(), &nodes[..1]).unwrap();
    put_peer(&cluster, "tor", &json!(ROUTER_AS));
    put_peer(&cluster, "bad", &json!("blue"));
    wait_status(&cluster, "bad", "the bad one names its field", |status| {
        condition(status, "Accepted", "status") == "False"
            && condition(status, "Accepted", "message").contains("spec.peerAs")
    });
    wait_status(&cluster, "tor", "one of two nodes", |status| {
        status["sessions"] == "1/2"
            && status["notEstablished"][0]["node"] == "n2"
            && condition(status, "Established", "message").contains("n2: the peer closed")
            && condition(status, "Accepted", "status") == "True"
    });
    let table = cluster.control.kubectl(&["get", "bgppeers"]).unwrap();
    assert!(
        table.contains("ESTABLISHED") && table.contains("1/2"),
        "{table}"
    );
    let table = cluster.control.kubectl(&["get", "eipn"]).unwrap();
    assert!(
        table.contains("SESSIONS") && table.contains("1/1"),
        "{table}"
    );

    let own = cluster.control.get("eipn", "", "n1").unwrap().unwrap();
    assert_eq!(
        own["metadata"]["ownerReferences"][0]["kind"], "Node",
        "{own:#}"
    );
    assert_eq!(own["status"]["peers"][0]["state"], "Established", "{own:#}");
    only_its_own(&cluster);

    drop(bird);
    wait_status(&cluster, "tor", "none of two nodes", |status| {
        status["sessions"] == "0/2"
            && condition(status, "Established", "reason") == "NoneEstablished"
    });
}

/// An agent's token reports for its own node and takes nothing away.
fn only_its_own(cluster: &Cluster) {
    let config = cluster
        .control
        .kubeconfig("kube-eip-agent", Some("agent-n1"));
    let config = format!("--kubeconfig={}", config.unwrap().display());
    let refusal = |arguments: &[&str]| {
        let arguments = [&[config.as_str()], arguments].concat();
        format!("{:#}", cluster.control.kubectl_as(&arguments).unwrap_err())
    };
    let lie = json!({"status": {"sessions": "9/9"}}).to_string();
    let patch = [
        "patch",
        "eipn",
        "n2",
        "--subresource=status",
        "--type=merge",
        "--patch",
        &lie,
    ];
    let denied = refusal(&patch);
    assert!(denied.contains("its own node only"), "{denied}");
    let denied = refusal(&["delete", "eipn", "n1"]);
    assert!(denied.contains("forbidden"), "{denied}");
    let denied = refusal(&["get", "secrets", "--namespace=kube-eip"]);
    assert!(denied.contains("forbidden"), "{denied}");
}

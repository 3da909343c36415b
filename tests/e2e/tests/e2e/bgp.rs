//! The agent beside a real router: BIRD, and once FRR. The client reaches an EIP only because the
//! router has learnt it.
//!
//! Without the routers (Debian: `bird2`, `frr`) these tests fail and say so.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use eip_lab::{
    bird::{Bird, BirdOptions, NODE_AS, ROUTER_AS},
    command,
    daemon::{Daemon, DaemonOptions},
    documents, needs,
    plan::{self, Family, VM1, VM2, eip},
    traffic::{self, PATIENCE, Pace, SILENCE},
    wait::{pause, wait_until},
    world::WorldOptions,
};
use serde_json::{Value, json};

use crate::support::{Stage, at};

/// Of the node's own loopback.
const METRICS_PORT: u16 = 9469;
const VM1_ROUTE: &str = "203.0.113.11/32";
const VM1_ROUTE6: &str = "2001:db8:113::11/128";
const VM2_ROUTE: &str = "203.0.113.12/32";

/// A node with an AS whose router is BIRD.
struct Site {
    stage: Stage,
    bird: Bird,
}

fn daemon_options(more: &[&str]) -> DaemonOptions {
    let asn = format!("--bgp-local-as={NODE_AS}");
    let more = more.iter().map(|flag| (*flag).to_owned());
    DaemonOptions {
        more: [asn].into_iter().chain(more).collect(),
        http_port: Some(METRICS_PORT),
        ..DaemonOptions::default()
    }
}

impl Site {
    /// The agent serves nothing; it has one peer, the router.
    fn raise(bird: &BirdOptions, peer: &str, flags: &[&str]) -> Self {
        needs::program("/usr/sbin/bird").unwrap();
        let stage = Stage::empty(WorldOptions::default(), daemon_options(flags));
        // The session itself is in the node's own name.
        stage.world.leaks().allow_node_traffic();
        let dir = stage.daemon.dir().join("bird");
        let bird = Bird::start(&stage.world.router, &dir, bird).unwrap();
        let site = Self { stage, bird };
        site.put_peer(peer);
        site
    }

    /// With everything at its default, `vm1` and `vm2` served, and the session up.
    fn serving(flags: &[&str]) -> Self {
        let mut site = Self::raise(&BirdOptions::default(), "", flags);
        site.stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
        site.stage.daemon.serve(&VM2, eip::VM2.v4).unwrap();
        site.stage.start_servers();
        site.bird.wait_routes(&[VM1_ROUTE, VM2_ROUTE]).unwrap();
        site
    }

    fn put_peer(&self, more: &str) {
        let text = documents::peer("tor", more);
        self.daemon().documents().write("peer.yaml", &text).unwrap();
    }

    fn daemon(&self) -> &Daemon {
        &self.stage.daemon
    }

    /// Waits for something `eipctl bgp` says about the peer.
    fn settle(&mut self, what: &str, condition: impl Fn(&Value) -> bool) {
        self.stage
            .daemon
            .settle(what, |daemon| condition(&peer(daemon)))
            .unwrap();
    }

    /// The page of metrics.
    fn metrics(&self) -> String {
        let page = || -> io::Result<String> {
            let mut tcp = TcpStream::connect(("127.0.0.1", METRICS_PORT))?;
            tcp.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            let mut page = String::new();
            tcp.read_to_string(&mut page)?;
            Ok(page)
        };
        self.stage.world.node.run(page).unwrap()
    }

    fn client_reaches(&self, eip: impl Into<IpAddr>) {
        traffic::tcp(&self.stage.world.client, at(eip), PATIENCE).unwrap();
    }

    fn client_is_lost(&self, eip: impl Into<IpAddr>) {
        assert!(traffic::tcp(&self.stage.world.client, at(eip), SILENCE).is_err());
    }
}

/// The only peer, as `eipctl bgp` shows it.
fn peer(daemon: &Daemon) -> Value {
    let answer = daemon.ask(&["bgp"]).unwrap_or_default();
    answer["peers"][0].clone()
}

/// Status and reason of one aspect of a binding, as `eipctl get` shows it.
fn condition<'a>(binding: &'a Value, of: &str) -> (&'a str, &'a str) {
    let all = binding["conditions"].as_array();
    let condition = all.and_then(|all| all.iter().find(|one| one["type"] == of));
    let text = |field| condition.and_then(|one| one[field].as_str());
    (
        text("status").unwrap_or_default(),
        text("reason").unwrap_or_default(),
    )
}

#[test]
fn the_client_reaches_an_eip_only_while_the_router_knows_it() {
    let mut site = Site::raise(&BirdOptions::default(), "", &[]);
    site.settle("the session is up", |peer| peer["state"] == "Established");
    site.stage.start_servers();
    site.client_is_lost(eip::VM1.v4);

    site.stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    site.bird.wait_routes(&[VM1_ROUTE]).unwrap();
    site.client_reaches(eip::VM1.v4);
    let is_told = |daemon: &Daemon| {
        let binding = daemon.ask(&["get", "203.0.113.11"]).unwrap_or_default();
        condition(&binding, "Announced") == ("True", "Announced")
            && condition(&binding, "Ready") == ("True", "Serving")
            && binding["peers"] == json!(["tor"])
    };
    let daemon = &mut site.stage.daemon;
    daemon.settle("the binding is ready", is_told).unwrap();
    let route = site.daemon().ask(&["bgp", "routes"]).unwrap()["routes"][0].clone();
    assert_eq!(route["binding"], "default/vm1", "{route}");
    assert_eq!(route["peers"][0]["advertised"], true, "{route}");
    assert!(
        site.bird
            .describe(VM1_ROUTE)
            .unwrap()
            .contains("192.0.2.10")
    );

    // Whenever the node has it no more, the router does not know it any longer.
    site.daemon().documents().remove_binding("vm1").unwrap();
    let map = site.daemon().map("EIP4_V1").display().to_string();
    wait_until(PATIENCE, "the node has forgotten it", || {
        let dump = site
            .daemon()
            .bpftool(&format!("map dump pinned {map}"))
            .unwrap();
        !dump.contains("203,0,113,11")
    })
    .unwrap();
    assert_eq!(site.bird.routes().unwrap(), [""; 0]);
    site.client_is_lost(eip::VM1.v4);
}

#[test]
fn an_ipv6_eip_goes_over_the_same_session() {
    let mut site = Site::raise(&BirdOptions::default(), "", &[]);
    site.stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    site.stage.start_servers();
    site.stage.start_servers_of(Family::V6);
    site.bird.wait_routes(&[VM1_ROUTE]).unwrap();
    site.client_is_lost(eip::VM1.v6);
    site.stage.daemon.serve(&VM1, eip::VM1.v6).unwrap();
    site.bird.wait_routes(&[VM1_ROUTE6, VM1_ROUTE]).unwrap();
    site.client_reaches(eip::VM1.v6);
    site.daemon().documents().remove_binding("vm1-v6").unwrap();
    site.bird.wait_routes(&[VM1_ROUTE]).unwrap();
    site.client_is_lost(eip::VM1.v6);
    site.client_reaches(eip::VM1.v4);
    assert_eq!(peer(site.daemon())["counters"]["lost"], 0);
}

#[test]
fn the_router_never_loses_a_route_over_kill_9_under_traffic() {
    let mut site = Site::serving(&[]);
    let pace = Pace::kilohertz(6);
    let Site { bird, stage } = &mut site;
    let Stage { daemon, world, .. } = stage;
    let (lowest, report) = thread::scope(|scope| {
        let client = &world.client;
        let stream = scope.spawn(move || traffic::stream(client, at(eip::VM1.v4), pace).unwrap());
        pause(Duration::from_millis(300));
        daemon.kill9().unwrap();
        let watch = scope.spawn(|| {
            let mut lowest = usize::MAX;
            while !stream.is_finished() {
                lowest = lowest.min(bird.routes().unwrap().len());
                pause(Duration::from_millis(20));
            }
            (lowest, stream.join().unwrap())
        });
        pause(Duration::from_millis(700));
        daemon.restart().unwrap();
        watch.join().unwrap()
    });
    assert_eq!(lowest, 2, "{}", bird.log());
    assert_eq!((report.lost(), report.duplicates), (0, 0), "{report:?}");
    site.settle("the session is back", |peer| peer["state"] == "Established");
    let is_fresh = || {
        let state = site
            .bird
            .ask(&["show", "protocols", "all", "node"])
            .unwrap();
        !state.contains("Neighbor graceful restart active")
    };
    wait_until(PATIENCE, "nothing is stale any more", is_fresh).unwrap();
    assert_eq!(site.bird.routes().unwrap(), [VM1_ROUTE, VM2_ROUTE]);
}

#[test]
fn what_was_unbound_while_the_agent_was_down_is_forgotten_after_its_start() {
    let mut site = Site::serving(&[]);
    site.stage.daemon.kill9().unwrap();
    site.daemon().documents().remove_binding("vm1").unwrap();
    assert_eq!(site.bird.routes().unwrap(), [VM1_ROUTE, VM2_ROUTE]);
    site.stage.daemon.restart().unwrap();
    site.bird.wait_routes(&[VM2_ROUTE]).unwrap();
    site.client_reaches(eip::VM2.v4);
}

#[test]
fn a_stop_withdraws_and_says_goodbye() {
    let mut site = Site::serving(&[]);
    assert!(site.stage.daemon.stop().unwrap().success());
    site.bird.wait_routes(&[]).unwrap();
    let log = site.bird.log();
    assert!(log.contains("Administrative shutdown"), "{log}");
    assert!(log.contains("kube-eip stops on this node"), "{log}");
}

#[test]
fn a_stop_for_an_upgrade_keeps_the_routes() {
    let mut site = Site::serving(&["--on-exit=keep"]);
    assert!(site.stage.daemon.stop().unwrap().success());
    pause(Duration::from_millis(500));
    assert_eq!(site.bird.routes().unwrap(), [VM1_ROUTE, VM2_ROUTE]);
    site.client_reaches(eip::VM1.v4);
    site.stage.daemon.restart().unwrap();
    site.settle("the session is back", |peer| peer["state"] == "Established");
    assert_eq!(site.bird.routes().unwrap(), [VM1_ROUTE, VM2_ROUTE]);
}

#[test]
fn drain_marks_then_withdraws_and_lasts_over_a_restart_until_undrain() {
    let mut site = Site::serving(&[]);
    let started = site.daemon().eipctl(&["drain", "--grace", "3"]).unwrap();
    assert!(started.status.success(), "{started:?}");
    let is_marked = || site.bird.describe(VM1_ROUTE).unwrap().contains("(65535,0)");
    wait_until(PATIENCE, "routes are marked GRACEFUL_SHUTDOWN", is_marked).unwrap();
    assert_eq!(site.bird.routes().unwrap(), [VM1_ROUTE, VM2_ROUTE]);
    site.client_reaches(eip::VM1.v4);
    site.bird.wait_routes(&[]).unwrap();
    let done = site
        .daemon()
        .eipctl(&["drain", "--grace", "0", "--wait"])
        .unwrap();
    assert!(done.stdout.contains("every route is withdrawn"), "{done:?}");
    let status = site.daemon().eipctl(&["status"]).unwrap().stdout;
    assert!(
        status.contains("1 of 1 sessions established, drained"),
        "{status}"
    );

    site.stage.daemon.kill9().unwrap();
    site.stage.daemon.restart().unwrap();
    site.settle("the session is back", |peer| peer["state"] == "Established");
    pause(Duration::from_millis(500));
    assert_eq!(site.bird.routes().unwrap(), [""; 0]);
    let route = site.daemon().ask(&["bgp", "routes"]).unwrap()["routes"][0].clone();
    assert_eq!(
        route["peers"][0]["remark"], "the node is drained",
        "{route}"
    );

    assert!(site.daemon().eipctl(&["undrain"]).unwrap().status.success());
    site.bird.wait_routes(&[VM1_ROUTE, VM2_ROUTE]).unwrap();
    assert!(!site.bird.describe(VM1_ROUTE).unwrap().contains("(65535,0)"));
}

#[test]
fn a_peer_that_goes_away_and_a_wrong_as_can_be_seen() {
    let wrong = BirdOptions {
        expected_as: Some(64999),
        ..BirdOptions::default()
    };
    let mut site = Site::raise(&wrong, "", &[]);
    site.stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    site.settle("the router's answer is shown", |peer| {
        peer["lastReceived"]["code"] == 2 && peer["lastReceived"]["subcode"] == 2
    });
    let table = site.daemon().eipctl(&["bgp", "peers"]).unwrap().stdout;
    assert!(table.contains("received 2/2"), "{table}");
    let explained = site.daemon().eipctl(&["explain", "203.0.113.11"]).unwrap();
    assert!(!explained.status.success(), "{explained:?}");
    assert!(
        explained.stdout.contains("0 of 1 BGP peers have it"),
        "{explained:?}"
    );
    let binding = site
        .daemon()
        .eipctl(&["get", "203.0.113.11"])
        .unwrap()
        .stdout;
    assert!(
        binding.contains("0 of 1 peers have it: tor: no session"),
        "{binding}"
    );
    let list = site.daemon().ask(&["list"]).unwrap();
    let binding = &list["bindings"][0];
    assert_eq!(condition(binding, "Programmed"), ("True", "Programmed"));
    assert_eq!(condition(binding, "Announced"), ("False", "NobodyTold"));
    assert_eq!(condition(binding, "Ready"), ("False", "NobodyTold"));
    let Site { bird, stage } = site;
    drop(bird);
    let mut stage = stage;
    stage
        .daemon
        .settle("nobody answers", |daemon| {
            peer(daemon)["transportError"].is_string()
        })
        .unwrap();
}

#[test]
fn a_password_has_to_be_right_and_can_be_corrected_in_its_file() {
    let bird = BirdOptions {
        password: Some("s3cret"),
        ..BirdOptions::default()
    };
    let mut site = Site::raise(&bird, "", &[]);
    site.stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    let key = site.daemon().dir().join("tor.key");
    site.put_peer(&format!(
        "  connectTimeoutSeconds: 2\n  passwordFile: {}\n",
        key.display()
    ));
    site.stage
        .daemon
        .settle("a missing file is told", |daemon| {
            let refused = daemon.ask(&["bgp"]).unwrap()["refused"][0]["problem"].clone();
            refused
                .as_str()
                .is_some_and(|text| text.starts_with("spec.passwordFile: "))
        })
        .unwrap();
    fs::write(&key, "wrong\n").unwrap();
    site.settle("no answer with a wrong key", |peer| {
        peer["transportError"].is_string() && peer["state"] != "Established"
    });
    fs::write(&key, "s3cret\n").unwrap();
    site.bird.wait_routes(&[VM1_ROUTE]).unwrap();
    let dump = site.daemon().eipctl(&["dump"]).unwrap().stdout;
    assert!(!dump.contains("s3cret") && !site.daemon().log().contains("s3cret"));
}

#[test]
fn what_is_said_about_routes_follows_the_object_without_a_new_session() {
    let site = Site::serving(&[]);
    let since = peer(site.daemon())["since"].clone();
    site.put_peer(
        "  communities: ['64512:77', no-export, 'rt:64512:9']\n  med: 5\n  nextHop: {ipv4: 192.0.2.77}\n  \
         aggregates: [203.0.113.0/24]\n  rules:\n  \
         - match: {bindings: [vm2]}\n    announce: false\n  - match: {prefixes: [203.0.113.11/32]}\n    \
         set: {communities: ['64512:1:2'], prepend: 2}\n",
    );
    site.bird
        .wait_routes(&["203.0.113.0/24", VM1_ROUTE])
        .unwrap();
    let route = site.bird.describe(VM1_ROUTE).unwrap();
    for expected in [
        "(64512,77)",
        "(65535,65281)",
        "(64512, 1, 2)",
        "(rt, 64512, 9)",
        "BGP.next_hop: 192.0.2.77",
        "BGP.as_path: 64512 64512 64512",
        "BGP.med: 5",
    ] {
        assert!(route.contains(expected), "{expected} in\n{route}");
    }
    let routes = site.daemon().eipctl(&["bgp", "routes"]).unwrap().stdout;
    assert!(
        routes.contains("tor: withheld by spec.rules[0] of the peer"),
        "{routes}"
    );
    site.put_peer("");
    site.bird.wait_routes(&[VM1_ROUTE, VM2_ROUTE]).unwrap();
    let route = site.bird.describe(VM1_ROUTE).unwrap();
    assert!(!route.contains("(64512,77)"), "{route}");
    assert!(route.contains("BGP.next_hop: 192.0.2.10"), "{route}");
    assert_eq!(peer(site.daemon())["since"], since);
    assert_eq!(peer(site.daemon())["counters"]["lost"], 0);
}

/// `vm1`, after a live migration to this node that ended so many seconds ago.
fn migrated_vm1(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ended = now.unwrap().as_secs() - seconds;
    let format = ["-u", "-d", &format!("@{ended}"), "+%FT%TZ"];
    let ended = command::output(Command::new("date").args(format)).unwrap();
    let vm = documents::vm(&VM1, plan::NODE_NAME, "Running");
    format!(
        "{vm}  migrationState:\n    targetNode: {}\n    completed: true\n    endTimestamp: \"{}\"\n",
        plan::NODE_NAME,
        ended.trim()
    )
}

#[test]
fn a_vm_that_has_just_come_is_preferred_here_and_after_a_while_no_more() {
    let two_ways = BirdOptions {
        other_node: true,
        ..BirdOptions::default()
    };
    // As usual both nodes are as far away; a newcomer is nearer.
    let preference = "  prepend: 1\n  preferred:\n    seconds: 3600\n    set: {prepend: 0, \
                      communities: [\"64512:200\"]}\n";
    let mut site = Site::raise(&two_ways, preference, &[]);
    let dir = site.daemon().dir().join("other-node");
    let client = &site.stage.world.client;
    let _other = Bird::start_other_node(client, &dir, VM1_ROUTE).unwrap();
    let routes = |bird: &Bird| bird.ask(&["show", "route", "for", VM1_ROUTE, "all"]);
    let best = |bird: &Bird| bird.ask(&["show", "route", "primary", "for", VM1_ROUTE, "all"]);
    let wait = |what: &str, is_so: &dyn Fn() -> bool| {
        wait_until(Duration::from_mins(1), what, is_so)
            .unwrap_or_else(|error| panic!("{error:#}: {:?}", routes(&site.bird)));
    };
    wait("the other node is believed", &|| {
        best(&site.bird).is_ok_and(|best| best.contains("64513 64513"))
    });

    let documents = site.daemon().documents().clone();
    documents.write("vmi-vm1.yaml", &migrated_vm1(0)).unwrap();
    documents.put_binding("vm1", eip::VM1.v4, "vm1").unwrap();
    wait("the newcomer is preferred while both announce", &|| {
        let (best, all) = (best(&site.bird), routes(&site.bird));
        best.is_ok_and(|best| {
            let path = best.lines().find(|line| line.contains("as_path"));
            path.is_some_and(|path| path.trim() == "BGP.as_path: 64512")
                && best.contains("(64512,200)")
        }) && all.is_ok_and(|all| all.contains("64513 64513"))
    });
    site.stage.start_servers();
    site.client_reaches(eip::VM1.v4);
    let since = peer(site.daemon())["since"].clone();

    // Its hour is over in a few seconds.
    documents
        .write("vmi-vm1.yaml", &migrated_vm1(3595))
        .unwrap();
    wait("the mark goes", &|| {
        routes(&site.bird).is_ok_and(|all| {
            all.contains("BGP.as_path: 64512 64512") && !all.contains("(64512,200)")
        })
    });
    let all = routes(&site.bird).unwrap();
    assert!(all.contains("64513 64513"), "both go on: {all}");
    assert_eq!(peer(site.daemon())["since"], since, "the same session");
}

#[test]
fn a_bad_peer_and_a_removed_one_leave_the_others_alone() {
    let mut site = Site::serving(&[]);
    let since = peer(site.daemon())["since"].clone();
    let documents = site.daemon().documents().clone();
    let series = |site: &Site, peer: &str| {
        let label = format!("peer=\"{peer}\"");
        site.metrics().matches(&label).count()
    };
    assert_ne!(series(&site, "tor"), 0);
    assert!(
        site.metrics()
            .contains("eip_bgp_session_up{peer=\"tor\"} 1")
    );
    let bad = documents::peer("bad", "  communities: [blue]\n");
    documents.write("bad.yaml", &bad).unwrap();
    site.stage
        .daemon
        .settle("the bad one is refused with its field", |daemon| {
            let status = daemon.ask(&["status"]).unwrap();
            let refused = status["refusedDocuments"][0]["problem"].clone();
            refused
                .as_str()
                .is_some_and(|text| text.contains("spec.communities: \"blue\""))
        })
        .unwrap();
    let other = documents::peer("elsewhere", "").replace("192.0.2.1", "192.0.2.77");
    documents.write("bad.yaml", &other).unwrap();
    site.stage
        .daemon
        .settle("two peers", |daemon| {
            daemon.ask(&["bgp"]).unwrap()["peers"]
                .as_array()
                .map(Vec::len)
                == Some(2)
        })
        .unwrap();
    assert_ne!(series(&site, "elsewhere"), 0);
    documents.remove("bad.yaml").unwrap();
    site.stage
        .daemon
        .settle("one peer", |daemon| {
            daemon.ask(&["bgp"]).unwrap()["peers"]
                .as_array()
                .map(Vec::len)
                == Some(1)
        })
        .unwrap();
    assert_eq!(peer(site.daemon())["since"], since);
    assert_eq!(series(&site, "elsewhere"), 0, "they went with the peer");

    documents.remove("peer.yaml").unwrap();
    site.bird.wait_routes(&[]).unwrap();
    let log = site.bird.log();
    assert!(log.contains("Peer de-configured"), "{log}");
}

#[test]
fn annotations_of_the_node_name_a_peer_too() {
    let mut site = Site::raise(&BirdOptions::default(), "", &[]);
    let documents = site.daemon().documents().clone();
    documents.remove("peer.yaml").unwrap();
    let node = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n  annotations:\n    \
         virteip.github.com/bgp-peers-0-peer-ip: 192.0.2.1\n    \
         virteip.github.com/bgp-peers-0-peer-asn: '{ROUTER_AS}'\n    \
         virteip.github.com/bgp-peers-0-node-asn: '{NODE_AS}'\n    \
         virteip.github.com/bgp-peers-0-src-ip: 192.0.2.10\n",
        plan::NODE_NAME
    );
    documents.write("node.yaml", &node).unwrap();
    site.stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    site.bird.wait_routes(&[VM1_ROUTE]).unwrap();
    assert_eq!(peer(site.daemon())["name"], "annotation-0");
}

/// FRR's bgpd in the router's namespace, without zebra: it only has to learn.
struct Frr {
    daemon: Child,
    dir: std::path::PathBuf,
}

impl Frr {
    fn start(stage: &Stage) -> Self {
        let dir = stage.daemon.dir().join("frr");
        fs::create_dir_all(&dir).unwrap();
        let config = format!(
            "hostname tor\nrouter bgp {ROUTER_AS}\n bgp router-id 192.0.2.1\n \
             no bgp ebgp-requires-policy\n bgp graceful-restart stalepath-time 360\n \
             neighbor 192.0.2.10 remote-as {NODE_AS}\n neighbor 192.0.2.10 timers 3 9\n \
             neighbor 192.0.2.10 passive\n"
        );
        fs::write(dir.join("bgpd.conf"), config).unwrap();
        command::output(Command::new("chown").args(["-R", "frr:frr"]).arg(&dir)).unwrap();
        // The agent's directory is root's alone.
        let path = dir.display().to_string();
        let daemon = stage
            .world
            .router
            .command("/usr/lib/frr/bgpd")
            .args(["-u", "frr", "-g", "frr", "-A", "127.0.0.1", "-P", "0", "-n"])
            .args(["--vty_socket", &path, "-f", &format!("{path}/bgpd.conf")])
            .args([
                "-i",
                &format!("{path}/bgpd.pid"),
                "-z",
                &format!("{path}/zserv.api"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { daemon, dir }
    }

    fn received(&self) -> Option<u64> {
        let mut vtysh = Command::new("vtysh");
        vtysh.arg("--vty_socket").arg(&self.dir);
        let line = "show bgp ipv4 unicast summary json";
        let answer = command::output(vtysh.args(["-c", line])).ok()?;
        let summary: Value = serde_json::from_str(&answer).ok()?;
        summary["peers"]["192.0.2.10"]["pfxRcd"].as_u64()
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn frr_learns_keeps_over_kill_9_and_forgets() {
    needs::program("/usr/lib/frr/bgpd").unwrap();
    let mut stage = Stage::empty(WorldOptions::default(), daemon_options(&[]));
    stage.world.leaks().allow_node_traffic();
    let frr = Frr::start(&stage);
    let text = documents::peer("tor", "");
    stage.daemon.documents().write("peer.yaml", &text).unwrap();
    stage.daemon.serve(&VM1, eip::VM1.v4).unwrap();
    stage.daemon.serve(&VM2, eip::VM2.v4).unwrap();
    let wait = |count: u64| {
        wait_until(
            Duration::from_mins(1),
            &format!("FRR has {count} routes"),
            || frr.received() == Some(count),
        )
        .unwrap();
    };
    wait(2);
    stage.daemon.kill9().unwrap();
    stage.daemon.documents().remove_binding("vm1").unwrap();
    pause(Duration::from_millis(500));
    stage.daemon.restart().unwrap();
    wait(1);
    stage.daemon.documents().remove_binding("vm2").unwrap();
    wait(0);
}

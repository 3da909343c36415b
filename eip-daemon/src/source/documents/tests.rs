//! What people write, and what they are told.

use super::*;
use crate::model::{Announce, DeliveryChoice, VmInterface, VmPhase};

mod peers;

fn read_yaml(text: &str) -> Reading {
    read(Path::new("some.yaml"), text)
}

fn object(namespace: &str, name: &str) -> ObjectName {
    ObjectName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// The only problem of a text that has no good object.
fn problem(text: &str) -> String {
    let reading = read_yaml(text);
    assert_eq!(reading.objects, [], "{text}");
    assert_eq!(reading.refused.len(), 1, "{text}: {:?}", reading.refused);
    reading.refused.into_iter().next().unwrap().problem
}

fn binding_of(text: &str) -> BindingFact {
    let reading = read_yaml(text);
    assert_eq!(reading.refused, []);
    match reading.objects.into_iter().next().unwrap() {
        Object::Binding(fact) => fact,
        other => panic!("{other:?}"),
    }
}

fn vm_of(text: &str) -> VmFact {
    let reading = read_yaml(text);
    assert_eq!(reading.refused, []);
    match reading.objects.into_iter().next().unwrap() {
        Object::Vm(fact) => fact,
        other => panic!("{other:?}"),
    }
}

const SEED_BINDING: &str = "
apiVersion: virteip.github.com/v1
kind: EipBinding
metadata:
  name: eipbinding-sample
  labels: {app.kubernetes.io/name: eipbinding}
  finalizers: [virteip.github.com/finlizer]
spec:
  vmi: cirros
  eip: 192.168.137.51
  jobHistory: 5
  lastHyper: 192.168.1.7
  LastIP: 10.244.0.9
status:
  active: []
";

#[test]
fn an_object_of_the_older_operator_works_unchanged() {
    let fact = binding_of(SEED_BINDING);
    assert_eq!(fact.name, object("default", "eipbinding-sample"));
    assert_eq!(fact.vm, object("default", "cirros"));
    assert_eq!(fact.eip.to_string(), "192.168.137.51");
    assert_eq!(
        (fact.created, fact.generation, fact.primary),
        (None, 0, false)
    );
    assert_eq!(fact.origin.unwrap().document, 1);
}

#[test]
fn every_field_of_a_binding_is_read() {
    let fact = binding_of(
        "{apiVersion: virteip.github.com/v1, kind: EipBinding, metadata: {name: b, namespace: n, \
         generation: 4, creationTimestamp: '1970-01-01T00:01:40Z'}, \
         spec: {vmi: v, eip: '2001:db8::5', primary: true, delivery: neigh, announce: both}}",
    );
    assert_eq!(fact.name, object("n", "b"));
    assert_eq!(fact.vm, object("n", "v"));
    assert_eq!(fact.eip.to_string(), "2001:db8::5");
    assert_eq!(
        (fact.created, fact.generation, fact.primary),
        (Some(100), 4, true)
    );
    assert_eq!(fact.delivery, Some(DeliveryChoice::Neigh));
    assert_eq!(fact.announce, Some(Announce::Both));
}

#[test]
fn generated_nulls_mean_not_given() {
    let fact = binding_of(
        "apiVersion: virteip.github.com/v1\nkind: EipBinding\n\
         metadata: {name: b, creationTimestamp: null, namespace: null}\n\
         spec: {vmi: v, eip: 203.0.113.5, delivery: null}\nstatus:\n",
    );
    assert_eq!(fact.name, object("default", "b"));
    assert_eq!((fact.created, fact.delivery), (None, None));
}

const REAL_VM: &str = "
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  annotations: {kubevirt.io/latest-observed-api-version: v1}
  creationTimestamp: '2026-01-31T12:00:00Z'
  finalizers: [kubevirt.io/virtualMachineControllerFinalize]
  generation: 12
  labels: {kubevirt.io/nodeName: node-a}
  name: vm1
  namespace: tenant
  ownerReferences:
  - {apiVersion: kubevirt.io/v1, kind: VirtualMachine, name: vm1, uid: 1-2, controller: true}
  uid: 0d0c8a2a-1111-2222-3333-444455556666
spec:
  domain:
    devices:
      interfaces:
      - {bridge: {}, name: storage}
      - {masquerade: {}, name: default}
  networks:
  - {multus: {networkName: storage-net}, name: storage}
  - name: default
    pod: {}
status:
  conditions:
  - {lastProbeTime: null, status: 'True', type: Ready}
  interfaces:
  - {infoSource: 'domain, guest-agent', ipAddress: 10.1.1.9, name: storage, queueCount: 1}
  - infoSource: domain, guest-agent
    interfaceName: eth1
    ipAddress: fd00:10::7
    ipAddresses: ['fd00:10::7', 10.244.1.7]
    mac: 02:00:00:00:00:01
    name: default
    podInterfaceName: eth0
  - {infoSource: guest-agent, interfaceName: docker0, ipAddress: 172.17.0.1, ipAddresses: [172.17.0.1]}
  nodeName: node-a
  phase: Running
";

#[test]
fn a_vm_is_read_with_its_pod_network_first() {
    let fact = vm_of(REAL_VM);
    assert_eq!(fact.name, object("tenant", "vm1"));
    assert_eq!(
        fact.uid.as_deref(),
        Some("0d0c8a2a-1111-2222-3333-444455556666")
    );
    assert_eq!(fact.created, Some(1_769_860_800));
    assert_eq!(
        (fact.phase, fact.node.as_deref()),
        (VmPhase::Running, Some("node-a"))
    );
    let addresses = ["fd00:10::7", "10.244.1.7"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    assert_eq!(
        fact.interfaces[0],
        VmInterface {
            name: "default".to_owned(),
            addresses
        }
    );
    assert_eq!(fact.interfaces[1].name, "storage");
    assert_eq!(
        fact.interfaces.len(),
        2,
        "what only the guest knows is left out"
    );
}

fn vm_with(spec: &str, interfaces: &str) -> VmFact {
    vm_of(&format!(
        "apiVersion: kubevirt.io/v1alpha3\nkind: VirtualMachineInstance\nmetadata: {{name: v}}\n\
         spec: {spec}\nstatus: {{phase: Running, nodeName: n, interfaces: {interfaces}}}\n"
    ))
}

#[test]
fn a_pod_network_without_address_hides_no_other_one_in_its_place() {
    let networks = "{networks: [{name: default, pod: {}}, {name: x, multus: {networkName: y}}]}";
    let fact = vm_with(networks, "[{name: x, ipAddress: 10.1.1.1}]");
    assert_eq!(
        fact.interfaces[0],
        VmInterface {
            name: "default".to_owned(),
            addresses: vec![]
        }
    );
    let fact = vm_with(
        "{networks: [{name: d, pod: null}]}",
        "[{name: d, ipAddress: 10.1.1.1}]",
    );
    assert_eq!(fact.interfaces[0].addresses.len(), 1);
    let replaced = "{networks: [{name: a, multus: {}}, {name: b, multus: {default: true}}]}";
    let fact = vm_with(
        replaced,
        "[{name: a, ipAddress: 10.1.1.1}, {name: b, ipAddress: 10.2.2.2}]",
    );
    assert_eq!(fact.interfaces[0].name, "b");
}

#[test]
fn an_object_written_by_hand_may_leave_names_out_and_a_guest_may_not() {
    let fact = vm_with("{}", "[{ipAddress: 10.1.1.1}]");
    assert_eq!(fact.interfaces[0].addresses.len(), 1);
    let fact = vm_with("{}", "[{ipAddress: 10.1.1.1, infoSource: guest-agent}]");
    assert_eq!(fact.interfaces, []);
    let fact = vm_with(
        "{}",
        "[{ipAddress: 10.1.1.1}, {name: default, ipAddress: 10.2.2.2}]",
    );
    assert_eq!(fact.interfaces.len(), 1);
    assert_eq!(fact.interfaces[0].name, "default");
}

#[test]
fn phases_are_told_apart() {
    for (text, phase) in [
        ("''", VmPhase::Pending),
        ("Pending", VmPhase::Pending),
        ("Scheduling", VmPhase::Pending),
        ("Scheduled", VmPhase::Pending),
        ("WaitingForSync", VmPhase::Pending),
        ("Running", VmPhase::Running),
        ("Succeeded", VmPhase::Final),
        ("Failed", VmPhase::Final),
        ("Unknown", VmPhase::Unknown),
        ("Dreaming", VmPhase::Unknown),
    ] {
        let fact = vm_of(&format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: v}}, \
             status: {{phase: {text}}}}}"
        ));
        assert_eq!(fact.phase, phase, "{text}");
    }
}

#[test]
fn a_live_migration_that_came_here_says_when() {
    let arrived = |migration: &str| {
        vm_of(&format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: v}}, \
             status: {{phase: Running, nodeName: here, migrationState: {{{migration}}}}}}}"
        ))
        .arrived
    };
    let ready = "targetNodeDomainReadyTimestamp: '1970-01-01T00:01:00Z'";
    let ended = "endTimestamp: '1970-01-01T00:02:00Z'";
    for (migration, expected) in [
        (format!("targetNode: here, {ready}, {ended}"), Some(60)),
        (format!("targetNode: here, {ended}"), Some(120)),
        (format!("targetNode: there, {ready}"), None),
        (format!("targetNode: here, failed: true, {ended}"), None),
        ("targetNode: here, endTimestamp: soon".to_owned(), None),
        ("targetNode: here".to_owned(), None),
    ] {
        assert_eq!(arrived(&migration), expected, "{migration}");
    }
}

#[test]
fn addresses_are_read_as_they_are_reported() {
    let fact = vm_with("{}", "[{name: default, ipAddress: '', ipAddresses: []}]");
    assert_eq!(fact.interfaces[0].addresses, Vec::<std::net::IpAddr>::new());
    let fact = vm_with(
        "{}",
        "[{name: d, ipAddress: 10.0.0.5/24, ipAddresses: [10.0.0.5, 10.0.0.6]}]",
    );
    assert_eq!(fact.interfaces[0].addresses.len(), 2);
}

#[test]
fn a_bad_document_hurts_nobody_else() {
    let text = format!(
        "{SEED_BINDING}---\nkind: [unclosed\n---\n# only a comment\n---\n{REAL_VM}...\n---\nkind: ConfigMap\n"
    );
    let reading = read_yaml(&text);
    assert_eq!(reading.objects.len(), 2);
    let places: Vec<usize> = reading.refused.iter().map(|r| r.origin.document).collect();
    assert_eq!(places, [2, 4], "documents of comments only do not count");
}

#[test]
fn every_wrong_field_is_named_with_its_line_and_its_cure() {
    let head = "apiVersion: virteip.github.com/v1\nkind: EipBinding\nmetadata:\n  name: b\nspec:\n";
    for (name, text, expected) in [
        (
            "missing eip",
            format!("{head}  vmi: v\n"),
            "line 5: spec.eip is missing: the elastic IP, like 203.0.113.10",
        ),
        (
            "missing vmi",
            format!("{head}  eip: 203.0.113.5\n"),
            "line 5: spec.vmi is missing: the name of the VirtualMachineInstance",
        ),
        (
            "no address",
            format!("{head}  vmi: v\n  eip: 10.0.0.300\n"),
            "line 7: spec.eip: \"10.0.0.300\" is not an IP address like 203.0.113.10",
        ),
        (
            "prefix",
            format!("{head}  vmi: v\n  eip: 10.0.0.3/32\n"),
            "line 7: spec.eip: \"10.0.0.3/32\" is not a single address: leave the prefix length out",
        ),
        (
            "typing error",
            format!("{head}  vm: v\n  eip: 10.0.0.3\n"),
            "line 6: spec.vm: no such field (did you mean \"vmi\"?); known are eip, vmi, target, \
             interface, primary, delivery, announce, lastHyper, LastIP, jobHistory",
        ),
        (
            "lane",
            format!("{head}  vmi: v\n  eip: 10.0.0.3\n  delivery: fast\n"),
            "line 8: spec.delivery: \"fast\" is not one of auto, peer, neigh, stack, xdp",
        ),
        (
            "announcement",
            format!("{head}  vmi: v\n  eip: 10.0.0.3\n  announce: arp\n"),
            "line 8: spec.announce: \"arp\" is not one of bgp, l2, both, none",
        ),
        (
            "wrong type",
            format!("{head}  vmi: v\n  eip: 10.0.0.3\n  primary: sometimes\n"),
            "line 8: spec.primary: invalid type: string \"sometimes\", expected a boolean",
        ),
        (
            "VM of another namespace",
            format!("{head}  vmi: other/v\n  eip: 10.0.0.3\n"),
            "line 6: spec.vmi: \"other/v\" is not the name of a VirtualMachineInstance in the \
             binding's own namespace",
        ),
        (
            "two targets",
            format!(
                "{head}  vmi: v\n  eip: 10.0.0.3\n  target: {{kind: Address, name: 10.244.0.1}}\n"
            ),
            "line 6: spec.vmi: \"v\" is not allowed beside spec.target: a binding has one of the two",
        ),
        (
            "a target that is no address",
            format!("{head}  eip: 10.0.0.3\n  target:\n    kind: Address\n    name: vm-a\n"),
            "line 9: spec.target.name: \"vm-a\" is not an IP address like 10.244.1.10",
        ),
        (
            "a target of an unknown kind",
            format!("{head}  eip: 10.0.0.3\n  target:\n    kind: Service\n    name: web\n"),
            "line 8: spec.target.kind: \"Service\" is not one of VirtualMachineInstance, Pod, Address",
        ),
        (
            "no name",
            "apiVersion: virteip.github.com/v1\nkind: EipBinding\nspec: {}\n".to_owned(),
            "line 1: metadata.name is missing: every object has one",
        ),
        (
            "path as name",
            "\nkind: EipBinding\napiVersion: virteip.github.com/v1\n\
                          metadata: {name: ../../etc/passwd}\n"
                .to_owned(),
            "line 4: metadata.name: \"../../etc/passwd\" is not a lower-case name of letters, \
             digits, '-' and '.'",
        ),
        (
            "time",
            format!(
                "{}  creationTimestamp: yesterday\n  name: b\n",
                &head[..head.find("  name").unwrap()]
            ),
            "line 4: metadata.creationTimestamp: \"yesterday\" is not a time like \
             2026-01-31T12:00:00Z",
        ),
    ] {
        assert_eq!(problem(&text), expected, "{name}");
    }
}

#[test]
fn a_document_that_is_no_object_of_ours_is_told_what_would_be() {
    for (name, text, expected) in [
        (
            "unknown kind",
            "apiVersion: v1\nkind: ConfigMap\n".to_owned(),
            "line 2: kind \"ConfigMap\" is not known here: known are EipBinding (virteip.github.com/v1), \
             VirtualMachineInstance (kubevirt.io/v1, kubevirt.io/v1alpha3), Pod (v1), Node (v1), \
             BgpPeer (virteip.github.com/v1), ServiceCIDR (networking.k8s.io/v1, networking.k8s.io/v1beta1)",
        ),
        (
            "nearly a kind",
            "apiVersion: virteip.github.com/v1\nkind: EIPBinding\n".to_owned(),
            "line 2: kind \"EIPBinding\" is not known here (did you mean \"EipBinding\"?): known \
             are EipBinding (virteip.github.com/v1), VirtualMachineInstance (kubevirt.io/v1, \
             kubevirt.io/v1alpha3), Pod (v1), Node (v1), BgpPeer (virteip.github.com/v1), \
             ServiceCIDR (networking.k8s.io/v1, \
             networking.k8s.io/v1beta1)",
        ),
        (
            "version",
            "kind: EipBinding\napiVersion: virteip.github.com/v2\n".to_owned(),
            "line 2: apiVersion of EipBinding is virteip.github.com/v1, not \
             \"virteip.github.com/v2\"",
        ),
        (
            "no object",
            "just a sentence\n".to_owned(),
            "line 1: kind is missing: one of EipBinding (virteip.github.com/v1), \
             VirtualMachineInstance (kubevirt.io/v1, kubevirt.io/v1alpha3), Pod (v1), Node (v1), \
             BgpPeer (virteip.github.com/v1), ServiceCIDR (networking.k8s.io/v1, networking.k8s.io/v1beta1)",
        ),
        (
            "syntax",
            "\n\na: b: c\n".to_owned(),
            "line 3: not valid YAML: mapping values are not allowed in this context",
        ),
        (
            "key twice",
            "kind: a\nkind: b\n".to_owned(),
            "line 1: not valid YAML: duplicate entry with key \"kind\"",
        ),
    ] {
        assert_eq!(problem(&text), expected, "{name}");
    }
}

#[test]
fn lines_are_those_of_the_file() {
    let text = format!("# head\n---{SEED_BINDING}---\n\na: b: c\n");
    let reading = read_yaml(&text);
    assert_eq!(reading.objects.len(), 1);
    let line = 1 + text.lines().position(|line| line == "a: b: c").unwrap();
    assert!(
        reading.refused[0]
            .problem
            .starts_with(&format!("line {line}: ")),
        "{reading:?}"
    );
}

#[test]
fn a_refused_document_is_named_where_its_name_can_be_read() {
    let reading = read_yaml(
        "apiVersion: virteip.github.com/v1\nkind: EipBinding\nmetadata: {name: b, namespace: n}\n",
    );
    assert_eq!(reading.refused[0].name, Some(object("n", "b")));
}

#[test]
fn a_list_is_its_items() {
    let text = "
apiVersion: v1
kind: List
items:
- {apiVersion: virteip.github.com/v1, kind: EipBinding, metadata: {name: a}, spec: {vmi: v, eip: 203.0.113.5}}
- {apiVersion: virteip.github.com/v1, kind: EipBinding, metadata: {name: b}, spec: {vmi: v, eip: nonsense}}
- {apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: v}}
metadata: {resourceVersion: ''}
";
    let reading = read_yaml(text);
    assert_eq!(reading.objects.len(), 2);
    assert_eq!(reading.refused.len(), 1);
    assert!(
        reading.refused[0]
            .problem
            .contains("items[1]: spec.eip: \"nonsense\"")
    );
    assert_eq!(reading.refused[0].name, Some(object("default", "b")));
}

#[test]
fn json_is_read_and_its_mistakes_are_told_by_line() {
    let good = r#"{
	"apiVersion": "virteip.github.com/v1", "kind": "EipBinding", "metadata": {"name": "b"},
	"spec": {"vmi": "v", "eip": "203.0.113.5"}
}"#;
    let reading = read(Path::new("some.json"), good);
    assert_eq!((reading.objects.len(), reading.refused.len()), (1, 0));
    let bad = read(Path::new("some.json"), &good.replace("203.0.113.5", "x"));
    assert!(
        bad.refused[0]
            .problem
            .starts_with("line 3: spec.eip: \"x\""),
        "{bad:?}"
    );
    let cut = read(Path::new("some.json"), &good[..60]);
    assert!(
        cut.refused[0].problem.starts_with("line 2: not valid JSON"),
        "{cut:?}"
    );
}

#[test]
fn markers_are_recognised_only_at_the_start_of_a_line() {
    let text = "--- {a: 1}\n---\t\n# nothing\n---\r\nb: '--- x'\r\n ---\r\n---c: d\n";
    let sources = split(text);
    let texts: Vec<&str> = sources.iter().map(|source| source.text.trim()).collect();
    assert_eq!(texts, ["{a: 1}", "b: '--- x'\r\n ---\r\n---c: d"]);
    assert_eq!(split("\u{feff}%YAML 1.2\n---\na: 1\n").len(), 1);
    assert_eq!(split("").len(), 0);
}

proptest::proptest! {
    #[test]
    fn nothing_a_file_can_hold_is_a_crash(text in "(?s).{0,200}") {
        read_yaml(&text);
        read(Path::new("some.json"), &text);
    }

    #[test]
    fn no_truncation_or_mutation_of_an_object_is_a_crash(
        cut in 0..REAL_VM.len(), position in 0..REAL_VM.len(), byte in proptest::char::range(' ', '~'),
    ) {
        read_yaml(&REAL_VM[..cut]);
        let mut text = REAL_VM.to_owned();
        text.replace_range(position..=position, &byte.to_string());
        read_yaml(&text);
    }
}

#[test]
fn nodes_and_service_ranges_say_what_is_internal() {
    let reading = read(
        Path::new("nets.yaml"),
        "apiVersion: v1\nkind: Node\nmetadata: {name: hv}\n\
         spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:1::/64']}\n\
         ---\napiVersion: v1\nkind: Node\nmetadata: {name: old}\nspec: {podCIDR: 10.244.2.0/24}\n\
         ---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\n\
         spec: {cidrs: [10.96.0.0/12]}\n\
         ---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: bad}\n\
         spec: {cidrs: [10.96.0.0/99]}\n",
    );
    let nets: Vec<Vec<String>> = reading
        .objects
        .iter()
        .map(|object| match object {
            Object::Node(fact, _) | Object::ServiceCidr(fact) => {
                fact.nets.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        nets,
        [
            vec!["10.244.1.0/24", "fd00:1::/64"],
            vec!["10.244.2.0/24"],
            vec!["10.96.0.0/12"]
        ]
    );
    assert_eq!(reading.refused.len(), 1);
    let problem = &reading.refused[0].problem;
    assert!(problem.contains("10.96.0.0/99"), "{problem}");
}

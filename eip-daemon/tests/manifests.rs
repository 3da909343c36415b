//! The shipped manifests and the command lines they make.
#![cfg(test)]

use std::{collections::BTreeMap, fs, path::Path};

use clap::{CommandFactory as _, Parser as _};
use eip_daemon::{
    cli::{Cli, Command},
    config::{Discovered, resolve_agent, resolve_controller},
};
use serde::Deserialize as _;
use serde_yaml_ng::Value;

/// Every document of a manifest.
fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/kubernetes")
        .join(file);
    let text = fs::read_to_string(path).unwrap();
    serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

fn of_kind(file: &str, kind: &str) -> Value {
    let mut all = documents(file).into_iter();
    all.find(|document| document["kind"] == kind).unwrap()
}

/// The command line a pod has, with its variables as flags: those of the `ConfigMap` get what `settings`
/// says, those of the pod itself something plausible.
fn command_line(file: &str, kind: &str, settings: &BTreeMap<&str, &str>) -> Vec<String> {
    let object = of_kind(file, kind);
    let container = &object["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].as_sequence().unwrap();
    let mut line = vec!["eip-daemon".to_owned()];
    line.extend(
        arguments
            .iter()
            .map(|word| word.as_str().unwrap().to_owned()),
    );
    let command = Cli::command();
    let verb = command.find_subcommand(&line[1]).unwrap();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for variable in container["env"].as_sequence().unwrap() {
        let name = variable["name"].as_str().unwrap().to_owned();
        let value = match &variable["value"] {
            Value::String(text) => known.iter().fold(text.clone(), |text, (name, value)| {
                text.replace(&format!("$({name})"), value)
            }),
            _ => match variable["valueFrom"]["configMapKeyRef"]["key"].as_str() {
                Some(key) => (*settings.get(key).unwrap_or_else(|| panic!("{key}"))).to_owned(),
                None => "node-1".to_owned(),
            },
        };
        let flag = verb
            .get_arguments()
            .find(|flag| flag.get_env().is_some_and(|env| env == name.as_str()));
        match flag {
            // An empty variable of a list is one that is not set.
            Some(flag) => line.push(format!("--{}={value}", flag.get_long().unwrap())),
            None => assert!(!name.starts_with("EIP_"), "{name} is nobody's variable"),
        }
        known.insert(name, value);
    }
    line
}

/// What the older operator's `ConfigMap` says.
fn older_settings() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("svc_net", "10.96.0.0/16"),
        ("pod_net", "10.244.0.0/16"),
        ("eip_net", "192.168.137.0/24"),
        ("eip_gw_ip", "192.168.137.1"),
        ("eip_gw_dev", "eth1"),
        ("log_level", "debug"),
    ])
}

#[test]
fn the_older_operators_settings_start_an_agent() {
    let line = command_line("agent.yaml", "DaemonSet", &older_settings());
    let Command::Agent(args) = Cli::parse_from(&line).command else {
        panic!("{line:?}");
    };
    let (node, options) = resolve_agent(&args, &Discovered::default()).unwrap();
    let settings = &node.settings;
    assert_eq!(settings.uplinks, ["eth1"]);
    assert_eq!(settings.gateway4.unwrap().to_string(), "192.168.137.1");
    assert_eq!(settings.eip_cidrs[0].to_string(), "192.168.137.0/24");
    for net in ["10.244.0.0/16", "10.96.0.0/16"] {
        let net = net.parse().unwrap();
        assert!(settings.internal_nets.contains(&net), "{net}");
    }
    assert_eq!(options.source.to_string(), "kube");
}

#[test]
fn the_shipped_settings_leave_open_what_can_be_found_out() {
    let config = of_kind("config.yaml", "ConfigMap");
    let keys: Vec<&str> = config["data"]
        .as_mapping()
        .unwrap()
        .keys()
        .map(|key| key.as_str().unwrap())
        .collect();
    let mut shipped: BTreeMap<&str, &str> = keys
        .iter()
        .map(|key| (*key, config["data"][*key].as_str().unwrap()))
        .collect();
    assert_eq!(
        shipped["eip_net"], "",
        "nobody's addresses are ours to choose"
    );
    let line = command_line("agent.yaml", "DaemonSet", &shipped);
    let Command::Agent(args) = Cli::parse_from(&line).command else {
        panic!("{line:?}");
    };
    assert!(args.node.uplinks.iter().all(String::is_empty));
    shipped.insert("eip_net", "203.0.113.0/24");
    let line = command_line("controller.yaml", "Deployment", &shipped);
    let Command::Controller(args) = Cli::parse_from(&line).command else {
        panic!("{line:?}");
    };
    let options = resolve_controller(&args, "host").unwrap();
    assert_eq!(options.identity, "node-1");
}

#[test]
fn the_password_file_of_the_example_is_a_key_of_the_mounted_secret() {
    let agent = of_kind("agent.yaml", "DaemonSet");
    let pod = &agent["spec"]["template"]["spec"];
    let named = |list: &Value, name: &str| {
        let mut entries = list.as_sequence().unwrap().iter();
        entries.find(|entry| entry["name"] == name).unwrap().clone()
    };
    let volume = named(&pod["volumes"], "bgp");
    let mount = named(&pod["containers"][0]["volumeMounts"], "bgp");
    assert_eq!(
        volume["secret"]["optional"], true,
        "not every cluster has passwords"
    );
    assert_eq!(mount["readOnly"], true);
    let example = of_kind("../examples/bgppeer.yaml", "BgpPeer");
    let path = Path::new(example["spec"]["passwordFile"].as_str().unwrap());
    let directory = path.parent().unwrap().to_str();
    assert_eq!(directory, mount["mountPath"].as_str());
}

#[test]
fn every_manifest_is_in_the_kustomization_and_every_image_is_ours() {
    let resources = documents("kustomization.yaml")[0]["resources"].clone();
    let listed: Vec<&str> = resources
        .as_sequence()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
    for file in fs::read_dir(dir).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "kustomization.yaml" || listed.contains(&&*name),
            "{name}"
        );
    }
    for (file, kind) in [
        ("agent.yaml", "DaemonSet"),
        ("controller.yaml", "Deployment"),
    ] {
        let pod = &of_kind(file, kind)["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(container["image"], "kube-eip");
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["capabilities"]["drop"][0], "ALL");
        for probe in ["livenessProbe", "readinessProbe"] {
            assert!(
                container[probe]["httpGet"]["path"].is_string(),
                "{file}: {probe}"
            );
        }
    }
}

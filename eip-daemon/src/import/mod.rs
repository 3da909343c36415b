//! `eip-daemon import kube-eip`: what an older agent translates on this node, as bindings of ours.
//!
//! ```text
//! files, iptables-save, ipset, ip ─> evidence ─> takeover ─> bindings (printed, or written)
//!                                        └────────────────> removal (commands, printed)
//! ```
//!
//! Reads and nothing else: no rule, set, route or address is touched, and bindings are written only
//! where `--write` says so. The programs the older agent used are run here too, because its rules are in
//! their words; the agent itself runs none.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    cli::{ImportArgs, ImportPrint},
    desired::pod_addresses,
    model::{BindingFact, ObjectName, TargetKind, VmFact},
    source::local::{self, BindRequest, LocalError, Target},
};

mod evidence;
mod removal;
mod takeover;

#[cfg(test)]
mod tests;

use evidence::{Evidence, Record};
use takeover::{Finding, Pair, Takeover};

/// Where the commands that save rules are, and the family of commands each belongs to. The legacy one
/// comes second: without a table of its own loaded it says nothing, and loads none.
const SAVERS: [(&str, &str); 2] = [
    ("iptables-nft-save", "iptables-nft"),
    ("iptables-legacy-save", "iptables-legacy"),
];

/// What was found and done.
#[derive(Debug, Default)]
pub struct Imported {
    /// For standard output.
    pub output: String,
    /// For people.
    pub report: String,
    /// Something could not be taken over.
    pub is_partial: bool,
}

/// Looks, decides, and writes where it is told to.
///
/// # Errors
/// The objects or the directory named cannot be read.
pub fn run(args: &ImportArgs) -> Result<Imported, LocalError> {
    let mut evidence = look(&args.metadata_dir);
    let Takeover { pairs, findings } = takeover::decide(&evidence);
    evidence.findings.extend(findings);
    let vms = match &args.objects {
        Some(path) => local::vms(path)?,
        None => Vec::new(),
    };
    let steps = removal::steps(&evidence, &pairs);
    let mut imported = Imported::default();
    let mut bound = Vec::new();
    for pair in &pairs {
        let request = request(pair, args.objects.is_some().then_some(&vms));
        bound.extend(request.map_err(|left_out| evidence.findings.push(left_out)));
    }
    let mut lines = String::new();
    if let Some(directory) = &args.write {
        let existing = local::bindings(directory)?;
        for request in &bound {
            match put(directory, request, &existing)? {
                Ok(line) => say(&mut lines, &line),
                Err(left_out) => evidence.findings.push(left_out),
            }
        }
    } else if args.print == ImportPrint::Bindings {
        for request in &bound {
            imported.output += &local::manifest(request);
        }
    }
    let commands = removal::render(&steps);
    if args.print == ImportPrint::Removal {
        imported.output.clone_from(&commands);
    }
    imported.report = report(&evidence, &bound, args.write.as_deref(), &lines, &commands);
    imported.is_partial = evidence.findings.iter().any(Finding::is_left_out);
    Ok(imported)
}

/// The binding for a pair: to the VM that has the address if objects were given, else to the address.
fn request(pair: &Pair, vms: Option<&Vec<VmFact>>) -> Result<BindRequest, Finding> {
    let (namespace, target) = match vms {
        None => ("default".to_owned(), Target::Address(pair.vm)),
        Some(vms) => {
            let mut those = vms
                .iter()
                .filter(|vm| pod_addresses(vm).any(|address| address == pair.vm));
            let found = (those.next(), those.next());
            let (Some(vm), None) = found else {
                let how_many = if found.0.is_some() {
                    "several VMs have"
                } else {
                    "no VM has"
                };
                let text = format!("{how_many} the address {} among the objects given", pair.vm);
                return Err(Finding::left_out(pair.to_string(), text));
            };
            (vm.name.namespace.clone(), Target::from(&vm.name))
        }
    };
    Ok(BindRequest {
        name: ObjectName {
            namespace,
            name: local::object_name(pair.eip),
        },
        eip: pair.eip,
        target,
        primary: pair.is_primary,
        delivery: None,
        announce: None,
    })
}

/// Writes a binding unless the directory has it. The inner error is one that hurts no other binding.
fn put(
    directory: &Path,
    request: &BindRequest,
    existing: &[BindingFact],
) -> Result<Result<String, Finding>, LocalError> {
    let eip = request.eip;
    if let Some(fact) = existing.iter().find(|fact| fact.eip == eip) {
        let origin = fact.origin.as_ref().map(ToString::to_string);
        let place = origin.unwrap_or_default();
        // A binding to the VM by its name says more than one to its address.
        let is_same = request.target.is_of(fact)
            || (fact.kind == TargetKind::Vm && matches!(request.target, Target::Address(_)));
        return Ok(if is_same {
            Ok(format!("{eip} is bound in {place} already"))
        } else {
            let text = format!("{place} binds it to {}", fact.vm.name);
            Err(Finding::left_out(eip.to_string(), text))
        });
    }
    let path = local::bind(directory, request)?;
    Ok(Ok(format!("{eip}: wrote {}", path.display())))
}

fn report(
    evidence: &Evidence,
    bound: &[BindRequest],
    directory: Option<&Path>,
    lines: &str,
    commands: &str,
) -> String {
    let mut text = String::new();
    if evidence.is_empty() {
        say(&mut text, "there is nothing of kube-eip on this node");
        return text;
    }
    for request in bound {
        say(
            &mut text,
            &format!("{} -> {}", request.eip, request.target.name()),
        );
    }
    for finding in &evidence.findings {
        say(&mut text, &finding.to_string());
    }
    text += lines;
    if directory.is_none() {
        say(
            &mut text,
            "nothing was written: --write DIR puts the bindings there",
        );
    }
    if !commands.is_empty() {
        say(
            &mut text,
            "\nto hand over and to remove kube-eip, after a look at each line:\n",
        );
        text += commands;
    }
    text
}

fn say(text: &mut String, line: &str) {
    let _never_fails = writeln!(text, "{line}");
}

/// Everything there is to see on this node.
fn look(metadata_dir: &Path) -> Evidence {
    let mut evidence = Evidence::default();
    records(metadata_dir, &mut evidence);
    for (program, family) in SAVERS {
        if let Some(text) = output(program, &[], &mut evidence, false) {
            evidence.take_rules(family, &text);
        }
    }
    if !evidence.knows_rules {
        let text =
            "neither iptables-nft-save nor iptables-legacy-save can be run: install iptables";
        evidence.findings.push(Finding::left_out("rules", text));
    }
    if let Some(text) = output("ipset", &["save"], &mut evidence, true) {
        evidence.take_sets(&text);
    }
    if let Some(text) = output("ip", &["-json", "rule"], &mut evidence, true) {
        evidence.take_policy(&text);
    }
    let table = removal::TABLE.to_string();
    // Fails where the table does not exist, which is what it is for.
    if let Some(text) = output(
        "ip",
        &["route", "show", "table", &table],
        &mut evidence,
        false,
    ) {
        evidence.has_table = !text.trim().is_empty();
    }
    if let Some(text) = output("ip", &["-json", "-4", "address"], &mut evidence, true) {
        evidence.take_addresses(&text);
    }
    let names = fs::read_to_string("/etc/iproute2/rt_tables").unwrap_or_default();
    evidence.names_table = names.lines().any(removal::is_table_name);
    evidence
}

/// What a program printed. One that is missing or fails is a finding where it should have worked.
fn output(
    program: &str,
    arguments: &[&str],
    evidence: &mut Evidence,
    is_needed: bool,
) -> Option<String> {
    let problem = match Command::new(program).args(arguments).output() {
        Ok(Output { status, stdout, .. }) if status.success() => {
            return Some(String::from_utf8_lossy(&stdout).into_owned());
        }
        Ok(Output { status, stderr, .. }) => {
            format!("{status}: {}", String::from_utf8_lossy(&stderr).trim())
        }
        Err(error) => error.to_string(),
    };
    if is_needed {
        let line = format!("`{program} {}`", arguments.join(" "));
        evidence.findings.push(Finding::left_out(line, problem));
    }
    None
}

/// The files in which the older agent writes down what it has bound.
fn records(directory: &Path, evidence: &mut Evidence) {
    let mut left_out = |path: &Path, error: &dyn std::fmt::Display| {
        let finding = Finding::left_out(path.display().to_string(), error.to_string());
        evidence.findings.push(finding);
    };
    let mut paths: Vec<PathBuf> = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return left_out(directory, &error),
    };
    paths.retain(|path| path.to_string_lossy().ends_with("metadata"));
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        match fs::read_to_string(&path) {
            Ok(text) => match Record::read(&text) {
                Ok(record) => found.push((path, record)),
                Err(problem) => left_out(&path, &problem),
            },
            Err(error) => left_out(&path, &error),
        }
    }
    evidence.records = found;
}

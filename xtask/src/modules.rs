//! `cargo xtask modules`: data flows one way through the daemon, and so do its imports.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::command::workspace_root;

/// Checks that the daemon's modules import only what stands before them in the flow of data.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// What each module of the flow may import from its own crate. Modules that are not listed are the
/// edge (flags, sockets, supervision) and may import any of these.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("clock", &[]),
    ("source", &["model", "clock"]),
    ("desired", &["model"]),
    ("dataplane", &["model", "clock"]),
    ("announce", &["model"]),
    ("report", &["model"]),
    (
        "reconcile",
        &["model", "desired", "dataplane", "announce", "report"],
    ),
];

/// Modules at the outermost edge, and the only ones that may import them.
const IMPORTED_BY: &[(&str, &[&str])] = &[
    ("main", &[]),
    // The verbs of `eip-daemon` take their own flags; everything behind them takes checked values.
    (
        "cli",
        &[
            "agent", "check", "cleanup", "config", "import", "logging", "lib", "main",
        ],
    ),
    ("http", &["agent", "lib", "main"]),
];

/// Who reads the wall clock, which anybody may set, and what for. Deadlines come from `Instant` and, where
/// the kernel or another process has to know them, from `CLOCK_BOOTTIME`.
const WALL_CLOCK: &[(&str, &str)] = &[
    ("announce/bgp/driver/mod.rs", "since when, for people"),
    ("announce/bgp/driver/peer.rs", "since when, for people"),
    ("announce/l2/mod.rs", "since when, for people"),
    (
        "announce/peering/drain.rs",
        "a drain lasts over restarts of the machine",
    ),
    (
        "announce/peering/mod.rs",
        "a VM that has just come is preferred; a clock that is set ends that",
    ),
    ("announce/peering/task.rs", "the same"),
    ("controller/lease.rs", "renewTime, which nobody compares"),
    ("controller/tell.rs", "lastTransitionTime"),
    (
        "feedback/node.rs",
        "since when, for people; the controller asks only whether it is another time",
    ),
    ("ctl/bgp.rs", "the drain's end, for people"),
    ("ctl/follow.rs", "times of samples, for people"),
    ("ctl/state.rs", "times of samples, for people"),
    ("feedback.rs", "lastTransitionTime"),
    (
        "source/files.rs",
        "how old a file is; one too fresh is read again",
    ),
    (
        "source/kube/heartbeat.rs",
        "renewTime, which nobody compares",
    ),
    ("source/kube/mod.rs", "when a VM came, see announce/peering"),
    ("source/local.rs", "creationTimestamp"),
];

/// How it is read.
const WALL_CLOCK_CALLS: &[&str] = &[
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    "Utc::now",
    "CLOCK_REALTIME",
];

pub(crate) fn run(_args: &Args) -> Result<()> {
    check()?;
    println!("imports of eip-daemon go one way");
    Ok(())
}

/// An error that lists every import against the flow.
pub(crate) fn check() -> Result<()> {
    let root = workspace_root().join("eip-daemon/src");
    let mut wrong = Vec::new();
    for file in rust_files(&root)? {
        let inside = file.strip_prefix(&root).unwrap_or(&file);
        if inside
            .iter()
            .any(|part| part == "tests" || part == "tests.rs" || part == "bin")
        {
            continue;
        }
        let module = top_module(inside);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let has_reason = WALL_CLOCK.iter().any(|(of, _)| Path::new(of) == inside);
        for line in wall_clock(&text).into_iter().filter(|_| !has_reason) {
            let inside = inside.display();
            wrong.push(format!(
                "\n  eip-daemon/src/{inside}:{line}: reads the wall clock: use Instant or clock::boot_time"
            ));
        }
        for (line, imported) in imports(&text) {
            if !is_allowed(&module, &imported) {
                let inside = inside.display();
                wrong.push(format!(
                    "\n  eip-daemon/src/{inside}:{line}: {module} imports {imported}"
                ));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "against the flow of data, or by a clock that is set (xtask/src/modules.rs has the rules):{}",
        wrong.concat()
    );
}

fn is_allowed(module: &str, imported: &str) -> bool {
    let listed = |list: &[(&str, &'static [&'static str])], name: &str| {
        list.iter()
            .find(|(of, _)| *of == name)
            .map(|(_, others)| *others)
    };
    let down = listed(MAY_IMPORT, module).is_none_or(|may| may.contains(&imported));
    let edge = listed(IMPORTED_BY, imported).is_none_or(|by| by.contains(&module));
    module == imported || (down && edge)
}

/// `reconcile/plan.rs` belongs to `reconcile`.
fn top_module(inside: &Path) -> String {
    let first = inside.iter().next().unwrap_or_default();
    Path::new(first)
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Lines that read the wall clock.
fn wall_clock(text: &str) -> Vec<usize> {
    let lines = code(text).lines().zip(1..);
    let reads = |line: &str| WALL_CLOCK_CALLS.iter().any(|call| line.contains(call));
    lines
        .filter(|(line, _)| reads(line.split("//").next().unwrap_or(line)))
        .map(|(_, number)| number)
        .collect()
}

/// A file up to its unit tests, which may use anything.
fn code(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().unwrap_or(text)
}

/// The modules that a file names after `crate::`, with their lines: outside comments, and up to the
/// unit tests, which may use anything.
fn imports(text: &str) -> Vec<(usize, String)> {
    let code: Vec<&str> = code(text)
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (at, name) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + name.len()..];
        let heads = match rest.strip_prefix('{') {
            Some(group) => group_heads(group),
            None => vec![head(rest)],
        };
        // Names with a capital are items of the crate root, not modules.
        let modules = heads
            .into_iter()
            .filter(|name| name.starts_with(char::is_lowercase));
        found.extend(modules.map(|name| (line, name)));
    }
    found
}

/// The first name of a path.
fn head(path: &str) -> String {
    path.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The first names in the group `crate::{...}`, whose opening brace is behind us.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = vec![head(group)];
    let mut depth = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => heads.push(head(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("list {}", dir.display()))?
            .path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{imports, is_allowed, top_module, wall_clock};

    fn modules_in(text: &str) -> Vec<String> {
        imports(text)
            .into_iter()
            .map(|(_, module)| module)
            .collect()
    }

    #[test]
    fn imports_are_found_in_groups_and_in_paths() {
        let text = "use crate::{\n    dataplane::{DataPlane, bpf::Maps},\n    model::Facts,\n};\n\
                    fn f(report: crate::report::Report) {}\n";
        assert_eq!(modules_in(text), ["dataplane", "model", "report"]);
        assert_eq!(imports(text).last().map(|(line, _)| *line), Some(5));
    }

    #[test]
    fn comments_items_other_crates_and_tests_are_no_imports() {
        let text = "//! [`crate::cli`]\nuse crate::EBPF_OBJECT;\nuse other_crate::cli;\n\
                    #[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n";
        assert!(modules_in(text).is_empty());
    }

    #[test]
    fn the_wall_clock_is_seen_outside_comments_and_tests() {
        let text = "// SystemTime::now()\nlet a = jiff::Timestamp::now();\nlet b = Instant::now();\n\
                    #[cfg(test)]\nmod tests {\n    SystemTime::now();\n}\n";
        assert_eq!(wall_clock(text), [2]);
    }

    #[test]
    fn flow_goes_one_way() {
        for (module, imported, allowed) in [
            ("reconcile", "dataplane", true),
            ("dataplane", "reconcile", false),
            ("model", "report", false),
            ("source", "model", true),
            ("source", "source", true),
            ("ctl", "report", true),
            ("ctl", "cli", false),
            ("supervisor", "http", false),
            ("agent", "http", true),
            ("check", "cli", true),
        ] {
            assert_eq!(
                is_allowed(module, imported),
                allowed,
                "{module} imports {imported}"
            );
        }
    }

    #[test]
    fn files_in_a_folder_belong_to_its_module() {
        assert_eq!(top_module(Path::new("reconcile/plan.rs")), "reconcile");
        assert_eq!(top_module(Path::new("model.rs")), "model");
    }
}

//! The last facts in a file, for a start without the API server.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::model::Facts;

/// Layout of the file; another one is not read.
const LAYOUT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Snapshot<F> {
    layout: u32,
    node: String,
    facts: F,
}

/// The facts of the last run, marked as incomplete; none where there is no file, or where it is
/// another node's or another layout's.
pub(super) fn load(path: &Path, node: &str) -> io::Result<Facts> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Facts::default()),
        Err(error) => return Err(error),
    };
    let snapshot: Snapshot<serde_json::Value> = serde_json::from_slice(&text)?;
    if snapshot.layout != LAYOUT || snapshot.node != node {
        return Ok(Facts::default());
    }
    let facts: Facts = serde_json::from_value(snapshot.facts)?;
    Ok(Facts {
        complete: false,
        ..facts
    })
}

/// Replaces the file: whatever happens, the old or the new one stands there whole.
pub(super) fn save(path: &Path, node: &str, facts: &Facts) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    let snapshot = Snapshot {
        layout: LAYOUT,
        node: node.to_owned(),
        facts: with_secrets(facts)?,
    };
    file.write_all(&serde_json::to_vec(&snapshot)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

/// What is redacted for everybody else: the file is root's alone, and useless without.
fn with_secrets(facts: &Facts) -> io::Result<serde_json::Value> {
    let mut value = serde_json::to_value(facts)?;
    for (index, node) in facts.nodes.iter().enumerate() {
        for (key, secret) in &node.annotations {
            value["nodes"][index]["annotations"][key] = secret.0.clone().into();
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NetFact, NodeFact, ObjectName, Secret};

    fn facts() -> Facts {
        Facts {
            nets: vec![NetFact {
                kind: "Node".to_owned(),
                name: ObjectName {
                    namespace: "default".to_owned(),
                    name: "n".to_owned(),
                },
                nets: vec!["10.244.0.0/16".parse().unwrap()],
                origin: None,
            }],
            nodes: vec![NodeFact {
                name: "n".to_owned(),
                annotations: [("k/bgp-peers-0-password".to_owned(), Secret("s".to_owned()))].into(),
                ..NodeFact::default()
            }],
            complete: true,
            ..Facts::default()
        }
    }

    #[test]
    fn what_was_saved_is_read_as_incomplete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/facts.json");
        assert_eq!(load(&path, "n").unwrap(), Facts::default());
        save(&path, "n", &facts()).unwrap();
        let read = load(&path, "n").unwrap();
        assert_eq!((read.nets, read.complete), (facts().nets, false));
        assert_eq!(read.nodes, facts().nodes);
    }

    #[test]
    fn what_another_node_saved_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts.json");
        save(&path, "other", &facts()).unwrap();
        assert_eq!(load(&path, "n").unwrap(), Facts::default());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_a_later_save_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts.json");
        save(&path, "n", &facts()).unwrap();
        let text = fs::read(&path).unwrap();
        for length in [0, 1, text.len() / 2, text.len() - 1] {
            fs::write(&path, &text[..length]).unwrap();
            assert!(load(&path, "n").is_err(), "cut at {length}");
        }
        save(&path, "n", &facts()).unwrap();
        assert!(load(&path, "n").is_ok());
    }
}

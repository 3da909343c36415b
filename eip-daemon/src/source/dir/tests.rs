//! The directory followed live.

use tempfile::TempDir;

use super::*;

/// Generous: a reading takes milliseconds, a loaded machine seconds.
const PATIENCE: Duration = Duration::from_secs(8);

fn binding(name: &str) -> String {
    format!(
        "apiVersion: virteip.github.com/v1\nkind: EipBinding\nmetadata: {{name: {name}}}\n\
         spec: {{vmi: v, eip: 203.0.113.5}}\n"
    )
}

async fn wait_for(facts: &mut watch::Receiver<Facts>, expected: &[&str]) -> Facts {
    let is_there = |facts: &Facts| {
        let names = facts.bindings.iter().map(|fact| fact.name.name.as_str());
        facts.complete && names.eq(expected.iter().copied())
    };
    let found = time::timeout(PATIENCE, facts.wait_for(is_there)).await;
    found
        .expect("facts in time")
        .expect("a source that runs")
        .clone()
}

#[tokio::test]
async fn changes_are_followed_as_they_happen() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), binding("a")).unwrap();
    let (mut facts, task) = DirSource::start(directory.path().to_owned());
    wait_for(&mut facts, &["a"]).await;

    fs::write(path("b.yaml"), binding("b")).unwrap();
    wait_for(&mut facts, &["a", "b"]).await;

    fs::write(path(".c.tmp"), binding("c")).unwrap();
    fs::rename(path(".c.tmp"), path("c.yaml")).unwrap();
    wait_for(&mut facts, &["a", "b", "c"]).await;

    fs::write(path("b.yaml"), "kind: [").unwrap();
    let is_refused = |facts: &Facts| !facts.refused.is_empty();
    time::timeout(PATIENCE, facts.wait_for(is_refused))
        .await
        .unwrap()
        .unwrap();
    wait_for(&mut facts, &["a", "b", "c"]).await;

    fs::remove_file(path("a.yaml")).unwrap();
    fs::remove_file(path("b.yaml")).unwrap();
    let last = wait_for(&mut facts, &["c"]).await;
    assert_eq!(last.refused, []);

    drop(facts);
    time::timeout(PATIENCE, task)
        .await
        .expect("an end without readers")
        .unwrap();
}

#[tokio::test]
async fn a_directory_that_appears_later_is_followed_too() {
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("later");
    let (mut facts, task) = DirSource::start(path.clone());
    time::timeout(PATIENCE, facts.wait_for(|facts| !facts.refused.is_empty()))
        .await
        .unwrap()
        .unwrap();
    assert!(!facts.borrow().complete);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), binding("a")).unwrap();
    wait_for(&mut facts, &["a"]).await;
    fs::write(path.join("b.yaml"), binding("b")).unwrap();
    wait_for(&mut facts, &["a", "b"]).await;
    task.abort();
}

#[tokio::test]
async fn an_idle_directory_publishes_nothing() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("a.yaml"), binding("a")).unwrap();
    let (mut facts, task) = DirSource::start(directory.path().to_owned());
    wait_for(&mut facts, &["a"]).await;
    fs::write(directory.path().join("a.yaml"), binding("a")).unwrap();
    let changed = time::timeout(Duration::from_millis(400), facts.changed()).await;
    assert!(changed.is_err(), "the same content is no news");
    task.abort();
}

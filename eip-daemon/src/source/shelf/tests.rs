//! Files come, change, break and go.

use std::{
    ffi::CString,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use tempfile::TempDir;

use super::*;

struct Bench {
    directory: TempDir,
    shelf: Shelf,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let shelf = Shelf::new(directory.path().to_owned());
        Self {
            directory,
            shelf,
            now: Instant::now(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn scan(&mut self) -> Facts {
        self.shelf.scan(self.now);
        self.shelf.facts()
    }

    /// Scans until nothing is pending.
    fn settle(&mut self) -> Facts {
        self.scan();
        self.now += GRACE;
        let facts = self.scan();
        assert_ne!(self.shelf.state(), State::Pending);
        facts
    }
}

fn binding(name: &str) -> String {
    format!(
        "---\napiVersion: virteip.github.com/v1\nkind: EipBinding\nmetadata: {{name: {name}}}\n\
         spec: {{vmi: v, eip: 203.0.113.5}}\n"
    )
}

fn names(facts: &Facts) -> Vec<&str> {
    facts
        .bindings
        .iter()
        .map(|fact| fact.name.name.as_str())
        .collect()
}

#[test]
fn an_empty_directory_is_complete_and_a_missing_one_is_not() {
    let mut bench = Bench::new();
    assert!(bench.scan().complete);
    let mut missing = Shelf::new(bench.path("missing"));
    missing.scan(bench.now);
    assert!(!missing.facts().complete);
    assert!(
        missing.facts().refused[0]
            .problem
            .starts_with("the directory cannot be read: ")
    );
    fs::create_dir(bench.path("missing")).unwrap();
    missing.scan(bench.now);
    assert!(missing.facts().complete && missing.facts().refused.is_empty());
}

#[test]
fn a_directory_that_vanishes_keeps_its_facts() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &binding("a"));
    let before = bench.scan();
    fs::rename(
        bench.directory.path(),
        bench.directory.path().with_extension("away"),
    )
    .unwrap();
    let after = bench.settle();
    fs::rename(
        bench.directory.path().with_extension("away"),
        bench.directory.path(),
    )
    .unwrap();
    assert_eq!((after.bindings, after.complete), (before.bindings, true));
    assert_eq!(after.refused.len(), 1);
}

#[test]
fn only_files_meant_for_us_are_read() {
    let mut bench = Bench::new();
    for name in [
        "b.yaml",
        "a.yml",
        "c.json",
        ".hidden.yaml",
        "d.yaml~",
        "#e.yaml#",
        "f.txt",
        "g",
    ] {
        let text = format!("{{\"kind\": \"from {name}\"}}");
        bench.write(name, &text);
    }
    fs::create_dir(bench.path("sub")).unwrap();
    fs::write(bench.path("sub/x.yaml"), binding("x")).unwrap();
    let facts = bench.scan();
    let read: Vec<_> = facts
        .refused
        .iter()
        .map(|refused| refused.origin.file.file_name().unwrap())
        .collect();
    assert_eq!(read, ["a.yml", "b.yaml", "c.json"]);
}

#[test]
fn a_deleted_file_is_gone_after_the_grace() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &binding("a"));
    assert_eq!(names(&bench.scan()), ["a"]);
    fs::remove_file(bench.path("a.yaml")).unwrap();
    assert_eq!(names(&bench.scan()), ["a"]);
    assert_eq!(bench.shelf.state(), State::Pending);
    bench.now += GRACE;
    assert_eq!(names(&bench.scan()), [""; 0]);
}

#[test]
fn a_file_that_is_deleted_and_written_again_changes_nothing() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &binding("a"));
    let before = bench.scan();
    fs::remove_file(bench.path("a.yaml")).unwrap();
    bench.scan();
    bench.write("a.yaml", &binding("a"));
    bench.now += GRACE;
    assert_eq!(bench.scan(), before);
    assert_ne!(bench.shelf.state(), State::Pending);
}

#[test]
fn a_half_written_file_takes_nothing_away() {
    let mut bench = Bench::new();
    let text = format!("{}{}", binding("a"), binding("b"));
    bench.write("a.yaml", &text);
    let before = bench.scan();
    for cut in 0..text.len() {
        bench.write("a.yaml", &text[..cut]);
        assert_eq!(names(&bench.scan()), ["a", "b"], "cut at {cut}");
    }
    bench.write("a.yaml", &text);
    assert_eq!(bench.scan(), before);
}

#[test]
fn a_document_taken_out_of_a_file_is_gone_after_the_grace_and_a_new_one_is_there_at_once() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &format!("{}{}", binding("a"), binding("b")));
    bench.scan();
    bench.write("a.yaml", &binding("b"));
    assert_eq!(names(&bench.settle()), ["b"]);
    bench.write("b.yaml", &binding("c"));
    assert_eq!(names(&bench.scan()), ["b", "c"]);
}

#[test]
fn a_typing_error_in_an_edit_keeps_the_last_good_version_in_force() {
    let mut bench = Bench::new();
    let text = format!("{}{}", binding("a"), binding("b"));
    bench.write("a.yaml", &text);
    bench.scan();
    for broken in [
        text.replace("{name: b}", "{name: b"),
        text.replace("name: b", "name: B"),
    ] {
        bench.write("a.yaml", &broken);
        let facts = bench.settle();
        assert_eq!(names(&facts), ["a", "b"], "{broken}");
        assert_eq!(facts.refused.len(), 1);
        let problem = &facts.refused[0].problem;
        assert!(
            problem.ends_with("; in force as they last were: EipBinding default/b"),
            "{problem}"
        );
        bench.write("a.yaml", &format!("# another edit\n{broken}"));
        assert_eq!(names(&bench.settle()), ["a", "b"], "{broken}");
    }
    bench.write("a.yaml", &binding("a"));
    let facts = bench.settle();
    assert_eq!((names(&facts), facts.refused.len()), (vec!["a"], 0));
}

#[test]
fn a_binding_can_be_removed_beside_a_document_that_was_always_broken() {
    let mut bench = Bench::new();
    bench.write(
        "a.yaml",
        &format!("{}{}---\nkind: Pod\n", binding("a"), binding("b")),
    );
    bench.scan();
    bench.write("a.yaml", &format!("{}---\nkind: Pod\n", binding("a")));
    assert_eq!(names(&bench.settle()), ["a"]);
}

#[test]
fn the_first_of_two_documents_of_one_object_wins() {
    let mut bench = Bench::new();
    bench.write("2.yaml", &binding("a"));
    bench.write("1.yaml", &format!("{}{}", binding("a"), binding("a")));
    let facts = bench.scan();
    assert_eq!(names(&facts), ["a"]);
    assert_eq!(
        facts.bindings[0].origin.as_ref().unwrap().file,
        bench.path("1.yaml")
    );
    assert_eq!(facts.refused.len(), 2);
    let problem = &facts.refused[1].problem;
    let first = format!(
        "EipBinding default/a stands already in {}",
        bench.path("1.yaml").display()
    );
    assert!(problem.starts_with(&first), "{problem}");
    fs::remove_file(bench.path("1.yaml")).unwrap();
    let facts = bench.settle();
    assert_eq!((names(&facts), facts.refused.len()), (vec!["a"], 0));
}

#[test]
fn an_object_can_move_to_another_file() {
    let mut bench = Bench::new();
    bench.write("1.yaml", &binding("a"));
    bench.scan();
    fs::rename(bench.path("1.yaml"), bench.path("2.yaml")).unwrap();
    assert_eq!(names(&bench.scan()), ["a"]);
    let facts = bench.settle();
    assert_eq!((names(&facts), facts.refused.len()), (vec!["a"], 0));
    assert_eq!(
        facts.bindings[0].origin.as_ref().unwrap().file,
        bench.path("2.yaml")
    );
}

#[test]
fn a_file_that_cannot_be_accepted_keeps_its_last_content_and_says_why() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &binding("a"));
    bench.scan();
    let large = format!("{}# {}", binding("b"), "x".repeat(5 << 20));
    let latin1 = [binding("b").as_bytes(), b"# caf\xe9\n"].concat();
    for (content, expected) in [
        (large.as_bytes(), "the file is larger than 4 MiB"),
        (latin1.as_slice(), "line 6: not UTF-8"),
    ] {
        fs::write(bench.path("a.yaml"), content).unwrap();
        let facts = bench.settle();
        assert_eq!(names(&facts), ["a"]);
        let problem = &facts.refused[0].problem;
        assert!(problem.starts_with(expected), "{problem}");
        assert!(
            problem.ends_with("; its last content stays in force"),
            "{problem}"
        );
    }
    bench.write("a.yaml", &binding("a"));
    assert_eq!(bench.settle().refused, []);
}

#[test]
fn a_file_that_cannot_be_read_at_the_start_keeps_the_facts_incomplete() {
    let mut bench = Bench::new();
    // A link to itself: an error for root too, unlike permissions.
    symlink("a.yaml", bench.path("a.yaml")).unwrap();
    let facts = bench.scan();
    assert!(!facts.complete);
    assert!(
        facts.refused[0]
            .problem
            .starts_with("the file cannot be read: ")
    );
    fs::remove_file(bench.path("a.yaml")).unwrap();
    assert!(bench.scan().complete);
}

#[test]
fn special_files_are_refused_without_opening_them() {
    let mut bench = Bench::new();
    let fifo = CString::new(bench.path("a.yaml").into_os_string().into_encoded_bytes()).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(fifo.to_str().unwrap())
            .status()
            .unwrap()
            .success()
    );
    fs::create_dir(bench.path("b.yaml")).unwrap();
    let facts = bench.scan();
    assert!(facts.complete);
    let problems: Vec<&str> = facts.refused.iter().map(|r| r.problem.as_str()).collect();
    assert_eq!(problems, ["not a regular file"; 2]);
}

#[test]
fn links_are_followed_and_dangling_ones_are_files_that_are_gone() {
    let mut bench = Bench::new();
    // As the kubelet mounts a ConfigMap: a swap of one link replaces all files.
    fs::create_dir(bench.path("..1")).unwrap();
    fs::create_dir(bench.path("..2")).unwrap();
    fs::write(bench.path("..1/a.yaml"), binding("a")).unwrap();
    fs::write(bench.path("..2/a.yaml"), binding("b")).unwrap();
    symlink("..1", bench.path("..data")).unwrap();
    symlink("..data/a.yaml", bench.path("a.yaml")).unwrap();
    assert_eq!(names(&bench.scan()), ["a"]);
    symlink("..2", bench.path("..data_tmp")).unwrap();
    fs::rename(bench.path("..data_tmp"), bench.path("..data")).unwrap();
    assert_eq!(names(&bench.settle()), ["b"]);
    fs::remove_file(bench.path("..data")).unwrap();
    assert_eq!(names(&bench.settle()), [""; 0]);
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &binding("a"));
    bench.scan();
    // Fresh files are; an old one with the same stamp is not, so emptying its entry shows it.
    let entry = bench
        .shelf
        .files
        .get_mut(&OsString::from("a.yaml"))
        .unwrap();
    entry.stamp =
        Some(files::stamp(&bench.directory.path().join("a.yaml")).unwrap_or_else(|_| panic!()));
    entry.reading.objects.clear();
    assert_eq!(names(&bench.scan()), [""; 0]);
    fs::set_permissions(bench.path("a.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(names(&bench.scan()), ["a"], "its change time is another");
}

//! Bindings written and removed by a command.

use tempfile::TempDir;

use super::*;

fn request(namespace: &str, name: &str) -> BindRequest {
    BindRequest {
        name: ObjectName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        eip: "203.0.113.5".parse().unwrap(),
        target: Target::Vm("vm1".to_owned()),
        primary: false,
        delivery: None,
        announce: None,
    }
}

fn read_back(directory: &Path, request: &BindRequest) -> BindingFact {
    find(directory, &request.name).unwrap().unwrap()
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_binding_is_written_as_it_was_asked_for() {
    let directory = TempDir::new().unwrap();
    let request = BindRequest {
        eip: "2001:db8::5".parse().unwrap(),
        primary: true,
        delivery: Some(DeliveryChoice::Stack),
        announce: Some(Announce::L2),
        ..request("tenant", "web")
    };
    let path = bind(directory.path(), &request).unwrap();
    assert_eq!(path, directory.path().join("eipctl-tenant_web.yaml"));
    let fact = read_back(directory.path(), &request);
    assert_eq!(
        (fact.eip, fact.primary, fact.delivery, fact.announce),
        (request.eip, true, request.delivery, request.announce)
    );
    assert_eq!(
        fact.vm,
        ObjectName {
            namespace: "tenant".to_owned(),
            name: "vm1".to_owned()
        }
    );
    assert_eq!(fact.generation, 1);
    let now = jiff::Timestamp::now().as_second();
    assert!((now - fact.created.unwrap()).abs() < 60);
    assert_eq!(
        files(directory.path()),
        ["eipctl-tenant_web.yaml"],
        "no temporary file stays"
    );
}

#[test]
fn a_replaced_binding_keeps_its_age_and_counts_its_generation() {
    let directory = TempDir::new().unwrap();
    let path = bind(directory.path(), &request("n", "b")).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let created = text
        .lines()
        .find(|line| line.contains("creationTimestamp"))
        .unwrap();
    fs::write(
        &path,
        text.replace(created, "  creationTimestamp: 2020-01-01T00:00:00Z"),
    )
    .unwrap();
    let changed = BindRequest {
        eip: "203.0.113.6".parse().unwrap(),
        ..request("n", "b")
    };
    bind(directory.path(), &changed).unwrap();
    let fact = read_back(directory.path(), &changed);
    assert_eq!((fact.created, fact.generation), (Some(1_577_836_800), 2));
    assert_eq!(fact.eip, changed.eip);
}

#[test]
fn two_bindings_never_share_a_file() {
    let directory = TempDir::new().unwrap();
    bind(directory.path(), &request("a-b", "c")).unwrap();
    bind(directory.path(), &request("a", "b-c")).unwrap();
    assert_eq!(files(directory.path()).len(), 2);
}

#[test]
fn an_unbound_binding_is_gone_and_unbinding_it_again_says_so() {
    let directory = TempDir::new().unwrap();
    let request = request("n", "b");
    let path = bind(directory.path(), &request).unwrap();
    assert_eq!(unbind(directory.path(), &request.name).unwrap(), path);
    assert_eq!(files(directory.path()), [""; 0]);
    let error = unbind(directory.path(), &request.name).unwrap_err();
    assert!(
        error.to_string().starts_with("no EipBinding n/b in "),
        "{error}"
    );
}

#[test]
fn an_object_in_a_file_of_somebody_else_is_left_to_them() {
    let directory = TempDir::new().unwrap();
    let text = "apiVersion: virteip.github.com/v1\nkind: EipBinding\n\
                metadata: {name: b, namespace: n}\nspec: {vmi: v, eip: 203.0.113.5}\n";
    let path = directory.path().join("mine.yaml");
    fs::write(&path, format!("kind: [broken\n---\n{text}")).unwrap();
    let request = request("n", "b");
    let expected = format!(
        "EipBinding n/b stands in {} (document 2): change it there",
        path.display()
    );
    assert_eq!(
        bind(directory.path(), &request).unwrap_err().to_string(),
        expected
    );
    assert_eq!(
        unbind(directory.path(), &request.name)
            .unwrap_err()
            .to_string(),
        expected
    );
    assert_eq!(files(directory.path()), ["mine.yaml"]);
}

#[test]
fn names_cannot_lead_out_of_the_directory() {
    let directory = TempDir::new().unwrap();
    let long = "x".repeat(250);
    for (namespace, name) in [
        ("n", "../b"),
        ("..", "b"),
        ("n", ".."),
        ("n", ""),
        ("", "b"),
        ("n", "a/b"),
        ("N", "b"),
        ("n", "a_b"),
        ("n", "b\0"),
        ("n", "-b"),
        ("n", "b-"),
        ("n.m", "b"),
        ("n", &long),
    ] {
        let request = request(namespace, name);
        let bound = bind(directory.path(), &request);
        assert!(
            matches!(bound, Err(LocalError::InvalidName { .. })),
            "{namespace:?} {name:?}"
        );
        let unbound = unbind(directory.path(), &request.name);
        assert!(
            matches!(unbound, Err(LocalError::InvalidName { .. })),
            "{namespace:?} {name:?}"
        );
    }
    let bad_vm = BindRequest {
        target: Target::Vm("other/vm".to_owned()),
        ..request("n", "b")
    };
    assert!(matches!(
        bind(directory.path(), &bad_vm),
        Err(LocalError::InvalidName { .. })
    ));
    assert_eq!(files(directory.path()), [""; 0]);
}

#[test]
fn a_binding_to_an_address_is_read_back_as_one() {
    let directory = TempDir::new().unwrap();
    let address = "10.244.1.10".parse().unwrap();
    let request = BindRequest {
        target: Target::Address(address),
        ..request("default", "b")
    };
    bind(directory.path(), &request).unwrap();
    let fact = read_back(directory.path(), &request);
    assert_eq!(fact.kind, TargetKind::Address(address));
    assert!(request.target.is_of(&fact));
    assert!(!Target::Vm("10.244.1.10".to_owned()).is_of(&fact));
}

#[test]
fn a_missing_directory_is_an_error_that_names_it() {
    let error = bind(Path::new("/nonexistent/source"), &request("n", "b")).unwrap_err();
    assert_eq!(error.to_string(), "read /nonexistent/source");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_name_made_from_an_eip_is_one_kubernetes_takes() {
    assert_eq!(
        object_name("203.0.113.10".parse().unwrap()),
        "eip-203-0-113-10"
    );
    assert_eq!(
        object_name("2001:db8::10".parse().unwrap()),
        "eip-2001-db8-0-0-0-0-0-10"
    );
    assert_eq!(
        object_name("2001:db8::".parse().unwrap()),
        "eip-2001-db8-0-0-0-0-0-0"
    );
}

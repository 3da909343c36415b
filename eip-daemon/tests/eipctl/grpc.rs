//! The older agent's gRPC API, on the control socket and over TCP, as a caller meets it.

use std::{io, sync::Arc, time::Duration};

use eip_daemon::ctl::grpc::{self, EipOpReq, EipOpRsp, PHASE_KEY, Tls};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, UnixStream};
use tonic::{
    Code, Status,
    client::Grpc,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::agent::Agent;

const EIP: &str = "203.0.113.77";
const VM: &str = "10.0.0.10";

/// A caller on the control socket of an agent that has read its source: before, it answers nobody.
async fn on_socket(agent: &Agent) -> Channel {
    agent.until_complete().await;
    let socket = agent.socket();
    let connect = service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    let endpoint = Endpoint::from_static("http://agent");
    endpoint.connect_with_connector(connect).await.unwrap()
}

async fn ask(channel: &Channel, action: &str, eip: &str, vm: &str) -> Result<EipOpRsp, Status> {
    let mut client = Grpc::new(channel.clone());
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(format!("{error:?}")))?;
    let request = EipOpReq {
        action: action.to_owned(),
        eip_addr: eip.to_owned(),
        vmi_addr: vm.to_owned(),
    };
    let path = "/protoc.EipAgent/EipOperate".parse().unwrap();
    let codec: ProstCodec<EipOpReq, EipOpRsp> = ProstCodec::default();
    let answer = client.unary(tonic::Request::new(request), path, codec);
    answer.await.map(tonic::Response::into_inner)
}

fn succeeded() -> EipOpRsp {
    EipOpRsp {
        result: "Succeed".to_owned(),
        err_phase: 0,
    }
}

/// What a caller is told, and in which phase the older agent would have seen it.
fn told(answer: Result<EipOpRsp, Status>) -> (Code, String, String) {
    let status = answer.unwrap_err();
    let phase = status.metadata().get(PHASE_KEY).unwrap();
    let phase = phase.to_str().unwrap().to_owned();
    (status.code(), phase, status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_makes_a_binding_like_any_other() {
    let agent = Agent::following();
    let channel = on_socket(&agent).await;
    assert_eq!(ask(&channel, "bind", EIP, VM).await.unwrap(), succeeded());
    let binding = &agent.json("list")["bindings"][0];
    assert_eq!(binding["eip"], EIP);
    assert_eq!(binding["vm"], "vm-a", "the VM that reports the address");
    assert_eq!(binding["state"], "programmed");
    assert_eq!(agent.written(), 1);

    // A caller that did not hear the answer asks again.
    assert_eq!(ask(&channel, "bind", EIP, VM).await.unwrap(), succeeded());
    assert_eq!(agent.written(), 1);

    // A pair that is not bound is as wanted, and what is bound stays.
    let answer = ask(&channel, "unbind", EIP, "10.0.0.11").await;
    assert_eq!(answer.unwrap(), succeeded());
    assert_eq!(agent.written(), 1);
    assert_eq!(ask(&channel, "unbind", EIP, VM).await.unwrap(), succeeded());
    assert_eq!(agent.written(), 0);
    assert_eq!(ask(&channel, "unbind", EIP, VM).await.unwrap(), succeeded());
    assert_eq!(agent.json("list")["bindings"].as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_no_object_names_can_be_bound() {
    let agent = Agent::following();
    std::fs::remove_file(agent.dir.path().join("objects/vm.yaml")).unwrap();
    agent.until_no_vm().await;
    let channel = on_socket(&agent).await;
    assert_eq!(ask(&channel, "bind", EIP, VM).await.unwrap(), succeeded());
    let binding = agent.json(&format!("get {EIP}"));
    assert_eq!(
        (&binding["vm"], &binding["vmAddress"], &binding["state"]),
        (&VM.into(), &VM.into(), &"programmed".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_work_is_no_success_and_leaves_nothing_behind() {
    let agent = Agent::following();
    let channel = on_socket(&agent).await;
    for (action, eip, vm, words) in [
        ("Bind", EIP, VM, "neither"),
        ("", EIP, VM, "neither"),
        ("bind", "203.0.113.300", VM, "eipAddr"),
        ("bind", "", VM, "eipAddr"),
        ("bind", EIP, "vm-a", "vmiAddr"),
        ("unbind", EIP, "10.0.0.0/24", "vmiAddr"),
        ("bind", EIP, "2001:db8::1", "families"),
        ("bind", "198.51.100.7", VM, "198.51.100.7"),
        ("bind", EIP, "198.51.100.9", "internal network"),
    ] {
        let (code, phase, message) = told(ask(&channel, action, eip, vm).await);
        assert_eq!(
            (code, &*phase),
            (Code::InvalidArgument, "0"),
            "{action} {eip} {vm}: {message}"
        );
        assert!(message.contains(words), "{message}");
        assert_eq!(agent.written(), 0, "{action} {eip} {vm}");
    }

    ask(&channel, "bind", EIP, VM).await.unwrap();
    let (code, phase, message) = told(ask(&channel, "bind", EIP, "10.0.0.11").await);
    assert_eq!((code, &*phase), (Code::AlreadyExists, "0"), "{message}");
    assert!(message.contains("vm-a"), "{message}");
    assert_eq!(agent.written(), 1);

    // Nobody on this node has that address: not in the kernel in time, and taken back.
    let (code, phase, message) = told(ask(&channel, "bind", "203.0.113.78", "10.0.0.99").await);
    assert_eq!(
        (code, &*phase),
        (Code::FailedPrecondition, "2"),
        "{message}"
    );
    assert_eq!(agent.written(), 1);
    assert_eq!(agent.json("list")["bindings"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_wrote_by_hand_is_not_removed() {
    let agent = Agent::following();
    let path = agent.dir.path().join("objects/mine.yaml");
    let text = format!(
        "apiVersion: virteip.github.com/v1\nkind: EipBinding\nmetadata: {{name: mine}}\n\
         spec: {{eip: {EIP}, vmi: vm-a}}\n"
    );
    std::fs::write(&path, text).unwrap();
    let channel = on_socket(&agent).await;
    // Once the binding is seen, binding it again changes nothing.
    agent.until_listed(EIP).await;
    assert_eq!(ask(&channel, "bind", EIP, VM).await.unwrap(), succeeded());
    let (code, phase, message) = told(ask(&channel, "unbind", EIP, VM).await);
    assert_eq!(
        (code, &*phase),
        (Code::FailedPrecondition, "6"),
        "{message}"
    );
    assert!(message.contains("mine.yaml"), "{message}");
    assert!(path.exists());
}

/// A certificate authority of the test's own.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn identity(&self, name: &str) -> (String, String) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_only_callers_with_a_certificate_of_the_authority_are_served() {
    let agent = Agent::following();
    agent.until_complete().await;
    let (ours, theirs, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let (certificate, key) = ours.identity("node-a");
    let tls = Tls {
        certificate: certificate.into_bytes(),
        key: key.into_bytes(),
        client_ca: theirs.pem().into_bytes(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let server = grpc::server(Some(&tls)).unwrap();
    tokio::spawn(grpc::serve(
        server,
        listener,
        None,
        Arc::clone(&agent.state),
        stopped,
    ));

    let with = |config: ClientTlsConfig| {
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
        let patience = endpoint.connect_timeout(Duration::from_mins(1));
        let config = config
            .domain_name("node-a")
            .ca_certificate(Certificate::from_pem(ours.pem()));
        patience.tls_config(config).unwrap().connect_lazy()
    };
    let of = |authority: &Authority| {
        let (certificate, key) = authority.identity("operator");
        ClientTlsConfig::new().identity(Identity::from_pem(certificate, key))
    };
    for (who, config) in [
        ("without a certificate", ClientTlsConfig::new()),
        ("with one of a stranger", of(&stranger)),
        ("with one of the server's own authority", of(&ours)),
    ] {
        let answer = ask(&with(config), "bind", EIP, VM).await;
        assert!(answer.is_err(), "{who}: {answer:?}");
        assert_eq!(agent.written(), 0, "{who}");
    }
    let plain = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let answer = ask(&plain.connect_lazy(), "bind", EIP, VM).await;
    assert!(answer.is_err(), "in plain text: {answer:?}");
    assert_eq!(agent.written(), 0, "in plain text");

    let answer = ask(&with(of(&theirs)), "bind", EIP, VM).await;
    assert_eq!(answer.unwrap(), succeeded());
    assert_eq!(agent.written(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_used_from_the_next_connection_on() {
    let agent = Agent::following();
    agent.until_complete().await;
    let (before, after, callers) = (Authority::new(), Authority::new(), Authority::new());
    let tls = |authority: &Authority| {
        let (certificate, key) = authority.identity("node-a");
        Tls {
            certificate: certificate.into_bytes(),
            key: key.into_bytes(),
            client_ca: callers.pem().into_bytes(),
        }
    };
    let (renew, renewed) = tokio::sync::watch::channel(tls(&before));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let server = grpc::server(Some(&renew.borrow())).unwrap();
    let state = Arc::clone(&agent.state);
    tokio::spawn(grpc::serve(server, listener, Some(renewed), state, stopped));

    let (certificate, key) = callers.identity("operator");
    let identity = Identity::from_pem(certificate, key);
    let believing = |authority: &Authority| {
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
        let patience = endpoint.connect_timeout(Duration::from_mins(1));
        let config = ClientTlsConfig::new()
            .identity(identity.clone())
            .domain_name("node-a")
            .ca_certificate(Certificate::from_pem(authority.pem()));
        patience.tls_config(config).unwrap().connect_lazy()
    };
    let bind = async |authority: &Authority| ask(&believing(authority), "bind", EIP, VM).await;
    assert_eq!(bind(&before).await.unwrap(), succeeded());
    assert!(bind(&after).await.is_err());

    // Half of them was replaced: not to be used, and not the end of the service.
    let half = Tls {
        key: tls(&after).key,
        ..tls(&before)
    };
    renew.send_replace(half);
    assert_eq!(bind(&before).await.unwrap(), succeeded());

    renew.send_replace(tls(&after));
    let patience = tokio::time::Instant::now() + Duration::from_mins(1);
    while bind(&after).await.is_err() || bind(&before).await.is_ok() {
        assert!(tokio::time::Instant::now() < patience, "they are not used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_cannot_be_used_are_refused_at_start() {
    let (certificate, key) = Authority::new().identity("node-a");
    let (_, other_key) = Authority::new().identity("node-a");
    let good = Authority::new().pem();
    for (certificate, key, client_ca) in [
        (&*certificate, &*other_key, &*good),
        ("", &key, &good),
        (&certificate, "", &good),
        (&certificate, &key, ""),
    ] {
        let tls = Tls {
            certificate: certificate.as_bytes().to_vec(),
            key: key.as_bytes().to_vec(),
            client_ca: client_ca.as_bytes().to_vec(),
        };
        assert!(grpc::server(Some(&tls)).is_err(), "{tls:?}");
    }
}

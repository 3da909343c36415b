//! The older agent's gRPC API, `protoc.EipAgent/EipOperate`, for callers that know nothing else.
//!
//! Two messages and one call, so they are written out here: a generator would bring a compiler of
//! the schema into every build (`deploy/examples/eip-agent.proto` is the schema, for callers).
//!
//! A failure is a status other than OK. The older agent answered OK and `Failed` inside it, which its
//! own `eipctl` printed before it ended with success; whoever reads the status cannot miss it. The
//! phase it put into the answer is in the metadata of ours ([`PHASE_KEY`]).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::post,
};
use prost::Message;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinSet,
};
use tonic::{
    Status,
    body::Body,
    metadata::MetadataValue,
    server::Grpc,
    service::Routes,
    transport::{
        Certificate, Identity, Server, ServerTlsConfig,
        server::{TcpConnectInfo, TcpIncoming, TlsConnectInfo},
    },
};
use tonic_prost::ProstCodec;
use tower::service_fn;
use tracing::{info, warn};

use super::{
    operate::{Failure, Operation, operate},
    state::AgentState,
};

/// Path of the only call.
pub(super) const PATH: &str = "/protoc.EipAgent/EipOperate";
/// Metadata of a failure: the phase it happened in, as the older agent counted them.
pub const PHASE_KEY: &str = "eip-err-phase";
/// Three short strings fit in this many times over.
const MESSAGE_MAX: usize = 4096;
/// A caller that has not shown its certificate by then is no caller.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_mins(1);
/// Calls of one connection at a time; they take turns anyway.
const CALLS: usize = 16;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EipOpReq {
    /// `bind` or `unbind`.
    #[prost(string, tag = "1")]
    pub action: String,
    /// The elastic IP.
    #[prost(string, tag = "2")]
    pub eip_addr: String,
    /// The VM's own address.
    #[prost(string, tag = "3")]
    pub vmi_addr: String,
}

/// The answer to what was done.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EipOpRsp {
    /// `Succeed`.
    #[prost(string, tag = "1")]
    pub result: String,
    /// 0.
    #[prost(int32, tag = "2")]
    pub err_phase: i32,
}

/// Certificates of the TCP listener, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Our certificate and those between it and its root, PEM.
    pub certificate: Vec<u8>,
    /// Its key, PEM.
    pub key: Vec<u8>,
    /// Who signs the certificates of callers, PEM.
    pub client_ca: Vec<u8>,
}

/// The call, for a router that serves other things too.
pub(super) fn router() -> Router<Arc<AgentState>> {
    Router::new().route(PATH, post(call))
}

/// Makes the server of a TCP listener; without `tls` in plain text.
///
/// # Errors
/// The certificates cannot be used.
pub fn server(tls: Option<&Tls>) -> Result<Server, tonic::transport::Error> {
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .concurrency_limit_per_connection(CALLS);
    let Some(tls) = tls else { return Ok(server) };
    let config = ServerTlsConfig::new()
        .identity(Identity::from_pem(&tls.certificate, &tls.key))
        .client_ca_root(Certificate::from_pem(&tls.client_ca))
        .timeout(HANDSHAKE);
    server.tls_config(config)
}

/// Serves until `stop` is true. Calls in flight are answered. Certificates that come through `renewed`
/// are used from the next connection on; those that cannot be used are told, and the old ones stay.
///
/// # Errors
/// The listener does not work any more.
pub async fn serve(
    mut server: Server,
    listener: TcpListener,
    mut renewed: Option<watch::Receiver<Tls>>,
    state: Arc<AgentState>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = listener.into_std()?;
    // One at a time takes new connections; those before it see to theirs.
    let mut servers = JoinSet::new();
    loop {
        let own = TcpListener::from_std(listener.try_clone()?)?;
        let (retire, retired) = oneshot::channel();
        servers.spawn(serve_until(server, own, Arc::clone(&state), retired));
        let next = loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break None,
                next = renewal(&mut renewed) => break Some(next),
                Some(ended) = servers.join_next() => ended??,
            }
        };
        drop(retire);
        match next {
            Some(next) => server = next,
            None => break,
        }
    }
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Serves new connections until `retired` ends, and old ones to their end.
async fn serve_until(
    mut server: Server,
    listener: TcpListener,
    state: Arc<AgentState>,
    retired: oneshot::Receiver<()>,
) -> io::Result<()> {
    let retired = async move {
        let _sender_gone = retired.await.is_err();
    };
    let router = router().fallback(no_such_call).with_state(state);
    server
        .add_routes(Routes::from(router))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), retired)
        .await
        .map_err(io::Error::other)
}

/// A server with new certificates, when there are some that can be used. Cancel safe.
async fn renewal(renewed: &mut Option<watch::Receiver<Tls>>) -> Server {
    while let Some(certificates) = renewed {
        if certificates.changed().await.is_err() {
            break;
        }
        match server(Some(&certificates.borrow_and_update())) {
            Ok(server) => {
                info!("callers are served with renewed certificates");
                return server;
            }
            Err(error) => warn!(%error, "use renewed certificates; those before stay in use"),
        }
    }
    std::future::pending().await
}

async fn no_such_call() -> Response<Body> {
    Status::unimplemented(format!("the only call is {PATH}")).into_http()
}

async fn call(State(state): State<Arc<AgentState>>, request: Request) -> Response<Body> {
    let codec: ProstCodec<EipOpRsp, EipOpReq> = ProstCodec::default();
    let service = service_fn(|request: tonic::Request<EipOpReq>| {
        answer(Arc::clone(&state), peer(&request), request.into_inner())
    });
    Grpc::new(codec)
        .max_decoding_message_size(MESSAGE_MAX)
        .unary(service, request)
        .await
}

/// Who asks, for the log; nobody in particular on the control socket.
fn peer<T>(request: &tonic::Request<T>) -> Option<SocketAddr> {
    let extensions = request.extensions();
    let plain = extensions
        .get::<TcpConnectInfo>()
        .and_then(TcpConnectInfo::remote_addr);
    let secured = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    plain.or_else(|| secured.and_then(|info| info.get_ref().remote_addr()))
}

async fn answer(
    state: Arc<AgentState>,
    peer: Option<SocketAddr>,
    asked: EipOpReq,
) -> Result<tonic::Response<EipOpRsp>, Status> {
    let from = peer.map_or_else(|| "the control socket".to_owned(), |peer| peer.to_string());
    // In a task of its own: a caller that goes away leaves nothing half done.
    let done = tokio::spawn(async move {
        let operation = Operation::read(&asked.action, &asked.eip_addr, &asked.vmi_addr)?;
        let done = operate(&state, operation).await;
        match &done {
            Ok(()) => info!(%from, "{operation}: done"),
            Err(failure) => warn!(%from, "{operation}: {}", failure.message),
        }
        done
    });
    match done.await {
        Ok(Ok(())) => Ok(tonic::Response::new(EipOpRsp {
            result: "Succeed".to_owned(),
            err_phase: 0,
        })),
        Ok(Err(failure)) => Err(status(failure)),
        Err(panicked) => Err(Status::internal(panicked.to_string())),
    }
}

fn status(failure: Failure) -> Status {
    let Failure {
        phase,
        code,
        message,
    } = failure;
    let mut status = Status::new(code, message);
    let phase = MetadataValue::from(phase.number());
    status.metadata_mut().insert(PHASE_KEY, phase);
    status
}

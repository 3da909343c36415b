//! `eip-daemon agent`: puts the parts together and hands them to the supervisor.

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Mutex, Notify, watch},
};
use tracing::{info, warn};

use crate::{
    announce::{
        Announcer,
        l2::L2Announcer,
        peering::{BgpAnnouncer, DrainError},
    },
    config::{AgentOptions, GrpcListen, NodeConfig, SourceSpec, TlsFiles},
    ctl::{
        self,
        follow::Followers,
        grpc::{self, Tls},
        socket::{SocketClaim, SocketError},
        state::{AgentState, Started},
    },
    dataplane::{DataPlaneOptions, KernelDataPlane, OpenError, pin_directory},
    feedback::{Announcers, Feedback, NodeFeedback},
    http::{self, HttpState, Pulse},
    logging::LogLevel,
    model::Facts,
    reconcile::{Fence, FenceOn, Reconciler},
    source::{
        self,
        dir::DirSource,
        kube::{
            KubeOptions,
            client::{ConnectError, connect},
            start_heartbeat,
        },
    },
    supervisor::{Supervisor, TaskEnded, termination},
};

/// A round that takes longer than this on top of the resync interval is stuck.
const ROUND_PATIENCE: Duration = Duration::from_secs(30);

/// Withdrawing everything and saying goodbye to peers takes up to five seconds, and closing some more.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(10);
/// How often the files of certificates are looked at.
const CERTIFICATES_LOOK: Duration = Duration::from_secs(10);

/// Why the agent does not run (any more). Fate of each: exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The control socket.
    #[error("serve the control socket")]
    Socket(#[from] SocketError),
    /// The kernel side.
    #[error("start the data plane")]
    DataPlane(#[from] OpenError),
    /// The HTTP server.
    #[error("listen on {address}: choose another --http, or off")]
    Http {
        /// Where.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The listener of the older agent's API.
    #[error("listen on {address}: choose another --grpc-listen")]
    Grpc {
        /// Where.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Its certificates.
    #[error("read {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Its certificates, again.
    #[error("use --grpc-cert, --grpc-key and --grpc-client-ca")]
    Tls(#[source] tonic::transport::Error),
    /// No client for the API server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The state directory.
    #[error("start announcing")]
    Announce(#[from] DrainError),
    /// Signals cannot be received.
    #[error("listen to signals")]
    Signals(#[source] io::Error),
    /// A task ended by itself.
    #[error("run the agent")]
    Task(#[from] TaskEnded),
}

/// Runs the agent until it is asked to stop. What is in the kernel stays there.
///
/// # Errors
/// It cannot start, or one of its tasks ended.
pub async fn run(
    node: NodeConfig,
    options: AgentOptions,
    log_level: LogLevel,
) -> Result<(), AgentError> {
    let started = Started::now();
    // First of all: two agents on one node would undo each other's work.
    let claim = SocketClaim::take(&options.socket)?;
    for notice in &node.notices {
        warn!(flag = notice.flag, "{}", notice.text);
    }
    let stop = termination().map_err(AgentError::Signals)?;
    let http = listen(options.http).await?;
    let grpc = open_grpc(options.grpc.as_ref()).await?;
    let data_plane = KernelDataPlane::open(data_plane_options(&node, &options))?;
    let control = claim.listen()?;

    let mut supervisor = Supervisor::default();
    let source = start_source(&mut supervisor, &node, &options).await?;
    let state = start_core(
        &mut supervisor,
        &node,
        &options,
        data_plane,
        started,
        (source.facts, source.fence),
    )?;
    if let Some(client) = source.client {
        let announcers = Announcers {
            bgp: state.bgp.clone(),
            l2: state.l2.clone(),
        };
        let name = node.settings.node_name.clone();
        let of_node = NodeFeedback::new(client.clone(), name.clone(), state.bgp.clone());
        let reports = state.reports.clone();
        supervisor.start("node feedback", |stop| of_node.run(reports, stop));
        let feedback = Feedback::new(client, name, announcers);
        let reports = state.reports.clone();
        supervisor.start("feedback", |stop| feedback.run(reports, stop));
    }
    start_servers(
        &mut supervisor,
        &options,
        state,
        Doors {
            control,
            http,
            grpc,
            log_level,
        },
    );
    tell_started(&node, &options);
    supervisor.run(stop).await?;

    let pins = pin_directory(&node.bpffs);
    info!(pins = %pins.display(), "stopped; elastic IPs stay up, `eip-daemon cleanup` takes them down");
    Ok(())
}

async fn listen(address: Option<SocketAddr>) -> Result<Option<TcpListener>, AgentError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listening = TcpListener::bind(address).await;
    listening
        .map(Some)
        .map_err(|source| AgentError::Http { address, source })
}

/// Listens for callers of the older agent, where that is asked for.
async fn open_grpc(wanted: Option<&GrpcListen>) -> Result<Option<GrpcDoor>, AgentError> {
    let Some(GrpcListen { address, tls }) = wanted else {
        return Ok(None);
    };
    let files = tls.clone();
    let tls = files.as_ref().map(read_tls).transpose()?;
    let server = grpc::server(tls.as_ref()).map_err(AgentError::Tls)?;
    let address = *address;
    let listening = TcpListener::bind(address).await;
    let listener = listening.map_err(|source| AgentError::Grpc { address, source })?;
    info!(%address, is_plain_text = tls.is_none(), "serving the older agent's gRPC API");
    Ok(Some(GrpcDoor {
        server,
        listener,
        certificates: files.zip(tls.map(watch::Sender::new)),
    }))
}

/// Reads certificates again and again: who renews them replaces files and tells nobody.
async fn follow_certificates(
    files: TlsFiles,
    certificates: watch::Sender<Tls>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Infallible> {
    let mut is_troubled = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(CERTIFICATES_LOOK) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        match read_tls(&files) {
            Ok(tls) => {
                is_troubled = false;
                certificates.send_if_modified(|known| {
                    let is_new = *known != tls;
                    *known = tls;
                    is_new
                });
            }
            Err(_) if is_troubled => {}
            Err(error) => {
                is_troubled = true;
                warn!(%error, "read certificates again; those before stay in use");
            }
        }
    }
}

fn read_tls(files: &TlsFiles) -> Result<Tls, AgentError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| AgentError::Certificate {
            path: path.to_owned(),
            source,
        })
    };
    Ok(Tls {
        certificate: read(&files.certificate)?,
        key: read(&files.key)?,
        client_ca: read(&files.client_ca)?,
    })
}

fn data_plane_options(node: &NodeConfig, options: &AgentOptions) -> DataPlaneOptions {
    let settings = &node.settings;
    DataPlaneOptions {
        bpffs: node.bpffs.clone(),
        xdp_mode: settings.xdp_mode,
        tc_mode: settings.tc_mode,
        max_bindings: options.max_bindings,
        max_flows: options.max_flows,
        uplinks: settings.uplinks.clone(),
        route_table: settings.route_table,
    }
}

/// A source that runs.
struct Source {
    facts: watch::Receiver<Facts>,
    /// Where to report what became of the facts.
    client: Option<kube::Client>,
    /// What the renewal of bindings goes by.
    fence: Fence,
}

async fn start_source(
    supervisor: &mut Supervisor,
    node: &NodeConfig,
    options: &AgentOptions,
) -> Result<Source, AgentError> {
    let reread = Arc::new(Notify::new());
    let mut contact = None;
    let (facts, task, client) = match &options.source {
        SourceSpec::Dir(directory) => {
            let (facts, task) = DirSource::start(directory.clone());
            (facts, task, None)
        }
        SourceSpec::Kube(kubeconfig) => {
            let client = connect(kubeconfig.as_deref()).await?;
            let kube = KubeOptions {
                node: node.settings.node_name.clone(),
                snapshot: options.state_dir.join("facts.json"),
                hand_over: options.hand_over,
                reread: Arc::clone(&reread),
            };
            if let (Some(after), FenceOn::Isolation) = (options.fence.after, options.fence.on) {
                let (sender, heard) = watch::channel(None);
                contact = Some(heard);
                let (client, node) = (client.clone(), kube.node.clone());
                supervisor.start("lease", |stop| {
                    start_heartbeat(client, node, after, sender, stop)
                });
            }
            let (facts, task) = source::kube::start(client.clone(), kube);
            (facts, task, Some(client))
        }
    };
    supervisor.adopt("source", task);
    Ok(Source {
        facts,
        client,
        fence: Fence::new(options.fence, contact, reread),
    })
}

/// The reconciler, and what there is to know about it.
fn start_core(
    supervisor: &mut Supervisor,
    node: &NodeConfig,
    options: &AgentOptions,
    data_plane: KernelDataPlane,
    started: Started,
    (facts, fence): (watch::Receiver<Facts>, Fence),
) -> Result<Arc<AgentState>, AgentError> {
    let announced = Arc::new(Notify::new());
    let bgp = BgpAnnouncer::new(options.bgp.clone(), Arc::clone(&announced))?;
    let (speaker, peers) = (bgp.clone(), facts.clone());
    supervisor.start_patiently("bgp", FAREWELL_PATIENCE, |stop| async move {
        speaker.run(peers, stop).await;
        Ok::<(), Infallible>(())
    });

    let settings = Arc::new(node.settings.clone());
    let (counters, inspector) = (data_plane.counters(), data_plane.inspector());
    let examiner = data_plane.examiner();
    let followers = Arc::new(Followers::new(data_plane.sampler()));
    let watched = Arc::clone(&followers);
    supervisor.start("samples", |stop| async move {
        watched.run(stop).await;
        Ok::<(), Infallible>(())
    });
    let events = data_plane.events();
    let (reconciler, reports) =
        Reconciler::new(data_plane, facts.clone(), Arc::clone(&settings), events);
    let l2 = L2Announcer::new(options.l2, &settings.uplinks);
    let announcers: Vec<Box<dyn Announcer>> = vec![Box::new(bgp.clone()), Box::new(l2.clone())];
    let reconciler = reconciler
        .with_resync(options.resync)
        .with_fence(fence)
        .with_announcers(announcers, announced);
    let telling = l2.clone();
    supervisor.start("layer 2", |stop| async move {
        telling.run(stop).await;
        Ok::<(), Infallible>(())
    });
    supervisor.start("reconciler", |stop| async move {
        reconciler.run(stop).await;
        Ok::<(), Infallible>(())
    });

    Ok(Arc::new(AgentState {
        reports,
        facts,
        counters,
        inspector,
        examiner,
        followers,
        settings,
        source: options.source.clone(),
        notices: node.notices.iter().map(ToString::to_string).collect(),
        l2,
        started,
        bgp,
        turn: Mutex::default(),
    }))
}

/// Where callers of the older agent come in.
struct GrpcDoor {
    server: tonic::transport::Server,
    listener: TcpListener,
    /// Where its certificates are, and what was read there last.
    certificates: Option<(TlsFiles, watch::Sender<Tls>)>,
}

/// Where the agent can be asked, and what it can be told.
struct Doors {
    control: UnixListener,
    http: Option<TcpListener>,
    grpc: Option<GrpcDoor>,
    log_level: LogLevel,
}

fn start_servers(
    supervisor: &mut Supervisor,
    options: &AgentOptions,
    agent: Arc<AgentState>,
    doors: Doors,
) {
    let Doors {
        control,
        http,
        grpc,
        log_level,
    } = doors;
    if let Some(GrpcDoor {
        server,
        listener,
        certificates,
    }) = grpc
    {
        let state = Arc::clone(&agent);
        let renewed = certificates.as_ref().map(|(_, read)| read.subscribe());
        supervisor.start("grpc", |stop| {
            grpc::serve(server, listener, renewed, state, stop)
        });
        if let Some((files, read)) = certificates {
            supervisor.start("certificates", |stop| {
                follow_certificates(files, read, stop)
            });
        }
    }
    if let Some(listener) = http {
        let pulse = Arc::new(Pulse::new(options.resync * 3 + ROUND_PATIENCE));
        let (followed, reports) = (Arc::clone(&pulse), agent.reports.clone());
        supervisor.start("pulse", |stop| async move {
            followed.follow(reports, stop).await;
            Ok::<(), Infallible>(())
        });
        let state = HttpState {
            agent: Arc::clone(&agent),
            pulse,
            log_level,
        };
        supervisor.start("http", |stop| http::serve(listener, state, stop));
    }
    let (dumped, file) = (
        Arc::clone(&agent),
        options.socket.with_file_name("dump.json"),
    );
    supervisor.start("state dump", |stop| ctl::dump_on_signal(dumped, file, stop));
    supervisor.start("control socket", |stop| {
        ctl::server::serve(control, agent, stop)
    });
}

fn tell_started(node: &NodeConfig, options: &AgentOptions) {
    let settings = &node.settings;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = settings.node_name,
        uplinks = settings.uplinks.join(","),
        source = %options.source,
        socket = %options.socket.display(),
        http = options.http.map_or_else(|| "off".to_owned(), |address| address.to_string()),
        "agent started"
    );
}

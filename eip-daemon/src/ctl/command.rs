//! `eipctl`: its command line, and one function per verb that asks the agent and renders the answer.

use std::{io::Write as _, net::IpAddr, ops::ControlFlow, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use super::{
    DEFAULT_SOCKET,
    api::{
        BgpRoutes, BgpStatus, BindAnswer, BindBody, Binding, BindingList, BindingPhase, DrainBody,
        ExplainAnswer, FollowEvent, FragmentPart, IcmpErrorKind, NetList, ReasonList, Status,
        TraceAnswer, TraceBody, UnbindAnswer,
    },
    client::{Client, ClientError, escape},
    render,
};
use crate::model::{Announce, DeliveryChoice};

/// What every verb has, after its own.
const GLOBAL: &str = "Global options";

/// Look at, bind and release the elastic IPs of this node.
#[derive(Debug, Parser)]
#[command(
    name = "eipctl",
    version,
    about,
    after_help = "\
Exit codes:
  0  done
  1  failed: no agent, an unknown or refused binding, a binding that is not programmed in time,
     an EIP that `explain` finds broken, a packet that does not arrive in a `trace`, or `status --check` on a node that is not in sync
  2  the command line is wrong"
)]
pub struct Cli {
    /// Control socket of the agent
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "EIP_SOCKET",
        default_value = DEFAULT_SOCKET,
        help_heading = GLOBAL
    )]
    pub socket: PathBuf,

    /// Form of the answer
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORM",
        default_value = "table",
        help_heading = GLOBAL
    )]
    pub output: Output,

    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List every binding and how far it is
    List,
    /// Show one binding with its traffic
    Get {
        /// An EIP, NAME or NAMESPACE/NAME
        binding: String,
    },
    /// Walk from an object to the packets that arrive, and name the first broken link
    Explain {
        /// An EIP, a VM or a binding: NAME or NAMESPACE/NAME
        what: String,
    },
    /// Run the programs on a packet of your own, hop by hop, and on the answer to it; nothing is sent
    Trace(TraceArgs),
    /// Show the node: uplinks, sync, bindings by state, what does not work
    Status {
        /// Exit with 1 unless the node is ready and in sync
        #[arg(long)]
        check: bool,
    },
    /// Bind an elastic IP to a VM, and wait until it works
    Bind(BindArgs),
    /// Release an elastic IP that was bound with `eipctl bind`
    Unbind {
        /// An EIP, NAME or NAMESPACE/NAME
        binding: String,
    },
    /// Count the packets that were dropped, by reason; or show them as they happen
    Drops(DropsArgs),
    /// List the prefixes the node knows: internal networks and EIP ranges
    Nets,
    /// Show BGP: the speaker, its peers and what they have
    Bgp {
        /// Only this
        view: Option<BgpView>,
    },
    /// Take this node out of service for the network: mark all BGP routes as leaving, then withdraw
    /// them. Lasts over restarts until `undrain`
    Drain {
        /// Seconds between marking and withdrawing
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
        grace: u64,
        /// Wait until every peer has been told
        #[arg(long)]
        wait: bool,
    },
    /// Announce again after `drain`
    Undrain,
    /// Print the agent's whole state as JSON
    Dump,
}

/// What `eipctl bgp` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BgpView {
    /// Every peer with its session.
    Peers,
    /// Every elastic IP and who has it.
    Routes,
}

/// Arguments of `eipctl bind`.
#[derive(Debug, Args)]
pub struct BindArgs {
    /// The elastic IP
    pub eip: IpAddr,
    /// The VM: NAME, or NAMESPACE/NAME
    pub vm: String,
    /// Namespace of VM and binding [default: default]
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Name of the binding [default: made from the EIP]
    #[arg(long)]
    pub name: Option<String>,
    /// Use it for what the VM starts itself, when the VM has several
    #[arg(long)]
    pub primary: bool,
    /// How packets reach the VM [default: the node's choice]
    #[arg(long, value_name = "LANE")]
    pub delivery: Option<DeliveryChoice>,
    /// How the network learns where it is [default: the node's setting]
    #[arg(long, value_name = "HOW")]
    pub announce: Option<Announce>,
    /// Seconds to wait for the outcome; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub wait: u64,
}

/// Arguments of `eipctl drops`.
#[derive(Debug, Args)]
pub struct DropsArgs {
    /// Only those of this binding: an EIP, NAME or NAMESPACE/NAME
    #[arg(value_name = "BINDING")]
    pub binding: Option<String>,
    /// The same
    #[arg(long, value_name = "BINDING", conflicts_with = "binding")]
    pub eip: Option<String>,
    /// Also the packets that were carried or passed on
    #[arg(long)]
    pub all: bool,
    /// Show packets as they happen, until interrupted: what was dropped or took an unusual way
    #[arg(short, long)]
    pub follow: bool,
    /// Only these reasons, separated by commas
    #[arg(long, value_name = "REASONS", requires = "follow")]
    pub reason: Option<String>,
    /// Only at these hooks, separated by commas
    #[arg(long, value_name = "HOOKS", requires = "follow")]
    pub hook: Option<String>,
    /// End after so many packets
    #[arg(short = 'n', long, value_name = "NUMBER", requires = "follow")]
    pub count: Option<u64>,
}

/// Arguments of `eipctl trace`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Source; an EIP of this node means its VM
    #[arg(long, value_name = "ADDRESS")]
    pub from: IpAddr,
    /// Destination
    #[arg(long, value_name = "ADDRESS")]
    pub to: IpAddr,
    /// tcp, udp, icmp or a number
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    pub proto: Proto,
    /// Source port, or the identifier of an echo
    #[arg(long, value_name = "PORT", default_value_t = 49_152)]
    pub sport: u16,
    /// Destination port
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    pub dport: u16,
    /// Length of the IP packet [default: headers only]
    #[arg(long, value_name = "BYTES")]
    pub size: Option<u16>,
    /// No router may cut it up
    #[arg(long)]
    pub df: bool,
    /// TTL or hop limit
    #[arg(long, default_value_t = 64)]
    pub ttl: u8,
    /// TCP: it opens a connection
    #[arg(long)]
    pub syn: bool,
    /// VLAN of the tag it comes with; ID.ID for a VLAN in a VLAN, the outer one first
    #[arg(long, value_name = "ID[.ID]", value_parser = vlan_ids)]
    pub vlan: Option<VlanIds>,
    /// It is a part of a larger datagram
    #[arg(long, value_name = "PART")]
    pub fragment: Option<FragmentPart>,
    /// Not this packet, but the ICMP error its sender sends about the answer to it
    #[arg(long, value_name = "ERROR", conflicts_with = "fragment")]
    pub icmp_error: Option<IcmpErrorKind>,
    /// Where it comes in: an uplink or a VM's port; with --vlan the interface below [default: by its source]
    #[arg(long = "in", value_name = "INTERFACE")]
    pub interface: Option<String>,
}

/// Ids of one VLAN tag or two, the outer one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanIds(Vec<u16>);

fn vlan_ids(text: &str) -> Result<VlanIds, String> {
    let id = |part: &str| part.parse().ok().filter(|id| (1..4095).contains(id));
    let ids: Option<Vec<u16>> = text.split('.').map(id).collect();
    ids.filter(|ids| ids.len() <= 2)
        .map(VlanIds)
        .ok_or_else(|| "not a VLAN id from 1 to 4094, or two with a dot between".to_owned())
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP of the addresses' family.
    Icmp,
    /// By number.
    Number(u8),
}

impl std::str::FromStr for Proto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            other => {
                let number = other.parse().map(Self::Number);
                number.map_err(|_| "not tcp, udp, icmp or a number up to 255".to_owned())
            }
        }
    }
}

impl Proto {
    const fn number(self, is_ipv4: bool) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp if is_ipv4 => 1,
            Self::Icmp => 58,
            Self::Number(number) => number,
        }
    }
}

/// What a verb has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    /// What did not turn out well although the agent did what it could; exit code 1.
    pub complaint: Option<Complaint>,
}

/// Something that did not turn out well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// What.
    pub error: String,
    /// Why.
    pub cause: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self {
            text,
            complaint: None,
        }
    }
}

/// Carries out a command line.
///
/// # Errors
/// No agent, no answer, or an answer that is an error.
pub async fn run(cli: Cli) -> Result<Answer, ClientError> {
    let client = Client::new(&cli.socket);
    match cli.verb {
        Verb::List => {
            let list: BindingList = client.get("/v1/bindings").await?;
            Ok(show(cli.output, &list, |list| render::bindings(&list.bindings)).into())
        }
        Verb::Get { binding } => {
            let binding: Binding = client.get(&binding_path(&binding)).await?;
            Ok(show(cli.output, &binding, render::binding).into())
        }
        Verb::Trace(args) => trace(&client, cli.output, args).await,
        Verb::Explain { what } => explain(&client, cli.output, &what).await,
        Verb::Status { check } => status(&client, cli.output, check).await,
        Verb::Bind(args) => bind(&client, cli.output, args).await,
        Verb::Unbind { binding } => {
            let gone: UnbindAnswer = client.delete(&binding_path(&binding)).await?;
            Ok(show(cli.output, &gone, render::unbound).into())
        }
        Verb::Drops(args) if args.follow => follow(&client, cli.output, args).await,
        Verb::Drops(args) => {
            let binding = args.binding.or(args.eip);
            drops(&client, cli.output, binding, args.all).await
        }
        Verb::Nets => {
            let list: NetList = client.get("/v1/nets").await?;
            Ok(show(cli.output, &list, |list| render::nets(&list.nets)).into())
        }
        Verb::Bgp { view } => bgp(&client, cli.output, view).await,
        Verb::Drain { grace, wait } => drain(&client, cli.output, grace, wait).await,
        Verb::Undrain => {
            let status: BgpStatus = client.delete("/v1/drain").await?;
            Ok(show(cli.output, &status, |_| "no longer drained\n".to_owned()).into())
        }
        Verb::Dump => {
            let dump: serde_json::Value = client.get("/v1/dump").await?;
            Ok(json(&dump).into())
        }
    }
}

fn binding_path(key: &str) -> String {
    format!("/v1/bindings/{}", escape(key))
}

fn show<T: Serialize>(output: Output, answer: &T, table: impl FnOnce(&T) -> String) -> String {
    match output {
        Output::Json => json(answer),
        Output::Table => table(answer),
    }
}

fn json(answer: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(answer).unwrap_or_default();
    format!("{text}\n")
}

async fn trace(client: &Client, output: Output, args: TraceArgs) -> Result<Answer, ClientError> {
    let body = TraceBody {
        from: args.from,
        to: args.to,
        protocol: args.proto.number(args.from.is_ipv4()),
        source_port: args.sport,
        destination_port: args.dport,
        size: args.size,
        dont_fragment: args.df,
        ttl: args.ttl,
        syn: args.syn,
        vlan: args.vlan.map(|ids| ids.0).unwrap_or_default(),
        fragment: args.fragment,
        icmp_error: args.icmp_error,
        interface: args.interface,
    };
    let answer: TraceAnswer = client.post("/v1/trace", &body, Duration::ZERO).await?;
    let text = show(output, &answer, render::trace);
    let ways = [Some(&answer.forward), answer.reply.as_ref()];
    let names = ["the packet", "the answer to it"];
    let lost = ways.into_iter().zip(names).find_map(|(way, name)| {
        let way = way.filter(|way| way.arrives == Some(false))?;
        Some((name, way))
    });
    let complaint = lost.map(|(name, way)| Complaint {
        error: format!("{name} does not arrive"),
        cause: Some(way.end.clone()),
        hint: None,
    });
    Ok(Answer { text, complaint })
}

async fn explain(client: &Client, output: Output, what: &str) -> Result<Answer, ClientError> {
    let path = format!("/v1/explain/{}", escape(what));
    let answer: ExplainAnswer = client.get(&path).await?;
    let text = show(output, &answer, render::explanations);
    let broken = answer.explanations.iter().find_map(|explanation| {
        let name = explanation.broken.as_ref()?;
        let link = explanation.chain.iter().find(|link| link.name == *name)?;
        Some((explanation.eip, link))
    });
    let complaint = broken.map(|(eip, link)| Complaint {
        error: format!(
            "{eip} does not work: the first broken link is `{}`",
            link.name
        ),
        cause: Some(link.found.clone()),
        hint: link.cure.clone(),
    });
    Ok(Answer { text, complaint })
}

async fn status(client: &Client, output: Output, check: bool) -> Result<Answer, ClientError> {
    let status: Status = client.get("/v1/status").await?;
    let text = show(output, &status, render::status);
    let is_good = status.ready && status.in_sync;
    let complaint = (check && !is_good).then(|| Complaint {
        error: format!("{} is not in sync", status.node),
        cause: status.not_ready.or(status.round_error),
        hint: None,
    });
    Ok(Answer { text, complaint })
}

async fn bgp(
    client: &Client,
    output: Output,
    view: Option<BgpView>,
) -> Result<Answer, ClientError> {
    if view == Some(BgpView::Routes) {
        let routes: BgpRoutes = client.get("/v1/bgp/routes").await?;
        return Ok(show(output, &routes, |list| render::bgp::routes(&list.routes)).into());
    }
    let status: BgpStatus = client.get("/v1/bgp").await?;
    let table = match view {
        Some(BgpView::Peers) => render::bgp::peers,
        _ => render::bgp::status,
    };
    Ok(show(output, &status, table).into())
}

/// Until a peer that takes nothing is not waited for any longer, after the grace.
const DRAIN_PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks.
const DRAIN_LOOK: Duration = Duration::from_millis(200);

async fn drain(
    client: &Client,
    output: Output,
    grace: u64,
    wait: bool,
) -> Result<Answer, ClientError> {
    let body = DrainBody {
        grace_seconds: grace,
    };
    let mut status: BgpStatus = client.post("/v1/drain", &body, Duration::ZERO).await?;
    let end = tokio::time::Instant::now() + Duration::from_secs(grace) + DRAIN_PATIENCE;
    let is_done = |status: &BgpStatus| status.drain.as_ref().is_some_and(|drain| drain.withdrawn);
    while wait && !is_done(&status) && tokio::time::Instant::now() < end {
        tokio::time::sleep(DRAIN_LOOK).await;
        status = client.get("/v1/bgp").await?;
    }
    let complaint = (wait && !is_done(&status)).then(|| Complaint {
        error: "some peer has not been told yet".to_owned(),
        cause: None,
        hint: Some("look at `eipctl bgp peers`; the node stays drained".to_owned()),
    });
    let text = show(output, &status, |status| {
        if is_done(status) {
            "drained: every route is withdrawn\n".to_owned()
        } else {
            format!("drained: routes are marked now and withdrawn in {grace} s\n")
        }
    });
    Ok(Answer { text, complaint })
}

async fn drops(
    client: &Client,
    output: Output,
    binding: Option<String>,
    all: bool,
) -> Result<Answer, ClientError> {
    let path = match &binding {
        Some(key) => format!("/v1/drops?eip={}", escape(key)),
        None => "/v1/drops".to_owned(),
    };
    let mut list: ReasonList = client.get(&path).await?;
    if !all {
        list.reasons.retain(|reason| reason.class == "drop");
    }
    Ok(show(output, &list, |list| render::drops(list, all)).into())
}

/// Writes each packet as it comes: there is no end to wait for.
async fn follow(client: &Client, output: Output, args: DropsArgs) -> Result<Answer, ClientError> {
    let mut path = format!("/v1/drops/follow?all={}", args.all);
    let binding = args.binding.or(args.eip);
    for (name, value) in [
        ("eip", binding),
        ("reason", args.reason),
        ("hook", args.hook),
    ] {
        if let Some(value) = value {
            path.extend(["&", name, "=", &escape(&value)]);
        }
    }
    let mut left = args.count.unwrap_or(u64::MAX);
    let see = |event: FollowEvent| {
        left -= u64::from(event.sample.is_some());
        let line = match output {
            Output::Json if event == FollowEvent::default() => String::new(),
            Output::Json => serde_json::to_string(&event).unwrap_or_default() + "\n",
            Output::Table => render::event(&event),
        };
        let mut out = std::io::stdout().lock();
        let written = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        if written.is_err() || left == 0 {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    client.follow(&path, see).await?;
    let complaint = (left > 0 && args.count.is_some()).then(|| Complaint {
        error: "the agent stopped before so many packets were seen".to_owned(),
        cause: None,
        hint: None,
    });
    Ok(Answer {
        text: String::new(),
        complaint,
    })
}

async fn bind(client: &Client, output: Output, args: BindArgs) -> Result<Answer, ClientError> {
    let wait = Duration::from_secs(args.wait);
    let (namespace, vm) = match args.vm.split_once('/') {
        Some((namespace, vm)) if args.namespace.is_none() => (Some(namespace.to_owned()), vm),
        _ => (args.namespace, args.vm.as_str()),
    };
    let body = BindBody {
        eip: args.eip,
        vm: vm.to_owned(),
        namespace,
        name: args.name,
        primary: args.primary,
        delivery: args.delivery,
        announce: args.announce,
        wait_ms: args.wait * 1000,
    };
    let answer: BindAnswer = client.post("/v1/bindings", &body, wait).await?;
    let complaint = unfinished(&body, &answer, wait);
    let text = match (output, &complaint) {
        (Output::Table, Some(_)) => String::new(),
        _ => show(output, &answer, |answer| render::bound(&body, answer)),
    };
    Ok(Answer { text, complaint })
}

/// What is to be said when the object is written but does not work, or not yet.
fn unfinished(body: &BindBody, answer: &BindAnswer, wait: Duration) -> Option<Complaint> {
    let state = answer.binding.as_ref().map(|binding| binding.state);
    let is_bad = match state {
        Some(BindingPhase::Programmed) => false,
        Some(BindingPhase::Refused | BindingPhase::Failing) => true,
        _ => !wait.is_zero(),
    };
    if !is_bad {
        return None;
    }
    let word = state.map_or("not seen by the agent yet", BindingPhase::name);
    let cause = answer
        .binding
        .as_ref()
        .and_then(|binding| binding.message.clone());
    Some(Complaint {
        error: format!("{} is not bound to {} yet: {word}", body.eip, body.vm),
        cause,
        hint: Some(format!(
            "the binding is kept in {} and served as soon as that is possible; `eipctl unbind {}` \
             takes it back",
            answer.file, body.eip
        )),
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, Verb};

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn socket_and_output_may_stand_behind_the_verb() {
        let cli = Cli::parse_from(["eipctl", "list", "-o", "json", "--socket", "/s"]);
        assert_eq!(cli.socket.to_str(), Some("/s"));
        assert!(matches!(cli.verb, Verb::List));
    }

    #[test]
    fn what_is_no_eip_is_refused_before_anybody_is_asked() {
        assert!(Cli::try_parse_from(["eipctl", "bind", "203.0.113", "vm"]).is_err());
    }
}

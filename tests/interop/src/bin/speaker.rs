//! The speaker as a process of its own, for tests: peers from the command line, everything else
//! from standard input, one command a line. `status` answers with one line of JSON, every other
//! command with `ok`.
//!
//! ```text
//! routes 1000        desired set: so many IPv4 and so many IPv6 host routes, complete
//! routes4 1000       the same without IPv6
//! partial 1000       the same, not complete
//! med 5              MED of all peers
//! community 65001:7  community of all routes, in place of the one before
//! drain 3            graceful shutdown, withdrawal after 3 s
//! undrain
//! leave / keep       shut down, withdrawing or not
//! ```
#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use eip_daemon::announce::bgp::{
    AttributeSet, Communities, Exit, Initiative, Password, PeerAs, PeerConfig, Reach, Route,
    RouteAttributes, Speaker, SpeakerConfig,
    bfd::{BfdSettings, Role, Strictness},
};
use ipnet::IpNet;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

/// A BGP speaker for tests.
#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "switches")]
struct Options {
    /// Our AS.
    #[arg(long)]
    local_as: u32,
    /// BGP identifier.
    #[arg(long)]
    id: Ipv4Addr,
    /// Where to listen; may be repeated.
    #[arg(long)]
    listen: Vec<SocketAddr>,
    /// A peer; may be repeated. All other options hold for all of them.
    #[arg(long)]
    peer: Vec<IpAddr>,
    /// The router on an interface; may be repeated.
    #[arg(long)]
    unnumbered: Vec<String>,
    /// Whoever dials from a prefix; may be repeated.
    #[arg(long)]
    range: Vec<IpNet>,
    /// Interface of a link-local peer.
    #[arg(long)]
    interface: Option<String>,
    /// The peers' AS.
    #[arg(long)]
    peer_as: u32,
    /// Key of TCP MD5.
    #[arg(long)]
    password: Option<String>,
    /// Never dial.
    #[arg(long)]
    passive: bool,
    /// GTSM for neighbours on the link.
    #[arg(long)]
    ttl_security: bool,
    /// Hops.
    #[arg(long)]
    multihop: Option<u8>,
    /// BFD at this many milliseconds, three lost.
    #[arg(long)]
    bfd: Option<u64>,
    /// Lowest TTL that BFD believes.
    #[arg(long, default_value_t = 255)]
    bfd_min_ttl: u8,
    /// BFD waits for the router to begin.
    #[arg(long)]
    bfd_passive: bool,
    /// BGP waits for BFD.
    #[arg(long)]
    bfd_strict: bool,
    /// Hold time in seconds.
    #[arg(long, default_value_t = 90)]
    hold: u64,
    /// Longest time a peer may take no byte, in seconds.
    #[arg(long)]
    send_hold: Option<u64>,
    /// Restart time in seconds.
    #[arg(long, default_value_t = 120)]
    restart_time: u64,
}

impl Options {
    fn speaker(&self) -> SpeakerConfig {
        let mut config = SpeakerConfig::new(self.local_as, self.id);
        "speaker".clone_into(&mut config.hostname);
        config.listen.clone_from(&self.listen);
        config.restart_time = Duration::from_secs(self.restart_time);
        config
    }

    fn bfd(&self, interval: u64) -> BfdSettings {
        let interval = Duration::from_millis(interval);
        BfdSettings {
            min_tx: interval,
            min_rx: interval,
            min_ttl: self.bfd_min_ttl,
            role: if self.bfd_passive {
                Role::Passive
            } else {
                Role::Active
            },
            strictness: if self.bfd_strict {
                Strictness::Strict
            } else {
                Strictness::Lenient
            },
            ..BfdSettings::default()
        }
    }

    fn peers(&self, med: Option<u32>) -> anyhow::Result<Vec<PeerConfig>> {
        let mut peers = Vec::new();
        let asn = PeerAs::Number(self.peer_as);
        let known = self.peer.iter().map(|address| {
            let mut peer = PeerConfig::new(&address.to_string(), *address, asn);
            peer.transport.interface.clone_from(&self.interface);
            peer
        });
        let heard = self
            .unnumbered
            .iter()
            .map(|interface| PeerConfig::on_interface(interface, interface, asn));
        let guests = self
            .range
            .iter()
            .map(|range| PeerConfig::in_range(&range.to_string(), *range, asn));
        for mut peer in known.chain(heard).chain(guests) {
            peer.session.hold_time = Duration::from_secs(self.hold);
            peer.session.send_hold_time = self.send_hold.map(Duration::from_secs);
            peer.session.connect_timeout = Duration::from_secs(3);
            peer.export.med = med;
            let transport = &mut peer.transport;
            transport.password = self.password.clone().map(Password::new).transpose()?;
            if self.passive {
                transport.initiative = Initiative::Passive;
            }
            transport.reach = match (self.ttl_security, self.multihop) {
                (true, _) => Reach::TtlSecurity(1),
                (false, Some(hops)) => Reach::Multihop(hops),
                (false, None) => Reach::Direct,
            };
            peer.bfd = self.bfd.map(|interval| self.bfd(interval));
            peers.push(peer);
        }
        Ok(peers)
    }
}

/// The first `count` host routes of each family.
fn routes(count: u32, communities: &Communities) -> anyhow::Result<Vec<Route>> {
    let attributes = AttributeSet::new(RouteAttributes {
        communities: communities.clone(),
        ..RouteAttributes::default()
    })?;
    let base6 = Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 0).to_bits();
    let route = |address: IpAddr| Route {
        prefix: address.into(),
        attributes: attributes.clone(),
    };
    let ipv4 = (0..count).map(|index| IpAddr::V4(Ipv4Addr::from_bits(0x6440_0000 + index)));
    let ipv6 = (0..count).map(|index| IpAddr::V6(Ipv6Addr::from_bits(base6 + u128::from(index))));
    Ok(ipv4.chain(ipv6).map(route).collect())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let options = Options::parse();
    let speaker = Speaker::start(&options.speaker())?;
    configure(&speaker, &options, None)?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut communities = Communities::default();
    let mut count = 0;
    while let Some(line) = lines.next_line().await? {
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let mut answer = "ok".to_owned();
        match verb {
            "routes" | "partial" => {
                count = argument.parse()?;
                speaker.set_routes(routes(count, &communities)?, verb == "routes");
            }
            "routes4" => {
                count = argument.parse()?;
                let mut routes = routes(count, &communities)?;
                routes.retain(|route| route.prefix.addr().is_ipv4());
                speaker.set_routes(routes, true);
            }
            "community" => {
                let (high, low) = argument.split_once(':').context("community HIGH:LOW")?;
                let low: u32 = low.parse()?;
                communities.standard = [(high.parse::<u32>()? << 16) | low].into();
                communities.large = [[4_200_000_000, 1, low]].into();
                speaker.set_routes(routes(count, &communities)?, true);
            }
            "med" => configure(&speaker, &options, Some(argument.parse()?))?,
            "drain" => speaker.drain(Duration::from_secs(argument.parse()?)),
            "undrain" => speaker.undrain(),
            "status" => answer = serde_json::to_string(&speaker.status())?,
            "leave" => return leave(speaker, Exit::Withdraw { text: "test ends" }).await,
            "keep" => return leave(speaker, Exit::Keep).await,
            _ => anyhow::bail!("unknown command `{line}`"),
        }
        reply(&answer).await?;
    }
    Ok(())
}

fn configure(speaker: &Speaker, options: &Options, med: Option<u32>) -> anyhow::Result<()> {
    match speaker.set_peers(options.peers(med)?).into_iter().next() {
        Some(refused) => Err(refused.into()),
        None => Ok(()),
    }
}

async fn leave(speaker: Speaker, exit: Exit) -> anyhow::Result<()> {
    speaker.shutdown(exit).await;
    reply("ok").await
}

async fn reply(line: &str) -> anyhow::Result<()> {
    let mut out = tokio::io::stdout();
    out.write_all(line.as_bytes()).await?;
    out.write_all(b"\n").await?;
    out.flush().await?;
    Ok(())
}

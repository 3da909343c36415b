//! BIRD as the lab's router: what it learns over BGP becomes its kernel's routes, and nothing else
//! leads to an EIP any more.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};

use crate::{
    command,
    netns::Ns,
    plan::{self, CLIENT, NODE_UPLINK, ROUTER_CLIENT, ROUTER_UPLINK},
    wait::wait_until,
};

/// The router's AS.
pub const ROUTER_AS: u32 = 64500;
/// The node's AS.
pub const NODE_AS: u32 = 64512;
/// The AS of another node.
pub const OTHER_AS: u32 = 64513;
/// Where Debian has it.
const PROGRAM: &str = "/usr/sbin/bird";
/// How long it may take to learn, to forget, to answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// How it is set up toward the node.
#[derive(Debug, Clone, Default)]
pub struct BirdOptions {
    /// Key of TCP MD5.
    pub password: Option<&'static str>,
    /// AS it expects of the node, when it is not [`NODE_AS`].
    pub expected_as: Option<u32>,
    /// It takes routes from another node as well, see [`Bird::start_other_node`].
    pub other_node: bool,
}

/// A running BIRD; stopped when dropped.
#[derive(Debug)]
pub struct Bird {
    child: Child,
    dir: PathBuf,
}

impl Bird {
    /// Whether it is there.
    #[must_use]
    pub fn is_installed() -> bool {
        Path::new(PROGRAM).exists()
    }

    /// Starts it in the router's namespace and takes the static routes to the EIPs away.
    ///
    /// # Errors
    /// When it does not start or does not answer.
    pub fn start(router: &Ns, dir: &Path, options: &BirdOptions) -> anyhow::Result<Self> {
        for range in [plan::EIP_CIDR, plan::EIP_CIDR6] {
            router.ip(&format!("route del {range}\n"))?;
        }
        Self::launch(router, dir, &configuration(options))
    }

    /// Starts one that stands for another node which announces a prefix too, with a path of two ASes, from
    /// the client's namespace.
    ///
    /// # Errors
    /// When it does not start or does not answer.
    pub fn start_other_node(client: &Ns, dir: &Path, prefix: &str) -> anyhow::Result<Self> {
        let (router, node) = (ROUTER_CLIENT.v4, CLIENT.v4);
        let config = format!(
            "log stderr all;
router id {node};
protocol device {{}}
protocol static {{ ipv4; route {prefix} blackhole; }}
protocol bgp to_router {{
  local {node} as {OTHER_AS};
  neighbor {router} as {ROUTER_AS};
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv4 {{ import none; export filter {{ bgp_path.prepend({OTHER_AS}); accept; }}; }};
}}
"
        );
        Self::launch(client, dir, &config)
    }

    /// Starts one in a namespace with a configuration of the caller's own.
    ///
    /// # Errors
    /// When it does not start or does not answer.
    pub fn launch(ns: &Ns, dir: &Path, text: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let config = dir.join("bird.conf");
        fs::write(&config, text).context("write bird.conf")?;
        let log = File::create(dir.join("bird.log"))?;
        let child = ns
            .command(PROGRAM)
            .arg("-f")
            .arg("-c")
            .arg(&config)
            .arg("-s")
            .arg(dir.join("bird.ctl"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start bird, of the package bird2")?;
        let bird = Self {
            child,
            dir: dir.to_owned(),
        };
        wait_until(PATIENCE, "bird answers", || {
            bird.ask(&["show", "status"]).is_ok()
        })
        .with_context(|| bird.log())?;
        Ok(bird)
    }

    /// Asks it with `birdc`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        let control = self.dir.join("bird.ctl");
        command::output(Command::new("birdc").arg("-s").arg(control).args(words))
    }

    /// The prefixes it has learnt from the node, sorted.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn routes(&self) -> anyhow::Result<Vec<String>> {
        let answer = self.ask(&["show", "route", "protocol", "node"])?;
        let first = answer
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let mut routes: Vec<String> = first
            .filter(|word| word.contains('/'))
            .map(str::to_owned)
            .collect();
        routes.sort();
        routes.dedup();
        Ok(routes)
    }

    /// All it knows about one route.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn describe(&self, prefix: &str) -> anyhow::Result<String> {
        self.ask(&["show", "route", prefix, "all"])
    }

    /// Waits until it has learnt these prefixes and no others.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn wait_routes(&self, expected: &[&str]) -> anyhow::Result<()> {
        wait_until(PATIENCE, &format!("the router knows {expected:?}"), || {
            self.routes().is_ok_and(|routes| routes == expected)
        })
        .with_context(|| format!("it knows {:?}\n{}", self.routes(), self.log()))
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("bird.log")).unwrap_or_default()
    }
}

/// BIRD's control socket, which answers faster than `birdc` starts.
#[derive(Debug)]
pub struct Console(UnixStream);

impl Console {
    /// Connects to `bird.ctl` in a directory.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(dir: &Path) -> anyhow::Result<Self> {
        let mut console = Self(UnixStream::connect(dir.join("bird.ctl"))?);
        console.0.set_read_timeout(Some(PATIENCE))?;
        console.answer()?;
        Ok(console)
    }

    /// Asks a line.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        writeln!(self.0, "{line}")?;
        self.answer()
    }

    /// Lines up to one whose code is followed by a blank.
    fn answer(&mut self) -> anyhow::Result<String> {
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let len = self.0.read(&mut buffer)?;
            ensure!(len > 0, "BIRD has closed");
            answer.extend_from_slice(&buffer[..len]);
            if is_last(&answer) {
                return Ok(String::from_utf8_lossy(&answer).into_owned());
            }
        }
    }
}

/// Whether an answer ends with its last line: four digits and a blank.
fn is_last(answer: &[u8]) -> bool {
    let Some(lines) = answer.strip_suffix(b"\n") else {
        return false;
    };
    let last = lines.rsplit(|byte| *byte == b'\n').next();
    last.and_then(|line| line.split_at_checked(4))
        .is_some_and(|(code, rest)| {
            code.iter().all(u8::is_ascii_digit) && rest.first() == Some(&b' ')
        })
}

impl Drop for Bird {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(options: &BirdOptions) -> String {
    let expected = options.expected_as.unwrap_or(NODE_AS);
    let password = options
        .password
        .map_or_else(String::new, |key| format!("password \"{key}\";"));
    let (router, node) = (ROUTER_UPLINK.v4, NODE_UPLINK.v4);
    let other = if options.other_node {
        let (router, node) = (ROUTER_CLIENT.v4, CLIENT.v4);
        format!(
            "protocol bgp other_node {{
  local {router} as {ROUTER_AS};
  neighbor {node} as {OTHER_AS};
  passive on;
  ipv4 {{ import filter hosts4; export none; }};
}}
"
        )
    } else {
        String::new()
    };
    format!(
        "log stderr all;
debug protocols {{ states, events }};
router id {router};
protocol device {{}}
protocol direct {{ ipv4; ipv6; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; }}
filter hosts4 {{ if net.len >= 24 then accept; reject; }}
filter hosts6 {{ if net.len >= 64 then accept; reject; }}
protocol bgp node {{
  local {router} as {ROUTER_AS};
  neighbor {node} as {expected};
  passive on;
  hold time 9;
  {password}
  graceful restart aware;
  ipv4 {{ import filter hosts4; export none; }};
  ipv6 {{ import filter hosts6; export none; }};
}}
{other}"
    )
}

#[cfg(test)]
mod tests {
    use super::is_last;

    #[test]
    fn an_answer_ends_with_a_code_and_a_blank() {
        assert!(is_last(b"0001 BIRD 2.0.12 ready.\n"));
        assert!(is_last(
            b"1007-198.18.0.1/32 unicast\n \tvia 192.0.2.11\n0000 \n"
        ));
        assert!(!is_last(b"1007-198.18.0.1/32 unicast\n"));
        assert!(!is_last(b"1007-198.18.0.1/32\n0000 and no end"));
        assert!(!is_last(b""));
    }
}

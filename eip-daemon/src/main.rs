//! `eip-daemon`: reads the command line, runs one verb, turns the outcome into an exit code.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use eip_daemon::{
    agent, check, cleanup,
    cli::{AgentArgs, CheckArgs, CleanupArgs, Cli, Command, ControllerArgs, ImportArgs},
    config::{
        ConfigError, Discovered, OLDER_PREFIX, resolve_agent, resolve_controller, resolve_node,
    },
    controller, dataplane, import, logging,
    source::objects,
};

/// The command line or the environment is wrong; clap's own code for it.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Agent(args) => run_agent(*args).await,
        Command::Check(args) => run_check(*args).await,
        Command::Cleanup(args) => run_cleanup(args).await,
        Command::Controller(args) => run_controller(args).await,
        Command::Import(args) => run_import(&args),
        Command::Crd => print_definitions(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("eip-daemon: {error:#}");
        ExitCode::from(if error.is::<ConfigError>() { USAGE } else { 1 })
    })
}

async fn discover() -> Result<Discovered> {
    let view = dataplane::discover(&BTreeSet::new())
        .await
        .context("look at this node")?;
    Ok(Discovered {
        host_name: host_name(),
        view,
        older_variables: env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(OLDER_PREFIX))
            .collect(),
    })
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

async fn run_controller(args: ControllerArgs) -> Result<ExitCode> {
    let options = resolve_controller(&args, &host_name())?;
    // A controller needs no change of its level while it runs: it is restarted without harm.
    let _level = logging::start(&options.log_level, args.log.format)?;
    controller::run(options).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_agent(args: AgentArgs) -> Result<ExitCode> {
    let found = discover().await?;
    let (node, options) = resolve_agent(&args, &found)?;
    let log_level = logging::start(&options.log_level, args.process.log.format)?;
    agent::run(node, options, log_level).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_check(args: CheckArgs) -> Result<ExitCode> {
    let found = discover().await?;
    let node = resolve_node(&args.node, &found)?;
    let checkup = check::run(&node, &found).await;
    say(&checkup.render(args.output));
    Ok(if checkup.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn run_cleanup(args: CleanupArgs) -> Result<ExitCode> {
    let removed = cleanup::run(&args).await.context("clean up")?;
    say(&cleanup::render(&removed));
    Ok(if removed.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_import(args: &ImportArgs) -> Result<ExitCode> {
    let imported = import::run(args)?;
    say(&imported.output);
    eprint!("{}", imported.report);
    Ok(if imported.is_partial {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn print_definitions() -> Result<ExitCode> {
    say(&objects::definitions_as_yaml().context("write the definitions")?);
    Ok(ExitCode::SUCCESS)
}

/// A reader who has seen enough (`| head`) is no error.
fn say(text: &str) {
    let _reader_gone = io::stdout().write_all(text.as_bytes());
}

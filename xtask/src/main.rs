//! Everything a developer or CI does with this tree: `cargo xtask` lists the verbs.
//!
//! This file only dispatches; each verb is one file, and the doc comment of its arguments is its
//! help. Every command a verb runs is printed first, in a form that can be pasted.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

mod apt;
mod bench;
mod build;
mod check;
mod ci;
mod cluster;
mod command;
mod demo;
mod doctor;
mod fuzz;
mod generate;
mod image;
mod lab;
mod modules;
mod needs;
mod setup;
mod steps;
mod test;
mod toolchain;

/// Builds, checks, tests and shows kube-eip.
///
/// Start with `cargo xtask demo`: it fetches what it needs and shows an elastic IP at work.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Setup(setup::Args),
    Doctor(doctor::Args),
    Build(build::Args),
    Check(check::Args),
    Test(test::Args),
    Demo(demo::Args),
    Lab(lab::Args),
    Bench(bench::Args),
    Fuzz(fuzz::Args),
    Gen(generate::Args),
    Modules(modules::Args),
    Image(image::Args),
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let Some(verb) = Cli::parse().verb else {
        return match Cli::command().print_long_help() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    };
    let done = match verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Build(args) => build::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Lab(args) => lab::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Gen(args) => generate::run(&args),
        Verb::Image(args) => image::run(&args),
        Verb::Modules(args) => modules::run(&args),
        Verb::Ci(args) => ci::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn every_verb_has_a_help_line() {
        let cli = super::Cli::command();
        cli.clone().debug_assert();
        for verb in cli.get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
        }
    }
}

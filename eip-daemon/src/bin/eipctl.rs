//! `eipctl`: asks the agent of this node. All of it is in [`eip_daemon::ctl`].
#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use eip_daemon::ctl::{
    client::ClientError,
    command::{Cli, Complaint, run},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let complaint = match run(Cli::parse()).await {
        Ok(answer) => {
            print(&answer.text);
            answer.complaint
        }
        Err(error) => Some(complaint(&error)),
    };
    match complaint {
        None => ExitCode::SUCCESS,
        Some(complaint) => {
            complain(&complaint);
            ExitCode::FAILURE
        }
    }
}

/// A reader who has seen enough (`| head`) is no error.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _reader_gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn complaint(error: &ClientError) -> Complaint {
    let cause = match error {
        ClientError::Refused { body } => body.cause.clone(),
        other => std::error::Error::source(other).map(|cause| format!("{cause:#}")),
    };
    Complaint {
        error: error.to_string(),
        cause,
        hint: error.hint(),
    }
}

fn complain(complaint: &Complaint) {
    eprintln!("eipctl: {}", complaint.error);
    if let Some(cause) = &complaint.cause {
        eprintln!("  cause: {cause}");
    }
    if let Some(hint) = &complaint.hint {
        eprintln!("  hint: {hint}");
    }
}

//! How callers of the older agent are served: known ones, or those of this node alone.

use std::{net::SocketAddr, path::PathBuf};

use super::{Findings, GrpcListen, TlsFiles};
use crate::cli::GrpcArgs;

const LISTEN: &str = "--grpc-listen";
const PLAIN_TEXT: &str = "--grpc-plain-text";

/// `None` where nothing is asked for, and after a problem, which keeps the agent from starting.
pub(super) fn grpc(args: &GrpcArgs, findings: &mut Findings) -> Option<GrpcListen> {
    let files = [
        ("--grpc-cert", &args.certificate),
        ("--grpc-key", &args.key),
        ("--grpc-client-ca", &args.client_ca),
    ];
    let given = |file: &Option<PathBuf>| file.clone().filter(|path| !path.as_os_str().is_empty());
    let text = args.grpc_listen.as_deref().unwrap_or_default().trim();
    let set: Vec<&'static str> = files
        .iter()
        .filter(|(_, file)| given(file).is_some())
        .map(|(flag, _)| *flag)
        .collect();
    if text.is_empty() || text == "off" {
        for flag in set.into_iter().chain(args.plain_text.then_some(PLAIN_TEXT)) {
            findings.refuse(flag, format!("means nothing without {LISTEN}"));
        }
        return None;
    }
    let address = findings.keep(LISTEN, address(text))?;
    if args.plain_text {
        if let Some(flag) = set.first() {
            findings.refuse(flag, format!("contradicts {PLAIN_TEXT}: choose one"));
        }
        if !address.ip().is_loopback() {
            let text = format!(
                "{address} is reachable from the network, where anybody could bind and unbind: \
                 listen on 127.0.0.1 or [::1], or give --grpc-cert, --grpc-key and --grpc-client-ca"
            );
            findings.refuse(PLAIN_TEXT, text);
        }
        return Some(GrpcListen { address, tls: None });
    }
    let [certificate, key, client_ca] = files.map(|(flag, file)| {
        let file = given(file);
        if file.is_none() {
            let text = format!(
                "is missing: {LISTEN} asks callers for certificates, or wants {PLAIN_TEXT} on loopback"
            );
            findings.refuse(flag, text);
        }
        file
    });
    let tls = TlsFiles {
        certificate: certificate?,
        key: key?,
        client_ca: client_ca?,
    };
    Some(GrpcListen {
        address,
        tls: Some(tls),
    })
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is no address and port: write for example 192.0.2.9:6127 or [::1]:6127")
    })
}

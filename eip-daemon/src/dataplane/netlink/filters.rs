//! clsact: the qdisc, and the direct-action filters in it.
//!
//! aya attaches and replaces filters; this finds them, tells ours from others and removes them.

use std::{collections::BTreeSet, io};

use eip_common::abi::program;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
};

use super::{NetlinkError, RouteClient, is_gone};

/// The side of an interface a filter works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// What the interface receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Side {
    const fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle {
            major: u16::MAX,
            minor,
        }
    }
}

/// A filter of the clsact qdisc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Lower runs first.
    pub(crate) priority: u16,
    /// Unique inside a priority.
    pub(crate) handle: u32,
    /// Name of its program; `None` for a filter that runs none.
    pub(crate) program: Option<String>,
    /// Id of its program.
    pub(crate) program_id: Option<u32>,
    info: u32,
    kind: String,
}

impl Filter {
    /// The name of one of our programs: this process's, or an earlier one's.
    pub(crate) fn is_ours(&self) -> bool {
        self.program
            .as_deref()
            .is_some_and(|name| program::ALL.contains(&name))
    }
}

/// The interfaces that have a clsact qdisc.
pub(crate) async fn interfaces(client: &RouteClient) -> Result<BTreeSet<u32>, NetlinkError> {
    let answers = client
        .dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))
        .await
        .map_err(|source| NetlinkError::new("list queueing disciplines", source))?;
    let qdiscs = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(message) => Some(message),
        _ => None,
    });
    let clsact = qdiscs.filter(|message| kind(message) == Some(CLSACT));
    Ok(clsact
        .filter_map(|message| u32::try_from(message.header.index).ok())
        .collect())
}

/// The filters on one side of an interface, both protocols and all chains.
pub(crate) async fn list(
    client: &RouteClient,
    ifindex: u32,
    side: Side,
) -> Result<Vec<Filter>, NetlinkError> {
    let mut request = TcMessage::with_index(ifindex.cast_signed());
    request.header.parent = side.parent();
    match client
        .dump(RouteNetlinkMessage::GetTrafficFilter(request))
        .await
    {
        Ok(answers) => Ok(answers.iter().filter_map(filter).collect()),
        // The interface or its qdisc went away: no filters.
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::InvalidInput => {
            Ok(Vec::new())
        }
        Err(source) => Err(NetlinkError::new(
            format!("list filters of interface {ifindex}"),
            source,
        )),
    }
}

/// Makes sure the interface has the qdisc.
pub(crate) async fn ensure_qdisc(client: &RouteClient, ifindex: u32) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::NewQueueDiscipline(qdisc(ifindex));
    match client.change(request, NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(NetlinkError::new(
            format!("add clsact to interface {ifindex}"),
            error,
        )),
        _ => Ok(()),
    }
}

/// Removes a filter. Gone is as good.
pub(crate) async fn remove(
    client: &RouteClient,
    ifindex: u32,
    side: Side,
    filter: &Filter,
) -> Result<(), NetlinkError> {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = side.parent();
    message.header.handle = filter.handle.into();
    message.header.info = filter.info;
    message.attributes = vec![TcAttribute::Kind(filter.kind.clone())];
    match client
        .change(RouteNetlinkMessage::DelTrafficFilter(message), 0)
        .await
    {
        Err(source) if !is_gone(&source) && source.kind() != io::ErrorKind::InvalidInput => Err(
            NetlinkError::new(format!("remove filter from interface {ifindex}"), source),
        ),
        _ => Ok(()),
    }
}

/// Removes the qdisc when no filter uses it: who adds the next one adds it again.
pub(crate) async fn remove_unused_qdisc(
    client: &RouteClient,
    ifindex: u32,
) -> Result<(), NetlinkError> {
    for side in [Side::Ingress, Side::Egress] {
        if !list(client, ifindex, side).await?.is_empty() {
            return Ok(());
        }
    }
    match client
        .change(RouteNetlinkMessage::DelQueueDiscipline(qdisc(ifindex)), 0)
        .await
    {
        Err(source) if !is_gone(&source) && source.kind() != io::ErrorKind::InvalidInput => Err(
            NetlinkError::new(format!("remove clsact from interface {ifindex}"), source),
        ),
        _ => Ok(()),
    }
}

const CLSACT: &str = "clsact";

fn qdisc(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.handle = TcHandle {
        major: u16::MAX,
        minor: 0,
    };
    message.header.parent = TcHandle::CLSACT;
    message.attributes = vec![TcAttribute::Kind(CLSACT.to_owned())];
    message
}

fn kind(message: &TcMessage) -> Option<&str> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        })
}

/// Besides the filters themselves the kernel lists their classifier, with handle 0.
fn filter(message: &RouteNetlinkMessage) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = message else {
        return None;
    };
    let handle = u32::from(message.header.handle);
    if handle == 0 {
        return None;
    }
    let options = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options.as_slice()),
            _ => None,
        });
    let mut filter = Filter {
        priority: (message.header.info >> 16) as u16,
        handle,
        program: None,
        program_id: None,
        info: message.header.info,
        kind: kind(message).unwrap_or_default().to_owned(),
    };
    for option in options.unwrap_or_default() {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.program = Some(name.clone()),
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program_id = Some(*id),
            _ => {}
        }
    }
    Some(filter)
}

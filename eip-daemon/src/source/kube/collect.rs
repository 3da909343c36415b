//! From watched objects to facts. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use kube::{
    core::{DynamicObject, ObjectMeta},
    runtime::watcher::Event,
};
use serde::de::DeserializeOwned;

use crate::{
    model::{
        BindingFact, Facts, HandOver, NetFact, NodeFact, ObjectName, Origin, PeerFact,
        RefusedDocument, VmFact, VmInterface, VmPhase,
    },
    source::objects::{
        BINDING_API, BINDING_KIND, BgpPeer, EipBinding, EipBindingStatus, Metadata, Node,
        ObjectError, ServiceCidr,
    },
};

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    /// Bindings this node is to serve.
    Bindings,
    /// Bindings whose VM comes here or came from here.
    OtherBindings,
    /// Nodes, for their pod networks.
    Nodes,
    /// Ranges of service addresses.
    ServiceCidrs,
    /// Routers to announce to.
    Peers,
}

impl Stream {
    pub(crate) const ALL: [Self; 5] = [
        Self::Bindings,
        Self::OtherBindings,
        Self::Nodes,
        Self::ServiceCidrs,
        Self::Peers,
    ];
}

/// What an object says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    /// Serve this VM's address under this elastic IP; still, when it is another node's turn.
    Granted {
        fact: Box<(BindingFact, VmFact)>,
        is_leaving: bool,
        /// Another node still has it in force.
        is_coming: bool,
    },
    /// Another node serves it.
    Elsewhere(Elsewhere),
    /// Another node is to serve it, or none.
    NotHere,
    /// Its networks; of this node also what else it says.
    Node(Box<(NetFact, Option<NodeFact>)>),
    Nets(NetFact),
    Peer(Box<PeerFact>),
    Refused(String),
}

/// Where a binding is served.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Elsewhere {
    eip: Option<IpAddr>,
    node: String,
    /// Address of that node on its uplink's segment.
    address: Option<IpAddr>,
}

/// A binding that was served here until another node did.
#[derive(Debug)]
struct HandedOver {
    since: Instant,
    fact: BindingFact,
}

/// What a node is to serve.
struct Grant {
    eip: String,
    address: String,
    uid: String,
    is_leaving: bool,
    is_coming: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    version: Option<u64>,
    said: Said,
}

/// All that was seen.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    node: String,
    seen: BTreeMap<Stream, BTreeMap<ObjectName, Seen>>,
    listing: BTreeMap<Stream, BTreeMap<ObjectName, Seen>>,
    listed: BTreeSet<Stream>,
    /// Bindings that left one stream and have not come up in the other one yet, and since when: the
    /// labels are exchanged at once, but the two watches do not know of each other.
    changing: BTreeMap<ObjectName, (Instant, Said)>,
    /// How long peers are told of this node too, after another one has taken over.
    hand_over: Option<Duration>,
    handed_over: BTreeMap<ObjectName, HandedOver>,
    /// One moment by both clocks: `CLOCK_BOOTTIME` goes on when another process takes over.
    clocks: Option<(Instant, u64)>,
}

/// How long a binding may be between the two streams.
const BETWEEN_STREAMS: Duration = Duration::from_secs(2);
/// For how many times the hand-over stragglers are sent on: routers that learnt late still send some.
const STRAGGLERS: u32 = 3;

impl Collection {
    pub(crate) fn new(node: String, hand_over: Option<Duration>) -> Self {
        Self {
            node,
            hand_over,
            ..Self::default()
        }
    }

    /// Goes on with the hand-overs of the process before; `boot` is `CLOCK_BOOTTIME` in nanoseconds.
    pub(crate) fn resume(&mut self, before: &Facts, now: Instant, boot: u64) {
        self.clocks = Some((now, boot));
        if self.hand_over.is_none() {
            return;
        }
        for fact in &before.bindings {
            let began = fact.moving.left.as_ref().map(|left| left.began);
            // One that is to come is of another boot.
            let age = began.and_then(|began| boot.checked_sub(began));
            if let Some(since) = age.and_then(|age| now.checked_sub(Duration::from_nanos(age))) {
                let fact = fact.clone();
                let handed_over = HandedOver { since, fact };
                self.handed_over
                    .insert(handed_over.fact.name.clone(), handed_over);
            }
        }
        self.settle(now);
    }

    fn boot_time(&self, now: Instant) -> u64 {
        self.clocks.map_or(0, |(then, boot)| {
            let since = now.saturating_duration_since(then).as_nanos();
            boot.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
        })
    }

    /// Every kind was listed once.
    pub(crate) fn is_complete(&self) -> bool {
        self.listed.len() == Stream::ALL.len()
    }

    /// Every kind is listed again. What is known stays until its new list has ended.
    pub(crate) fn read_again(&mut self) {
        self.listed.clear();
        self.listing.clear();
    }

    /// Takes a change in. `false`: the facts are what they were, as with the heartbeats of all nodes and
    /// what this node itself writes about its bindings.
    pub(crate) fn take(
        &mut self,
        stream: Stream,
        change: Event<DynamicObject>,
        now: Instant,
    ) -> bool {
        match change {
            Event::Init => {
                self.listing.insert(stream, BTreeMap::new());
                return false;
            }
            Event::InitApply(object) => {
                let (name, seen) = self.read(stream, object);
                self.listing.entry(stream).or_default().insert(name, seen);
                return false;
            }
            Event::InitDone => {
                let listed = self.listing.remove(&stream).unwrap_or_default();
                for (name, seen) in &listed {
                    self.note_move(name, seen, now);
                }
                self.seen.insert(stream, listed);
                self.listed.insert(stream);
            }
            Event::Apply(object) => {
                let (name, seen) = self.read(stream, object);
                if self.is_said_already(stream, &name, &seen) {
                    self.seen.entry(stream).or_default().insert(name, seen);
                    return false;
                }
                self.note_move(&name, &seen, now);
                self.changing.remove(&name);
                self.seen.entry(stream).or_default().insert(name, seen);
            }
            Event::Delete(object) => {
                let name = name_of(&object.metadata);
                let gone = self.seen.entry(stream).or_default().remove(&name);
                if let Some(Seen { said, .. }) = gone
                    && is_to_come_up(stream, &said)
                {
                    self.changing.insert(name, (now, said));
                }
            }
        }
        true
    }

    /// The object says what it said before, and nowhere else is anything known of it.
    fn is_said_already(&self, stream: Stream, name: &ObjectName, seen: &Seen) -> bool {
        let of = |stream: Stream| self.seen.get(&stream).and_then(|seen| seen.get(name));
        let is_elsewhere = match stream {
            Stream::Bindings => of(Stream::OtherBindings).is_some(),
            Stream::OtherBindings => of(Stream::Bindings).is_some(),
            Stream::Nodes | Stream::ServiceCidrs | Stream::Peers => false,
        };
        let is_known = || self.changing.contains_key(name) || self.handed_over.contains_key(name);
        of(stream).is_some_and(|before| before.said == seen.said) && !is_elsewhere && !is_known()
    }

    /// Remembers who has gone to another node.
    fn note_move(&mut self, name: &ObjectName, seen: &Seen, now: Instant) {
        // The two streams do not know of each other: what one shows may be history to the other.
        let versions = [Stream::Bindings, Stream::OtherBindings]
            .map(|stream| self.seen.get(&stream)?.get(name)?.version);
        if versions
            .into_iter()
            .flatten()
            .any(|known| Some(known) > seen.version)
        {
            return;
        }
        match &seen.said {
            Said::Elsewhere(place) => self.note_hand_over(name, place, now),
            _ => _ = self.handed_over.remove(name),
        }
    }

    fn note_hand_over(&mut self, name: &ObjectName, place: &Elsewhere, now: Instant) {
        if self.hand_over.is_none() {
            return;
        }
        let left = HandOver {
            node: place.node.clone(),
            to: place.address,
            is_announced: true,
            began: self.boot_time(now),
        };
        if let Some(Said::Granted { fact, .. }) = self.known(name)
            && Some(fact.0.eip) == place.eip
        {
            let mut fact = fact.0.clone();
            fact.moving.left = Some(left);
            let handed_over = HandedOver { since: now, fact };
            self.handed_over.insert(name.clone(), handed_over);
        } else if let Some(HandedOver { fact, .. }) = self.handed_over.get_mut(name)
            && let Some(known) = &mut fact.moving.left
        {
            // It may have gone on to a third node.
            (known.node, known.to) = (left.node, left.to);
        }
    }

    /// What was said of a binding last.
    fn known(&self, name: &ObjectName) -> Option<&Said> {
        let of = |stream: Stream| self.seen.get(&stream).and_then(|seen| seen.get(name));
        let newest = [of(Stream::Bindings), of(Stream::OtherBindings)];
        let newest = newest.into_iter().flatten().max_by_key(|seen| seen.version);
        let between = || self.changing.get(name).map(|(_, said)| said);
        newest.map(|seen| &seen.said).or_else(between)
    }

    /// Forgets what has been between the streams for too long (it was deleted), and ends what is due of
    /// hand-overs.
    pub(crate) fn settle(&mut self, now: Instant) {
        self.changing
            .retain(|_, (since, _)| now.duration_since(*since) < BETWEEN_STREAMS);
        let Some(hand_over) = self.hand_over else {
            return;
        };
        self.handed_over
            .retain(|_, one| now.duration_since(one.since) < hand_over * STRAGGLERS);
        for HandedOver { since, fact } in self.handed_over.values_mut() {
            if let Some(left) = &mut fact.moving.left {
                left.is_announced = now.duration_since(*since) < hand_over;
            }
        }
    }

    /// When there is something to settle.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        let between = self.changing.values();
        let between = between.map(|(since, _)| *since + BETWEEN_STREAMS);
        let hand_over = self.hand_over.unwrap_or_default();
        let handed = self.handed_over.values().map(|one| {
            let is_announced = |left: &HandOver| left.is_announced;
            let times = if one.fact.moving.left.as_ref().is_some_and(is_announced) {
                1
            } else {
                STRAGGLERS
            };
            one.since + hand_over * times
        });
        between.chain(handed).min()
    }

    fn read(&self, stream: Stream, object: DynamicObject) -> (ObjectName, Seen) {
        let name = name_of(&object.metadata);
        let version = object.metadata.resource_version.as_ref();
        let version = version.and_then(|version| version.parse().ok());
        let said = match stream {
            Stream::Bindings | Stream::OtherBindings => self.binding(&object),
            Stream::Nodes => typed::<Node, _>(object, |node| {
                let is_own = node.metadata.name.as_ref() == Some(&self.node);
                let said = is_own.then(|| node.node_fact());
                Ok(Said::Node(Box::new((node.into_fact(None)?, said))))
            }),
            Stream::ServiceCidrs => {
                typed::<ServiceCidr, _>(object, |range| Ok(Said::Nets(range.into_fact(None)?)))
            }
            Stream::Peers => typed::<BgpPeer, _>(object, |peer| {
                Ok(Said::Peer(Box::new(peer.into_fact(None)?)))
            }),
        };
        let said = said.unwrap_or_else(Said::Refused);
        (name, Seen { version, said })
    }

    /// The grant in the status, and not the spec, says what is served: until the controller has
    /// judged an edit, what it granted before stays in force.
    fn binding(&self, object: &DynamicObject) -> Result<Said, String> {
        let status: EipBindingStatus = part(object, "status")?;
        let is_deleting = object.metadata.deletion_timestamp.is_some();
        let elsewhere = self.elsewhere(&status).filter(|_| !is_deleting);
        let Some(Grant {
            eip,
            address,
            uid,
            is_leaving,
            is_coming,
        }) = self.granted(status).filter(|_| !is_deleting)
        else {
            return Ok(elsewhere.map_or(Said::NotHere, Said::Elsewhere));
        };
        let address = address.parse().map_err(|_| {
            format!("status.vmAddress: {address:?} is not an IP address; the controller writes it")
        })?;
        let mut spec: crate::source::objects::EipBindingSpec = part(object, "spec")?;
        spec.eip = Some(eip);
        let binding = EipBinding {
            api_version: BINDING_API.to_owned(),
            kind: BINDING_KIND.to_owned(),
            metadata: metadata(&object.metadata),
            spec,
            status: None,
        };
        let fact = binding.into_fact(None).map_err(|error| error.to_string())?;
        let vm = VmFact {
            name: fact.vm.clone(),
            uid: Some(uid),
            created: None,
            phase: VmPhase::Running,
            node: Some(self.node.clone()),
            arrived: None,
            interfaces: vec![VmInterface {
                name: fact.interface.clone().unwrap_or_default(),
                addresses: vec![address],
            }],
            origin: None,
        };
        Ok(Said::Granted {
            fact: Box::new((fact, vm)),
            is_leaving,
            is_coming,
        })
    }

    /// What this node is to serve. A binding that moves to another node stays here until that node
    /// has reported that it serves it: so the network always has somebody who does.
    fn granted(&self, status: EipBindingStatus) -> Option<Grant> {
        let node = status.node?;
        let (eip, uid) = (status.eip?, status.vm_uid?);
        if node == self.node {
            return Some(Grant {
                eip,
                address: status.vm_address?,
                uid,
                is_leaving: false,
                is_coming: status
                    .serving
                    .is_some_and(|serving| serving.node != node && serving.eip.is_some()),
            });
        }
        let serving = status
            .serving
            .filter(|serving| serving.node == self.node && serving.eip.as_ref() == Some(&eip))?;
        Some(Grant {
            eip,
            address: serving.vm_address?,
            uid,
            is_leaving: true,
            is_coming: false,
        })
    }

    /// Who serves it, when that is the node it is granted to and another one.
    fn elsewhere(&self, status: &EipBindingStatus) -> Option<Elsewhere> {
        let (node, serving) = (status.node.as_ref()?, status.serving.as_ref()?);
        let is_served = serving.node == *node && serving.eip.is_some() && serving.eip == status.eip;
        let parsed = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
        (is_served && *node != self.node).then(|| Elsewhere {
            eip: parsed(&serving.eip),
            node: node.clone(),
            address: parsed(&serving.node_address),
        })
    }

    /// VMs granted to this node that another node still has in force.
    pub(crate) fn coming(&self) -> BTreeSet<ObjectName> {
        let coming = self.newest().filter_map(|(_, _, said)| match said {
            Said::Granted {
                fact, is_coming, ..
            } if *is_coming => Some(fact.1.name.clone()),
            _ => None,
        });
        coming.collect()
    }

    /// What a directory with the same content would say.
    pub(crate) fn facts(&self) -> Facts {
        let mut facts = Facts {
            complete: self.is_complete(),
            ..Facts::default()
        };
        let mut vms: BTreeMap<ObjectName, VmFact> = BTreeMap::new();
        for (stream, name, said) in self.newest() {
            match said {
                Said::Granted { fact, .. } => {
                    let (binding, vm) = fact.as_ref();
                    facts.bindings.push(binding.clone());
                    join(&mut vms, vm);
                }
                Said::NotHere | Said::Elsewhere(_) => {}
                Said::Node(said) => {
                    facts.nets.push(said.0.clone());
                    facts.nodes.extend(said.1.clone());
                }
                Said::Nets(fact) => facts.nets.push(fact.clone()),
                Said::Peer(fact) => facts.peers.push((**fact).clone()),
                Said::Refused(problem) => facts.refused.push(RefusedDocument {
                    origin: Origin {
                        file: format!("api:{stream:?}").into(),
                        document: 1,
                    },
                    name: Some(name.clone()),
                    problem: problem.clone(),
                }),
            }
        }
        let handed_over = self.handed_over.values();
        facts
            .bindings
            .extend(handed_over.map(|one| one.fact.clone()));
        facts.vms = vms.into_values().collect();
        facts
    }

    /// An object that two streams show is as the newer one shows it.
    fn newest(&self) -> impl Iterator<Item = (Stream, &ObjectName, &Said)> {
        let of = |stream| self.seen.get(&stream).into_iter().flatten();
        let other = self.seen.get(&Stream::OtherBindings);
        let here = self.seen.get(&Stream::Bindings);
        let bindings = of(Stream::Bindings).filter_map(move |(name, seen)| {
            let rival = other.and_then(|other| other.get(name));
            rival
                .is_none_or(|rival| rival.version <= seen.version)
                .then_some((Stream::Bindings, name, &seen.said))
        });
        let others = of(Stream::OtherBindings).filter_map(move |(name, seen)| {
            let rival = here.and_then(|here| here.get(name));
            rival
                .is_none_or(|rival| rival.version < seen.version)
                .then_some((Stream::OtherBindings, name, &seen.said))
        });
        let rest = [Stream::Nodes, Stream::ServiceCidrs, Stream::Peers]
            .into_iter()
            .flat_map(move |stream| of(stream).map(move |(name, seen)| (stream, name, &seen.said)));
        let changing = self.changing.iter().filter(move |(name, _)| {
            let is_in = |stream: Option<&BTreeMap<ObjectName, Seen>>| {
                stream.is_some_and(|seen| seen.contains_key(*name))
            };
            !is_in(here) && !is_in(other)
        });
        let changing = changing.map(|(name, (_, said))| (Stream::OtherBindings, name, said));
        bindings.chain(others).chain(changing).chain(rest)
    }
}

/// Whether a binding that left a stream is about to come up in the other one: it is granted to this
/// node by the stream of nodes concerned, or it leaves this node while that one still serves.
fn is_to_come_up(stream: Stream, said: &Said) -> bool {
    match (stream, said) {
        (Stream::OtherBindings, Said::Granted { .. }) => true,
        (Stream::Bindings, Said::Granted { is_leaving, .. }) => *is_leaving,
        _ => false,
    }
}

/// Bindings of one VM bring one address each, the pod network's (which has no name here) first; of two VMs
/// of one name the later one replaces the other.
fn join(vms: &mut BTreeMap<ObjectName, VmFact>, vm: &VmFact) {
    let Some(known) = vms.get_mut(&vm.name) else {
        vms.insert(vm.name.clone(), vm.clone());
        return;
    };
    if known.uid != vm.uid {
        known.clone_from(vm);
        return;
    }
    for interface in &vm.interfaces {
        let same = |one: &&mut VmInterface| one.name == interface.name;
        if let Some(known) = known.interfaces.iter_mut().find(same) {
            for address in &interface.addresses {
                if !known.addresses.contains(address) {
                    known.addresses.push(*address);
                }
            }
        } else if interface.name.is_empty() {
            known.interfaces.insert(0, interface.clone());
        } else {
            known.interfaces.push(interface.clone());
        }
    }
}

/// Reads an object whose spec is all there is to it.
fn typed<T, F>(object: DynamicObject, read: F) -> Result<Said, String>
where
    T: DeserializeOwned,
    F: FnOnce(T) -> Result<Said, ObjectError>,
{
    let mut value = object.data;
    let metadata = metadata(&object.metadata);
    let metadata = serde_json::to_value(metadata).map_err(|error| error.to_string())?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("metadata".to_owned(), metadata);
    }
    let typed: T = serde_json::from_value(value).map_err(|error| error.to_string())?;
    read(typed).map_err(|error| error.to_string())
}

fn name_of(metadata: &ObjectMeta) -> ObjectName {
    ObjectName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

fn metadata(metadata: &ObjectMeta) -> Metadata {
    Metadata {
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        generation: metadata
            .generation
            .and_then(|number| u64::try_from(number).ok()),
        creation_timestamp: metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0.to_string()),
        labels: metadata.labels.clone().unwrap_or_default(),
        annotations: metadata.annotations.clone().unwrap_or_default(),
        deletion_timestamp: metadata
            .deletion_timestamp
            .as_ref()
            .map(|time| time.0.to_string()),
    }
}

/// `spec` or `status` of an object.
fn part<T: DeserializeOwned + Default>(object: &DynamicObject, name: &str) -> Result<T, String> {
    match object.data.get(name) {
        None => Ok(T::default()),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|error| format!("{name} cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests;

//! "What would become of this packet?" Runs the programs on a copy of it, hop by hop, and on the answer to
//! it. Nothing is sent and nothing is counted.
//!
//! What lies between two programs is the kernel's: routing is looked up, netfilter is not run.

use std::{net::IpAddr, sync::Arc};

use axum::http::StatusCode;
use eip_common::reason::{Hook, Reason};

use super::{
    api::{PacketView, TraceAnswer, TraceBody, TraceHop, TraceWay},
    error::ApiError,
    frame::{self, Wish},
    state::AgentState,
    view::interface_name,
};
use crate::{
    dataplane::{
        examine::{Question, Sighting},
        trace::{Ran, TraceAction, TraceError, Tracer},
    },
    model::BindingState,
};

#[cfg(test)]
mod tests;
mod vlan;

/// A packet does not meet more programs than this on one node.
const MOST_HOPS: usize = 8;
/// Longest packet the kernel takes for a test run on every version: less than a page.
const LONGEST: u16 = 3000;
/// Somebody on the uplink.
const ROUTER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// Where a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    At(Hook, u32),
    /// At an interface that hands it to the VLAN interface of its tag.
    Tagged(u32),
    /// In the kernel's hands, between programs.
    Kernel,
}

/// Where a packet goes next, or where its way ends, and what is to be said of that.
type Next = (Option<Place>, End, String);

/// Where a way ends.
enum End {
    /// In the VM behind this port.
    Vm(u32),
    /// Out of an uplink.
    Out,
    /// Dropped, or answered with an error.
    Lost,
    /// The kernel decides.
    Open,
}

pub(super) async fn trace(
    state: &Arc<AgentState>,
    body: TraceBody,
) -> Result<TraceAnswer, ApiError> {
    if body.size.is_some_and(|size| size > LONGEST) {
        let text = format!("a trace takes packets of at most {LONGEST} bytes");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, text));
    }
    let looked = state.examiner.look(Question::default()).await;
    let now = looked.map_err(|error| ApiError::internal("look at the kernel", &error))?;
    let nets = state.report();
    let examiner = Arc::clone(&state.examiner);
    let traced = tokio::task::spawn_blocking(move || {
        let mut tracer = examiner.tracer().map_err(|error| failed(&error))?;
        let mut walk = Walk {
            tracer: tracer.as_mut(),
            now: &now,
            bypass: &|address| {
                let nets = nets.desired.nets.iter();
                let around = nets.filter(|(net, _)| net.contains(&address));
                around
                    .max_by_key(|(net, _)| net.prefix_len())
                    .is_some_and(|(_, state)| state.is_bypass)
            },
        };
        walk.both_ways(&body)
    });
    traced
        .await
        .map_err(|panicked| ApiError::internal("trace", &panicked))?
}

fn failed(error: &TraceError) -> ApiError {
    ApiError::internal("trace the packet", error)
}

struct Walk<'a> {
    tracer: &'a mut dyn Tracer,
    now: &'a Sighting,
    bypass: &'a dyn Fn(IpAddr) -> bool,
}

impl Walk<'_> {
    fn both_ways(&mut self, body: &TraceBody) -> Result<TraceAnswer, ApiError> {
        let mut wish = Wish {
            from: self.sender(body.from),
            to: body.to,
            protocol: body.protocol,
            source_port: body.source_port,
            destination_port: body.destination_port,
            size: usize::from(body.size.unwrap_or(0)),
            dont_fragment: body.dont_fragment,
            ttl: body.ttl,
            syn: body.syn,
            is_answer: false,
            tags: Vec::new(),
            fragment: body.fragment,
            icmp_error: body.icmp_error,
            macs: ([0; 6], ROUTER_MAC),
        };
        let start = if body.vlan.is_empty() {
            self.start(&wish, body.interface.as_deref())?
        } else {
            let below = self.below(&body.vlan, body.interface.as_deref())?;
            wish.tags = self.tags(below, &body.vlan);
            if self.has_program(Hook::UplinkTc, below) {
                Place::At(Hook::UplinkXdp, below)
            } else {
                Place::Tagged(below)
            }
        };
        let (forward, end, last) = self.walk(&mut wish, start)?;
        let back = match end {
            End::Vm(port) => Some(Place::At(Hook::DoorOut, port)),
            End::Out => self
                .uplink()
                .map(|uplink| Place::At(Hook::UplinkXdp, uplink)),
            End::Lost | End::Open => None,
        };
        // Nobody answers an error (RFC 1122 section 3.2.2).
        let back = back.filter(|_| wish.icmp_error.is_none());
        let reply = match (back, last.source, last.destination) {
            (Some(start), Some(from), Some(to)) => {
                let mut answer = Wish {
                    from: to,
                    to: from,
                    source_port: last.destination_port.unwrap_or(wish.source_port),
                    destination_port: last.source_port.unwrap_or(wish.destination_port),
                    ttl: 64,
                    is_answer: true,
                    tags: Vec::new(),
                    fragment: None,
                    ..wish
                };
                Some(self.walk(&mut answer, start)?.0)
            }
            _ => None,
        };
        Ok(TraceAnswer { forward, reply })
    }

    /// An EIP of this node as a source means its VM, which sends with its own address.
    fn sender(&self, from: IpAddr) -> IpAddr {
        let bound = self.now.kernel.bindings.get(&from);
        bound.map_or(from, |(binding, _)| binding.vm)
    }

    fn binding(&self, eip: IpAddr) -> Option<&BindingState> {
        self.now
            .kernel
            .bindings
            .get(&eip)
            .map(|(binding, _)| binding)
    }

    fn uplink(&self) -> Option<u32> {
        self.now.uplink_map.iter().next().copied()
    }

    fn start(&self, wish: &Wish, interface: Option<&str>) -> Result<Place, ApiError> {
        if let Some(name) = interface {
            let ifindex = self.interface(name)?;
            if self.has_program(Hook::DoorOut, ifindex) {
                return Ok(Place::At(Hook::DoorOut, ifindex));
            }
            if self.has_program(Hook::UplinkTc, ifindex) {
                return Ok(Place::At(Hook::UplinkXdp, ifindex));
            }
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                format!("none of our programs sees what comes in on {name}"),
            )
            .hint("name an uplink or a VM's port, or leave --in out"));
        }
        if let Some((vm, _)) = self.now.kernel.vms.get(&wish.from) {
            return Ok(Place::At(Hook::DoorOut, vm.port));
        }
        if (self.bypass)(wish.from) {
            return Ok(Place::Kernel);
        }
        let uplink = self.uplink().ok_or_else(|| {
            ApiError::new(StatusCode::CONFLICT, "no uplink has programs").hint("eipctl status")
        })?;
        Ok(Place::At(Hook::UplinkXdp, uplink))
    }

    fn interface(&self, name: &str) -> Result<u32, ApiError> {
        let link = self.now.view.links.values().find(|link| link.name == name);
        link.map(|link| link.ifindex).ok_or_else(|| {
            let text = format!("no interface {name}");
            ApiError::new(StatusCode::BAD_REQUEST, text).hint("ip link")
        })
    }

    fn has_program(&self, hook: Hook, ifindex: u32) -> bool {
        let attachments = &self.now.attachments;
        attachments
            .iter()
            .any(|at| at.ifindex == ifindex && at.hook == hook)
    }

    /// One packet, until it ends somewhere.
    fn walk(
        &mut self,
        wish: &mut Wish,
        start: Place,
    ) -> Result<(TraceWay, End, PacketView), ApiError> {
        wish.macs = self.macs(start);
        let mut frame = frame::build(wish).map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, "no such packet").cause(error.to_string())
        })?;
        let packet = frame::view(&frame, frame.len());
        let mut hops = Vec::new();
        let mut place = start;
        let mut last = packet.clone();
        for _ in 0..MOST_HOPS {
            let (next, end, said) = match place {
                Place::At(hook, ifindex) => {
                    let ran = self.tracer.run(hook, ifindex, &frame);
                    let ran = ran.map_err(|error| failed(&error))?;
                    hops.push(self.hop(hook, ifindex, &frame, &ran)?);
                    frame.clone_from(&ran.frame);
                    last = frame::view(&frame, frame.len());
                    self.after(hook, ifindex, &ran, &last)
                }
                Place::Tagged(below) => {
                    let (hop, next) = self.untag(below, &mut frame);
                    hops.push(hop);
                    last = frame::view(&frame, frame.len());
                    next
                }
                Place::Kernel => {
                    let (hop, next, end, said) = self.kernel(&last);
                    hops.push(hop);
                    (next, end, said)
                }
            };
            let Some(next) = next else {
                let arrives = match end {
                    End::Vm(_) | End::Out => Some(true),
                    End::Lost => Some(false),
                    End::Open => None,
                };
                let way = TraceWay {
                    packet,
                    hops,
                    end: said,
                    arrives,
                };
                return Ok((way, end, last));
            };
            if let Place::At(Hook::DoorIn, port) = next {
                self.give_macs(&mut frame, port);
            }
            place = next;
        }
        let way = TraceWay {
            packet,
            hops,
            end: "it goes round and round".to_owned(),
            arrives: Some(false),
        };
        Ok((way, End::Lost, last))
    }

    fn macs(&self, start: Place) -> ([u8; 6], [u8; 6]) {
        let of_port = |port: u32| {
            let bindings = self.now.kernel.bindings.values();
            let here = bindings
                .map(|(binding, _)| binding)
                .find(|binding| binding.port == port);
            here.map(|binding| (binding.node_mac, binding.vm_mac))
        };
        let own = |ifindex: u32| {
            let link = self.now.view.links.get(&ifindex);
            link.and_then(|link| link.mac).unwrap_or_default()
        };
        match start {
            Place::At(Hook::DoorOut, port) => of_port(port).unwrap_or((own(port), ROUTER_MAC)),
            Place::At(_, ifindex) | Place::Tagged(ifindex) => (own(ifindex), ROUTER_MAC),
            Place::Kernel => ([0; 6], [0; 6]),
        }
    }

    /// The kernel addresses a frame to the VM.
    fn give_macs(&self, frame: &mut [u8], port: u32) {
        let (from, to) = self.macs(Place::At(Hook::DoorOut, port));
        let bytes = to.into_iter().chain(from);
        frame
            .iter_mut()
            .zip(bytes)
            .for_each(|(place, byte)| *place = byte);
    }

    fn hop(
        &mut self,
        hook: Hook,
        ifindex: u32,
        before: &[u8],
        ran: &Ran,
    ) -> Result<TraceHop, ApiError> {
        let here = self.now.attachments.iter();
        let attached = here
            .clone()
            .find(|at| at.ifindex == ifindex && at.hook == hook);
        let is_attached = match attached {
            Some(at) => {
                let same = self.tracer.is_same_code(hook, at.program_id);
                same.map_err(|error| failed(&error))?
            }
            None => false,
        };
        let changed = ran.frame != before;
        Ok(TraceHop {
            hook: hook.name().to_owned(),
            interface: interface_name(&self.now.view, ifindex),
            action: match ran.action {
                TraceAction::Pass => "pass",
                TraceAction::Drop => "drop",
                TraceAction::Redirect => "redirect",
                TraceAction::Reflect => "reflect",
            }
            .to_owned(),
            reason: ran.reason.map(|reason| reason.name().to_owned()),
            meaning: ran.reason.map_or("", Reason::meaning).to_owned(),
            after: changed.then(|| frame::view(&ran.frame, ran.frame.len())),
            is_attached: Some(is_attached),
        })
    }

    /// Where the packet is after a program.
    fn after(&self, hook: Hook, ifindex: u32, ran: &Ran, packet: &PacketView) -> Next {
        let done = |end, said: String| (None, end, said);
        let go = |place| (Some(place), End::Open, String::new());
        let name = |ifindex: u32| interface_name(&self.now.view, ifindex);
        let reason = ran.reason.map_or("nothing counted", Reason::name);
        match (hook, ran.action) {
            (_, TraceAction::Drop) => done(
                End::Lost,
                format!("dropped at {} on {}: {reason}", hook.name(), name(ifindex)),
            ),
            (_, TraceAction::Reflect) => done(End::Lost, format!("answered by {}: {reason}", hook.name())),
            (_, TraceAction::Redirect) if ran.reason == Some(Reason::TooLargeAnswered) => done(
                End::Lost,
                "too large for the VM's link: its sender is told the MTU".to_owned(),
            ),
            (_, TraceAction::Redirect) => self.redirected(ran.reason, packet),
            (Hook::UplinkXdp, TraceAction::Pass) => go(Place::At(Hook::UplinkTc, ifindex)),
            (Hook::DoorIn, TraceAction::Pass) => {
                done(End::Vm(ifindex), format!("arrives at the VM behind {}: {reason}", name(ifindex)))
            }
            (Hook::UplinkTc | Hook::DoorOut, TraceAction::Pass) => match ran.reason {
                Some(Reason::TtlExceeded) => done(End::Lost, "the kernel answers: time exceeded".to_owned()),
                Some(Reason::TooLarge) => done(
                    End::Lost,
                    "the kernel answers: fragmentation needed, or fragments it where that is allowed".to_owned(),
                ),
                Some(Reason::Tagged) => go(Place::Tagged(ifindex)),
                Some(Reason::NoRoute) => done(End::Lost, "the kernel answers: unreachable".to_owned()),
                _ => go(Place::Kernel),
            },
        }
    }

    fn redirected(&self, reason: Option<Reason>, packet: &PacketView) -> Next {
        let name = |ifindex: u32| interface_name(&self.now.view, ifindex);
        match reason {
            Some(Reason::DeliveredPeer | Reason::DeliveredXdp) => {
                let vm = packet
                    .destination
                    .and_then(|to| self.now.kernel.vms.get(&to));
                let port = vm.map_or(0, |(vm, _)| vm.port);
                (
                    None,
                    End::Vm(port),
                    format!("arrives at the VM behind {}", name(port)),
                )
            }
            Some(Reason::DeliveredNeigh) => {
                let binding = packet.destination.and_then(|to| self.binding(to));
                let place = binding.map(|binding| Place::At(Hook::DoorIn, binding.port));
                (
                    place,
                    End::Open,
                    "redirected to a neighbour nobody knows".to_owned(),
                )
            }
            Some(Reason::SentToUplink) => {
                let source = packet
                    .source
                    .map_or_else(String::new, |source| format!(" as {source}"));
                (None, End::Out, format!("leaves by an uplink{source}"))
            }
            _ => (None, End::Open, "redirected".to_owned()),
        }
    }

    /// What the kernel does with it: only where it leads to another program of ours is it followed.
    fn kernel(&self, packet: &PacketView) -> (TraceHop, Option<Place>, End, String) {
        let to = packet.destination;
        let eip = to
            .and_then(|to| self.binding(to))
            .map(|binding| (binding.l3, binding.port));
        let vm = to
            .and_then(|to| self.now.kernel.vms.get(&to))
            .map(|(vm, _)| (vm.l3, vm.port));
        let hop = |interface: String, meaning: String| TraceHop {
            hook: "kernel".to_owned(),
            interface,
            action: "route".to_owned(),
            reason: None,
            meaning,
            after: None,
            is_attached: None,
        };
        if let Some((l3, port)) = eip.or(vm) {
            let device = interface_name(&self.now.view, l3);
            let meaning = "Routed to the VM's device, through netfilter, which is not traced.";
            let next = Some(Place::At(Hook::DoorIn, port));
            return (
                hop(device, meaning.to_owned()),
                next,
                End::Open,
                String::new(),
            );
        }
        let meaning = "Routed by the kernel, through netfilter; not followed further.";
        let to = to.map_or_else(String::new, |to| to.to_string());
        let said = format!("left to the kernel: see `ip route get {to}`");
        (
            hop("-".to_owned(), meaning.to_owned()),
            None,
            End::Open,
            said,
        )
    }
}

//! What may happen to a cluster, one thing at a time.

use proptest::prelude::*;

use super::{super::nodes::WATCHES, NODES};

/// What happens next.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Bind {
        namespace: usize,
        own: usize,
        eip: u8,
        vm: usize,
    },
    Delete {
        namespace: usize,
        own: usize,
    },
    Vm {
        namespace: usize,
        vm: usize,
        life: u8,
        node: usize,
    },
    Pod {
        namespace: usize,
        vm: usize,
        node: usize,
        is_alive: bool,
    },
    Hear {
        kind: usize,
    },
    Decide {
        namespace: usize,
        own: usize,
    },
    Land,
    /// The controller ends and another one begins.
    Crash,
    /// An agent reads an event of one of its watches.
    AgentHear {
        node: usize,
        watch: usize,
    },
    /// An agent looks at its node, and may be killed after so many changes to the kernel.
    Round {
        node: usize,
        limit: usize,
    },
    /// An agent says what it has made of a binding.
    Report {
        node: usize,
        namespace: usize,
        own: usize,
    },
    /// The agent is killed and starts again.
    Restart {
        node: usize,
    },
    /// A watch has expired.
    Expire {
        node: usize,
        watch: usize,
    },
    /// Nothing happens for so long that everything comes to rest: what follows meets a cluster that serves.
    Rest,
    /// Time passes.
    Wait {
        seconds: u64,
    },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let (namespace, own, vm, node) = (0..2_usize, 0..3_usize, 0..2_usize, 0..3_usize);
    prop_oneof![
        2 => (namespace.clone(), own.clone(), 0..3_u8, vm.clone())
            .prop_map(|(namespace, own, eip, vm)| Step::Bind { namespace, own, eip, vm }),
        1 => (namespace.clone(), own.clone())
            .prop_map(|(namespace, own)| Step::Delete { namespace, own }),
        2 => (namespace.clone(), vm.clone(), 0..8_u8, node.clone())
            .prop_map(|(namespace, vm, life, node)| Step::Vm { namespace, vm, life, node }),
        2 => (namespace.clone(), vm, node, any::<bool>())
            .prop_map(|(namespace, vm, node, is_alive)| Step::Pod { namespace, vm, node, is_alive }),
        6 => (0..3_usize).prop_map(|kind| Step::Hear { kind }),
        5 => (namespace.clone(), own.clone())
            .prop_map(|(namespace, own)| Step::Decide { namespace, own }),
        4 => Just(Step::Land),
        1 => Just(Step::Crash),
        1 => Just(Step::Rest),
        9 => agent_step(),
        1 => (0..8_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

fn agent_step() -> impl Strategy<Value = Step> {
    let (node, watch) = (0..NODES.len(), 0..WATCHES.len());
    let limit = prop_oneof![3 => Just(usize::MAX), 1 => 0..6_usize];
    prop_oneof![
        4 => (node.clone(), watch.clone()).prop_map(|(node, watch)| Step::AgentHear { node, watch }),
        3 => (node.clone(), limit).prop_map(|(node, limit)| Step::Round { node, limit }),
        3 => (node.clone(), 0..2_usize, 0..3_usize)
            .prop_map(|(node, namespace, own)| Step::Report { node, namespace, own }),
        1 => node.clone().prop_map(|node| Step::Restart { node }),
        1 => (node, watch).prop_map(|(node, watch)| Step::Expire { node, watch }),
    ]
}

//! A VM behind a pod that translates, as with KubeVirt's masquerade binding: the pod routes, and gives its own
//! address for that of the VM.

use crate::{
    netns::Ns,
    plan::{HIDDEN, HIDDEN_GATEWAY},
    world::Guest,
};

/// Raises the VM, a namespace named after its pod's. What comes for the pod goes there from now on, and so do
/// connections that are made then.
///
/// # Errors
/// When the pod has one already.
pub fn put_behind(pod: &Guest) -> anyhow::Result<Ns> {
    let vm = Ns::create(&format!("{}-in", pod.ns.name()))?;
    pod.ns
        .sysctl("ipv4/ip_forward=1\nipv6/conf/all/forwarding=1\nipv4/icmp_ratelimit=0")?;
    pod.ns.sysctl("ipv6/icmp/ratelimit=0")?;
    pod.ns.ip(&format!(
        "link add k6t0 type veth peer name eth0 netns {}
        addr add {}/24 dev k6t0
        addr add {}/120 dev k6t0 nodad
        link set k6t0 up
        ",
        vm.name(),
        HIDDEN_GATEWAY.v4,
        HIDDEN_GATEWAY.v6
    ))?;
    vm.sysctl("ipv4/ping_group_range=0 2147483647\nipv6/conf/default/accept_dad=0")?;
    vm.ip(&format!(
        "addr add {}/24 dev eth0
        addr add {}/120 dev eth0 nodad
        link set eth0 up
        route add default via {}
        route add ::/0 via {}
        ",
        HIDDEN.v4, HIDDEN.v6, HIDDEN_GATEWAY.v4, HIDDEN_GATEWAY.v6
    ))?;
    masquerade(&pod.ns)?;
    for address in [HIDDEN.v4.into(), std::net::IpAddr::from(HIDDEN.v6)] {
        vm.wait_local(address)?;
    }
    Ok(vm)
}

/// What KubeVirt's masquerade binding has inside a pod: whatever comes in goes to the hidden VM, which leaves
/// as the pod.
///
/// # Errors
/// When nft refuses a table.
pub fn masquerade(pod: &Ns) -> anyhow::Result<()> {
    for (family, hidden) in [
        ("ip", HIDDEN.v4.to_string()),
        ("ip6", HIDDEN.v6.to_string()),
    ] {
        pod.nft(&format!(
            "table {family} nat {{\n  chain prerouting {{\n    \
             type nat hook prerouting priority dstnat;\n    \
             iifname \"eth0\" counter dnat to {hidden}\n  }}\n  chain postrouting {{\n    \
             type nat hook postrouting priority srcnat;\n    \
             {family} saddr {hidden} counter masquerade\n  }}\n}}\n"
        ))?;
    }
    Ok(())
}

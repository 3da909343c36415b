//! Telling the network which addresses are served here.
//!
//! ```text
//! Desired, Observed ─> wanted ─> Announcements ─> Announcer (bgp, ...)
//!        reconcile::plan <── held <── lingering ──────┘
//! ```
//!
//! The reconciler hands every announcer the whole set, again and again; an announcer works out the
//! difference in its own time. Two rules order it with the kernel:
//! - *program before announce*: [`wanted`] holds what is in the kernel and nothing else;
//! - *withdraw before unprogram*: an elastic IP that leaves stays in the kernel while some announcer
//!   says that it lingers in the network.

use std::{collections::BTreeSet, net::IpAddr};

use crate::model::{Announcements, Desired, Observed};

pub mod bgp;
pub mod l2;
pub mod peering;

/// One way of telling the network. Implementations live at the edge of their own I/O.
pub trait Announcer: Send {
    /// Replaces the whole set. Returns at once; calling it again with the same set does nothing.
    fn announce(&mut self, wanted: &Announcements);

    /// Of these, which the network may still send here because of this announcer: the withdrawal
    /// has not left the node yet. Whoever asks gives up waiting after a while.
    fn lingering(&self, leaving: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr>;
}

/// What shall be announced now: what is wanted, in the kernel and not fenced at that time. An EIP that
/// changes from one VM to another on this node is there all the time.
#[must_use]
pub fn wanted(
    desired: &Desired,
    observed: &Observed,
    is_complete: bool,
    now: u64,
) -> Announcements {
    let programmed: BTreeSet<IpAddr> = observed.bindings.keys().copied().collect();
    let announcements = desired.announcements.iter();
    let wanted = announcements
        .filter(|(eip, _)| programmed.contains(eip) && !observed.is_fenced(eip, now))
        .map(|(eip, announcement)| (*eip, announcement.clone()))
        .collect();
    Announcements {
        wanted,
        programmed,
        is_complete,
    }
}

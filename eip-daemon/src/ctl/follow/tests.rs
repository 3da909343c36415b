use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use eip_common::{
    abi::{NO_SLOT, SAMPLE_HEAD, Sample},
    reason::{Hook, Reason},
};
use tokio::sync::watch;

use super::{Follower, Followers, LASTING, Next, Wanted};
use crate::dataplane::{DataPlaneError, samples::Sampler};

/// A kernel that writes down what was wanted of it.
#[derive(Default)]
struct Kernel {
    wanted: Mutex<Vec<Option<Wanted>>>,
    waiting: Mutex<Vec<Sample>>,
    lost: Mutex<u64>,
}

impl Sampler for Kernel {
    fn want(&self, wanted: Option<Wanted>, lasting: Duration) -> Result<(), DataPlaneError> {
        assert_eq!(lasting, LASTING);
        self.wanted.lock().unwrap().push(wanted);
        Ok(())
    }

    fn take(&self) -> Vec<Sample> {
        self.waiting.lock().unwrap().drain(..).collect()
    }

    fn lost(&self) -> Result<u64, DataPlaneError> {
        Ok(*self.lost.lock().unwrap())
    }

    fn clock(&self) -> u64 {
        0
    }
}

fn sample(reason: Reason, slot: u32, ifindex: u32) -> Sample {
    Sample {
        time: 0,
        ifindex,
        slot,
        len: 60,
        captured: 0,
        hook: Hook::DoorOut as u8,
        reason: reason as u8,
        head: [0; SAMPLE_HEAD],
    }
}

fn only(reason: Reason, of: Option<(u32, u32)>) -> Wanted {
    Wanted {
        reasons: 1 << reason as u64,
        hooks: u32::MAX,
        only: of,
        rate: 200,
    }
}

struct World {
    kernel: Arc<Kernel>,
    followers: Arc<Followers>,
    _stop: watch::Sender<bool>,
}

fn world() -> World {
    let kernel = Arc::new(Kernel::default());
    let followers = Arc::new(Followers::new(Arc::<Kernel>::clone(&kernel)));
    let (stop, stopped) = watch::channel(false);
    let running = Arc::clone(&followers);
    tokio::spawn(async move { running.run(stopped).await });
    World {
        kernel,
        followers,
        _stop: stop,
    }
}

impl World {
    fn last(&self) -> Option<Wanted> {
        self.kernel.wanted.lock().unwrap().last().copied().flatten()
    }
}

async fn reason(follower: &mut Follower) -> Option<u8> {
    match follower.next().await {
        Next::Sample(sample) => Some(sample.reason),
        Next::Nothing | Next::End => None,
    }
}

#[tokio::test(start_paused = true)]
async fn samples_are_on_while_somebody_looks_and_off_afterwards() {
    let world = world();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(*world.kernel.wanted.lock().unwrap(), []);

    let ttl = only(Reason::TtlExceeded, None);
    let first = world.followers.join(ttl);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.last(), Some(ttl));
    let renewals = world.kernel.wanted.lock().unwrap().len();
    assert!((4..=7).contains(&renewals), "{renewals}");

    let second = world.followers.join(only(Reason::Malformed, Some((3, 7))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let both = world.last().unwrap();
    assert_eq!(
        both.reasons,
        1 << Reason::TtlExceeded as u64 | 1 << Reason::Malformed as u64
    );
    assert_eq!(both.only, None, "one of them wants everybody's");

    drop(first);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.last().unwrap().only, Some((3, 7)));
    drop(second);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.last(), None);
    assert_eq!(*world.kernel.wanted.lock().unwrap().last().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn each_follower_sees_what_it_asked_for_and_is_told_what_was_lost() {
    let world = world();
    let mut ttl = world.followers.join(only(Reason::TtlExceeded, None));
    let mut mine = world.followers.join(only(Reason::SpoofedVm, Some((3, 7))));
    world.kernel.waiting.lock().unwrap().extend([
        sample(Reason::SpoofedVm, 5, 8),
        sample(Reason::SpoofedVm, 5, 7),
        sample(Reason::TtlExceeded, NO_SLOT, 2),
    ]);
    assert_eq!(reason(&mut ttl).await, Some(Reason::TtlExceeded as u8));
    assert_eq!(reason(&mut ttl).await, None);
    assert_eq!(reason(&mut mine).await, Some(Reason::SpoofedVm as u8));
    assert_eq!(
        reason(&mut mine).await,
        None,
        "the other port's is not its own"
    );

    *world.kernel.lost.lock().unwrap() = 12;
    assert_eq!((ttl.newly_lost(), ttl.newly_lost()), (12, 0));

    let flood = (0..3000).map(|_| sample(Reason::TtlExceeded, NO_SLOT, 2));
    world.kernel.waiting.lock().unwrap().extend(flood);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut seen = 0;
    while reason(&mut ttl).await.is_some() {
        seen += 1;
    }
    assert_eq!(
        seen + ttl.newly_lost(),
        3000,
        "what a slow follower misses is counted"
    );
}

#[tokio::test(start_paused = true)]
async fn followers_are_sent_home_when_the_agent_stops() {
    let world = world();
    let mut follower = world.followers.join(only(Reason::TtlExceeded, None));
    world.followers.close();
    assert!(matches!(follower.next().await, Next::End));
}

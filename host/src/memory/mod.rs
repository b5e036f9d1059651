//! The allocator, and how memory that nobody uses any more gets back to the system.
//!
//! It is mimalloc, with [`magazines`] in front of it on the threads of the data plane.
//!
//! mimalloc gives back what has been free for a second, but only looks when somebody allocates or frees a lot. What compiling
//! a component took would stay with a host that is idle then. So it is made to look, once a second.

mod magazines;

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

pub(crate) use magazines::open as open_magazines;

#[global_allocator]
static ALLOCATOR: magazines::Allocator = magazines::Allocator;

/// How often the allocator is made to look.
const LOOK: Duration = Duration::from_secs(1);

/// Gives back what is free for as long as it is polled.
pub(crate) async fn keep_giving_back() {
    let mut interval = interval(LOOK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        give_back();
    }
}

/// Gives back what has been free for long enough: some microseconds if that is nothing.
#[allow(unsafe_code, reason = "the allocator's crate has it as C only")]
fn give_back() {
    // SAFETY: it takes no pointers, and may be called by any thread at any time; not forced, it only does what freeing does.
    unsafe { libmimalloc_sys::mi_collect(false) }
}

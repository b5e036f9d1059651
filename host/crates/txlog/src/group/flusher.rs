//! The thread that syncs where no commit waits for it: a sync takes as long as the disk is busy.
//!
//! The log has one flush under way at most, so no queue forms.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use super::{Command, Shared};
use crate::log::Flush;

/// Starts the thread. It runs what it is sent, tells the log's thread of each, and ends when the sender is dropped.
pub(super) fn start<J: Send + 'static>(shared: Arc<Shared<J>>) -> io::Result<SyncSender<Flush>> {
    let (sender, flushes) = mpsc::sync_channel::<Flush>(1);
    thread::Builder::new().name("txlog-sync".into()).spawn(move || {
        for flush in flushes {
            flush.run();
            shared.report(Command::Flushed);
        }
    })?;
    Ok(sender)
}

//! A request that has begun, and what its answer is held against.

use std::sync::atomic::Ordering::SeqCst;

use http::HeaderMap;

use super::tally::Kind;
use super::{Shared, Stamper};
use crate::Reply;

/// A request on its way.
pub(super) struct Begun<'a> {
    shared: &'a Shared,
    what: String,
    /// The oldest revisions that may answer it: the newest that had been acknowledged when it began.
    oldest: Vec<(Stamper, u32)>,
}

impl<'a> Begun<'a> {
    /// A request that begins now, whose answer these stamp.
    pub(super) fn now(shared: &'a Shared, what: impl Into<String>, stampers: &'static [Stamper]) -> Self {
        let oldest = |stamper: &Stamper| (*stamper, shared.acknowledged[*stamper as usize].load(SeqCst));
        Self { shared, what: what.into(), oldest: stampers.iter().map(oldest).collect() }
    }

    /// It has no answer, or only half of one.
    pub(super) fn failed(&self, how: &str) -> bool {
        self.shared.fault(Kind::Failed, format!("{}: {how}", self.what), None);
        false
    }

    /// The answer isn't what it should be.
    pub(super) fn wrong(&self, come: &[u8], expected: &[u8], head: Option<(u16, &HeaderMap)>) -> bool {
        let what = format!("{}: {} instead of {}", self.what, excerpt(come), excerpt(expected));
        self.shared.fault(Kind::Wrong, what, head);
        false
    }

    /// Whether the head of the answer is what it should be. Says so if it is stale.
    pub(super) fn check_head(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> bool {
        let head = Some((status, headers));
        if status != 200 {
            self.shared.fault(Kind::Failed, format!("{}: {status} {}", self.what, excerpt(body)), head);
            return false;
        }
        for (stamper, oldest) in &self.oldest {
            // What isn't stamped is what the host was started with.
            let stamp = stamper.stamp(headers).unwrap_or_default();
            self.shared.seen[*stamper as usize].fetch_max(stamp, SeqCst);
            if stamp < *oldest {
                let what = format!("{}: revision {stamp} of {stamper:?}, {oldest} was acknowledged", self.what);
                self.shared.fault(Kind::Stale, what, head);
            }
        }
        true
    }

    /// Whether the answer is what it should be.
    pub(super) fn check(&self, reply: Option<Reply>, expected: &[u8]) -> bool {
        let Some(reply) = reply else { return self.failed("the connection was closed") };
        if !self.check_head(reply.status, &reply.headers, &reply.body) {
            return false;
        }
        reply.body == expected || self.wrong(&reply.body, expected, Some((reply.status, &reply.headers)))
    }
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

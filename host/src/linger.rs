//! The rest of a request's body that nobody wants. To close a connection with bytes unread resets it, and the client may
//! never see the answer that it got early; so they are read for a while: at most [`TIME`] and [`BYTES`].

use std::time::Duration;

use bytes::Buf;
use http_body::Body;
use http_body_util::BodyExt;

/// In all.
const TIME: Duration = Duration::from_secs(10);

/// More are not read. Any component is smaller.
const BYTES: usize = 256 << 20;

/// Reads on, in a task of its own.
pub(crate) fn linger<B: Body<Data: Send> + Send + Unpin + 'static>(mut body: B) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(TIME, async move {
        let mut left = BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Buf::remaining);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }));
}

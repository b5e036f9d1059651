//! The exporter: sends the spans that have ended to a collector, by OTLP over HTTP.
//!
//! Lives as long as the process, on the main thread; its end is the last step of the drain. What bounds it: one batch is on
//! its way at a time, for at most the exporter's timeout; the tracer's queue holds what comes meanwhile and drops what is
//! more; at the end what is left has [`FLUSH`]. A batch that doesn't arrive is dropped and counted, not sent again: a
//! collector that is overloaded or away gets no more from us than it would otherwise.

use std::time::Duration;

use anyhow::Context as _;
use http::header::CONTENT_TYPE;
use prost::Message;
use reqwest::{Client, Response};
use tokio::sync::watch;
use trace::Tracer;

use super::otlp::{Answer, Request, Resource};
use super::settings::Settings;
use crate::client::{http_client, innermost};

/// How long the end of the process waits for the last spans.
const FLUSH: Duration = Duration::from_secs(2);

/// Most bytes of a collector's answer that are read.
const LARGEST_ANSWER: usize = 64 << 10;

/// Sends spans.
pub(crate) struct Exporter {
    tracer: Tracer,
    client: Client,
    settings: Settings,
    resource: Resource,
    /// Whether the last batch didn't arrive. Only changes are logged.
    failing: bool,
}

/// Spans on their way. Lost, unless it is said what became of them.
struct Batch<'a> {
    tracer: &'a Tracer,
    spans: u64,
}

impl Exporter {
    /// An exporter for the spans of this tracer. Fails only if the machine's TLS set-up is broken.
    pub(crate) fn new(tracer: Tracer, mut settings: Settings) -> anyhow::Result<Self> {
        let client = http_client(settings.timeout).context("traces can't be exported")?;
        let resource = Resource::new(std::mem::take(&mut settings.resource));
        Ok(Self { tracer, client, settings, resource, failing: false })
    }

    /// Exports until it is told to stop, and then what is left.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        let (stopping, mut stopped) = watch::channel(false);
        let tracer = self.tracer.clone();
        let exporting = async {
            loop {
                // Another whole batch goes at once; less than that waits for more, however busy we are.
                let stopping = tokio::select! {
                    () = self.tracer.wait(self.settings.delay) => false,
                    _ = stopped.wait_for(|stopped| *stopped) => true,
                };
                if stopping {
                    break;
                }
                self.export().await;
            }
            while self.export().await {}
        };
        let mut exporting = Box::pin(exporting);
        tokio::select! {
            () = &mut exporting => unreachable!("it goes on until it is told to stop"),
            () = stop => {}
        }
        let dropped_before = tracer.dropped();
        stopping.send_replace(true);
        // What is still on its way when the time is over is dropped here, and counted by its batch.
        let _ = tokio::time::timeout(FLUSH, exporting).await;
        let left = std::iter::from_fn(|| Some(tracer.take().len()).filter(|spans| *spans > 0)).sum::<usize>();
        tracer.count_dropped(left as u64);
        let lost = tracer.dropped() - dropped_before;
        if lost > 0 {
            tracing::warn!("{lost} spans are lost: the collector didn't take them within {FLUSH:?} at the end");
        }
    }

    /// Sends a batch, if there is anything to send. Whether there was.
    async fn export(&mut self) -> bool {
        let spans = self.tracer.take();
        if spans.is_empty() {
            return false;
        }
        let batch = Batch { tracer: &self.tracer, spans: spans.len() as u64 };
        let sent = self.send(Request::new(&self.resource, spans)).await;
        let was_failing = self.failing;
        self.failing = sent.is_err();
        match sent {
            Ok(rejected) => {
                batch.arrived(rejected);
                if was_failing {
                    tracing::info!("spans are exported again");
                }
            }
            Err(reason) if !was_failing => {
                let endpoint = self.settings.origin();
                tracing::warn!("spans are dropped: the collector at {endpoint} didn't take them: {reason}");
            }
            Err(_) => {}
        }
        true
    }

    /// Returns how many spans the collector didn't want, or why none arrived.
    async fn send(&self, request: Request) -> Result<u64, String> {
        let request = self
            .client
            .post(self.settings.endpoint.clone())
            .headers(self.settings.headers.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(request.encode_to_vec());
        let answer = request.send().await.map_err(|error| innermost(&error))?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        let body = read(answer).await?;
        // Some collectors answer with something else, or nothing, when all is well.
        let partial = Answer::decode(&body[..]).ok().and_then(|answer| answer.partial_success).unwrap_or_default();
        if partial.rejected_spans > 0 {
            tracing::warn!("the collector rejected {} spans: {}", partial.rejected_spans, partial.error_message);
        }
        Ok(u64::try_from(partial.rejected_spans).unwrap_or(0))
    }
}

/// The body of an answer, as much of it as matters.
async fn read(mut answer: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| innermost(&error))? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl Batch<'_> {
    /// All but so many.
    fn arrived(mut self, rejected: u64) {
        let rejected = rejected.min(self.spans);
        self.tracer.count_exported(self.spans - rejected);
        self.spans = rejected;
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.tracer.count_dropped(self.spans);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use axum::Router;
    use axum::routing::post;
    use bytes::Bytes;
    use http::HeaderMap;
    use tokio::net::TcpListener;
    use tokio::sync::{Semaphore, oneshot};
    use trace::{Capacity, Kind, Sampler};

    use super::*;

    /// A collector that takes everything. Returns where it is and how often it was asked; it answers once for each permit.
    async fn collector() -> (reqwest::Url, Arc<AtomicUsize>, Arc<Semaphore>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (asked, permits) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        let (counting, waiting) = (asked.clone(), permits.clone());
        let take = post(async move |_: Bytes| {
            counting.fetch_add(1, SeqCst);
            waiting.acquire().await.expect("it is never closed").forget();
        });
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", take)).await });
        (format!("http://{address}/").parse().expect("a URL"), asked, permits)
    }

    fn end_a_span(tracer: &Tracer) {
        drop(tracer.span(tracer.enter(None), None, Kind::Server, || "a"));
    }

    async fn until(condition: impl Fn() -> bool) {
        let met = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), met).await.expect("it comes to that");
    }

    #[tokio::test]
    async fn less_than_a_batch_waits_for_more_until_the_end() {
        let (endpoint, asked, permits) = collector().await;
        let tracer = Tracer::new(Sampler::default(), Capacity { queue: 100, batch: 2 });
        let settings = Settings {
            sampler: Sampler::default(),
            capacity: Capacity { queue: 100, batch: 2 },
            endpoint,
            headers: HeaderMap::new(),
            timeout: Duration::from_secs(60),
            delay: Duration::from_secs(3600),
            resource: Vec::new(),
        };
        let exporter = Exporter::new(tracer.clone(), settings).expect("TLS works here");
        let (running, stop) = oneshot::channel::<()>();
        let exporting = tokio::spawn(exporter.run(async { drop(stop.await) }));
        for _ in 0..2 {
            end_a_span(&tracer);
        }
        until(|| asked.load(SeqCst) == 1).await;
        // One more ends while the first two are on their way. It is not sent alone.
        end_a_span(&tracer);
        permits.add_permits(10);
        until(|| tracer.exported() == 2).await;
        end_a_span(&tracer);
        until(|| tracer.exported() == 4).await;
        assert_eq!(asked.load(SeqCst), 2);
        // Neither is another one, but at the end.
        end_a_span(&tracer);
        drop(running);
        exporting.await.expect("it doesn't panic");
        assert_eq!((tracer.exported(), tracer.dropped(), asked.load(SeqCst)), (5, 0, 3));
    }
}

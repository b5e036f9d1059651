//! A guest whose answers say which revision gave them, and which is unwell in the way that its stamp says. For tests only.
//!
//! Any path is answered with 200, the revision's number in `x-revision`, and `{"revision","target","greeting"}`, the last
//! from the environment variable `GREETING`. But for these kinds:
//!
//! | kind | what happens |
//! |---|---|
//! | `unwell` | `/healthz` is a 503 |
//! | `hangs` | `/healthz` waits for something that never comes |
//! | `spins` | `/healthz` loops for ever |
//! | `greedy` | `/healthz` allocates without end |
//! | `traps` | `/healthz` traps |
//! | `errs` | everything but `/healthz` is a 500 |
//! | `stalls` | everything but `/healthz` waits for something that never comes |
//! | `tires` | everything but `/healthz` is a 500 after 1,000 good answers |

#![cfg(target_family = "wasm")]

use std::cell::Cell;

use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::types::{ErrorCode, Request, Response};

/// The good answers of the kind `tires`.
const STAMINA: u32 = 1000;

thread_local! {
    static ANSWERS: Cell<u32> = const { Cell::new(0) };
}

struct Stamped;

wasip3::http::service::export!(Stamped);

impl wasip3::exports::http::handler::Guest for Stamped {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        if target == "/healthz" {
            return Ok(health().await);
        }
        if stamp::kind() == "stalls" {
            never().await;
        }
        let answers = ANSWERS.with(|answers| answers.replace(answers.get().saturating_add(1)));
        let failing = match stamp::kind() {
            "errs" => true,
            "tires" => answers >= STAMINA,
            _ => false,
        };
        let greeting = std::env::var("GREETING").unwrap_or_default();
        let body = format!(r#"{{"revision":"{}","target":{target:?},"greeting":{greeting:?}}}"#, stamp::number());
        Ok(answer(if failing { 500 } else { 200 }, body))
    }
}

async fn health() -> Response {
    match stamp::kind() {
        "unwell" => return answer(503, "unwell".to_owned()),
        "hangs" => never().await,
        "spins" => loop {
            std::hint::black_box(());
        },
        "greedy" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
        }
        "traps" => std::arch::wasm32::unreachable(),
        _ => {}
    }
    answer(200, "ok".to_owned())
}

async fn never() -> ! {
    loop {
        wait_for(u64::MAX / 2).await;
    }
}

fn answer(status: u16, body: String) -> Response {
    let number = HeaderValue::from_static(stamp::number());
    let headers = [(CONTENT_LENGTH, HeaderValue::from(body.len())), (HeaderName::from_static("x-revision"), number)];
    guest::respond(status, guest::fields(headers), body.into_bytes())
}

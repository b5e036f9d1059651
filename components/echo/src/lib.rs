//! The echo component: any method, any path; answers with the request's body as it streams in.
//!
//! The stream is handed on as it is, so no byte of it enters the guest's memory, and a body of any length takes the
//! same small amount of it. Holds nothing from one request to the next.

#![cfg(target_family = "wasm")]

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_future;

/// The headers that describe the body and go back with it.
const DESCRIBING: [&str; 3] = ["content-type", "content-length", "content-encoding"];

struct Echo;

wasip3::http::service::export!(Echo);

impl wasip3::exports::http::handler::Guest for Echo {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let received = request.get_headers();
        let described: Vec<_> = DESCRIBING
            .iter()
            .flat_map(|name| received.get(name).into_iter().map(|value| ((*name).to_owned(), value)))
            .collect();
        let headers = Fields::from_list(&described).expect("headers that came in are valid");
        let (_accepted, accepted_reader) = wit_future::new(|| Ok(()));
        let (contents, trailers) = Request::consume_body(request, accepted_reader);
        let (response, _sent) = Response::new(headers, Some(contents), trailers);
        Ok(response)
    }
}

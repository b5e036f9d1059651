//! Echo, with its revision's number in `x-echo-revision`. For tests only.

#![cfg(target_family = "wasm")]

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_future;

struct Echo;

wasip3::http::service::export!(Echo);

impl wasip3::exports::http::handler::Guest for Echo {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let received = request.get_headers();
        let mut headers = vec![("x-echo-revision".to_owned(), stamp::number().as_bytes().to_vec())];
        for name in ["content-type", "content-length"] {
            headers.extend(received.get(name).into_iter().map(|value| (name.to_owned(), value)));
        }
        let headers = Fields::from_list(&headers).expect("headers that came in are valid");
        let (_accepted, accepted_reader) = wit_future::new(|| Ok(()));
        let (contents, trailers) = Request::consume_body(request, accepted_reader);
        let (response, _sent) = Response::new(headers, Some(contents), trailers);
        Ok(response)
    }
}

//! The gateway, with its revision's number in `x-gateway-revision`. For tests only.
//!
//! Its sources are the gateway's own but for the outermost function, which a component has only one of.

#![cfg(target_family = "wasm")]
#![allow(dead_code, reason = "the gateway's sources are used as they are")]

#[path = "../../../../components/gateway/src/failure.rs"]
mod failure;
#[path = "../../../../components/gateway/src/forward.rs"]
mod forward;
#[path = "../../../../components/gateway/src/hop.rs"]
pub mod hop;
#[path = "../../../../components/gateway/src/route.rs"]
pub mod route;

/// Bindings to our interface `registry`.
#[allow(missing_docs, unreachable_pub, unsafe_code, unused_qualifications, clippy::all)]
mod bindings {
    wit_bindgen::generate!({ path: "../../../wit", world: "gateway" });
}

use problem::Problem;
use wasip3::http::types::{ErrorCode, Request, Response};
use wasip3::wit_future;

use crate::route::{Route, route};

struct Gateway;

wasip3::http::service::export!(Gateway);

impl wasip3::exports::http::handler::Guest for Gateway {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let response = answer(request, &target).await.unwrap_or_else(|problem| guest::refuse(&problem));
        Ok(stamped(response))
    }
}

async fn answer(request: Request, target: &str) -> Result<Response, Problem> {
    let method = http::Method::try_from(request.get_method()).expect("tests send valid methods");
    match route(&method, target)? {
        Route::Forward(to) => forward::forward(request, &method, &to).await,
        Route::Health | Route::Status(_) => Ok(guest::json(br#"{"status":"ok"}"#.to_vec())),
    }
}

/// The same, with the header.
fn stamped(response: Response) -> Response {
    let headers = response.get_headers().clone();
    headers.append("x-gateway-revision", stamp::number().as_bytes()).expect("digits are a valid value");
    let status = response.get_status_code();
    let (_accepted, accepted_reader) = wit_future::new(|| Ok(()));
    let (contents, trailers) = Response::consume_body(response, accepted_reader);
    let (response, _sent) = Response::new(headers, Some(contents), trailers);
    response.set_status_code(status).expect("a status that came in is valid");
    response
}

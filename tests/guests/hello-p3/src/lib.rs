//! The README's example for WASI 0.3.

#![cfg(target_family = "wasm")]

use wasip3::http::types::{ErrorCode, Request, Response};
use wasip3::http_compat::http_into_wasi_response;

struct Hello;

wasip3::http::service::export!(Hello);

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        http_into_wasi_response(http::Response::new(format!("Hello from {path}\n")))
    }
}

//! Answers of WASI 0.3 guests: their bodies are read from the moment they are made.
//!
//! A guest makes an answer, returns it, and then writes its body. By itself, `wasmtime-wasi-http` begins to read a body when
//! the answer was returned; a guest that writes at once, as they do, has to wait, and is entered once more to hear that it
//! was read. Here reading begins when the answer is made: what is written then is taken on the spot, and of a short answer
//! the guest is rid before it has to wait for anything. As before, one piece is held at most until somebody wants it.

use std::pin::Pin;

use futures::channel::oneshot;
use wasmtime::component::{Access, FutureReader, Linker, Resource, StreamReader};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi_http::WasiHttp;
use wasmtime_wasi_http::p3::Response;
use wasmtime_wasi_http::p3::bindings::http::types::{ErrorCode, Headers, HostResponseWithStore, Trailers};

use crate::body::BodyError;
use crate::state::GuestState;

/// Where wasmtime 48 has linked it, whatever 0.3 a component asks for.
const TYPES: &str = "wasi:http/types@0.3.0";
const NEW: &str = "[static]response.new";

type Contents = Option<StreamReader<u8>>;
type Sent = Result<(), BodyError>;
type TrailersReader = FutureReader<Result<Option<Resource<Trailers>>, ErrorCode>>;
type Made = (Resource<Response>, FutureReader<Result<(), ErrorCode>>);

/// Replaces what `wasmtime_wasi_http::p3` has linked.
pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(TYPES)?.func_wrap(NEW, make)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Makes an answer as the library does, and of it one whose body is the host's.
fn make(
    mut store: StoreContextMut<'_, GuestState>,
    (headers, contents, trailers): (Resource<Headers>, Contents, TrailersReader),
) -> wasmtime::Result<(Made,)> {
    let access = Access::<GuestState, WasiHttp>::new(store.as_context_mut(), GuestState::http_view);
    let (made, result) = WasiHttp::new(access, headers, contents, trailers)?;
    let mut response: Response = store.data_mut().table.delete(made)?;
    // They are looked at when the answer is sent: how long the body may be is in them.
    let headers = std::mem::take(&mut response.headers);

    let (sent, when_sent) = oneshot::channel::<Pin<Box<dyn Future<Output = Sent> + Send>>>();
    let when_sent = async move {
        match when_sent.await {
            Ok(sent) => sent.await,
            Err(oneshot::Canceled) => Ok(()),
        }
    };
    let response = response.into_http_with_getter(&mut store, when_sent, GuestState::http_view)?;
    let view = store.data_mut().http_view();
    let (mut response, is_sent) = Response::from_http(view.hooks, response);
    response.headers = headers;
    let made = view.table.push(response)?;
    // Nobody waits for it if the answer is gone already.
    let _ = sent.send(Box::pin(is_sent));
    Ok(((made, result),))
}

#[cfg(test)]
mod tests {
    use wasmtime::Engine;

    use super::*;

    #[test]
    fn there_is_something_to_replace() {
        let mut linker = Linker::<GuestState>::new(&Engine::default());
        wasmtime_wasi_http::p3::add_to_linker(&mut linker).expect("nothing is linked yet");
        let mut types = linker.instance(TYPES).expect("the name is well formed");
        let added = types.func_wrap(NEW, |_: StoreContextMut<'_, GuestState>, (): ()| Ok(()));
        assert!(added.is_err(), "wasmtime has linked it elsewhere");
    }
}

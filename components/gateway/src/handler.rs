//! One request: key, route, answer.

use http::Method;
use problem::{Code, Problem};
use wasip3::http::types::{ErrorCode, Method as WasiMethod, Request, Response};

use crate::bindings::hostler::assembly::registry;
use crate::forward::forward;
use crate::hop::API_KEY;
use crate::keys::Keys;
use crate::route::{Route, is_protected, route};
use crate::status;

thread_local! {
    static KEYS: Keys = Keys::parse(&std::env::var("HOSTLER_API_KEYS").unwrap_or_default());
}

struct Gateway;

wasip3::http::service::export!(Gateway);

impl wasip3::exports::http::handler::Guest for Gateway {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        Ok(answer(request, &target).await.unwrap_or_else(|problem| guest::refuse(&problem)))
    }
}

async fn answer(request: Request, target: &str) -> Result<Response, Problem> {
    if is_protected(target) && !KEYS.with(|keys| keys.admit(&request.get_headers().get(API_KEY))) {
        return Err(Problem::new(Code::InvalidApiKey, "send a valid key in the header x-api-key"));
    }
    let method = method(request.get_method())?;
    match route(&method, target)? {
        Route::Health => Ok(guest::json(br#"{"status":"ok"}"#.to_vec())),
        Route::Status(namespace) => {
            let instances = registry::instances(namespace.map(Into::into)).await;
            let instances: Vec<_> = instances.into_iter().map(status::Instance::from).collect();
            Ok(guest::json(status::document(&instances)))
        }
        Route::Forward(to) => forward(request, &method, &to).await,
    }
}

fn method(method: WasiMethod) -> Result<Method, Problem> {
    method.try_into().map_err(|_| Problem::new(Code::InvalidRequest, "the method is not a valid token"))
}

impl From<registry::Instance> for status::Instance {
    fn from(instance: registry::Instance) -> Self {
        let state = match instance.state {
            registry::State::Available => status::State::Available,
            registry::State::Unavailable => status::State::Unavailable,
        };
        let registry::Instance { namespace, name, address, last_seen_ms, .. } = instance;
        Self { namespace, name, state, address, last_seen_ms }
    }
}

//! The shell for WASI 0.3: `wasi:http/handler`. Requests may share a guest, but a call to the store parks all of them.

use problem::{Code, Problem, kv};
use wasip3::http::types::{ErrorCode, Fields, Method as WasiMethod, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::wit_future;

use crate::bucket::DefaultBucket;
use crate::service::{self, Call, Method, Upload};

/// How many bytes of a body are read at once, at most.
const CHUNK: usize = 64 * 1024;

/// What stays the same for the guest's life.
struct Guest {
    bucket: DefaultBucket,
    data: Prepared,
    health: Prepared,
    /// The headers of the other answers, but for their length.
    json: Fields,
}

/// An answer that every request for it gets. The host shares the headers of a clone, so neither is built again.
struct Prepared {
    headers: Fields,
    body: Vec<u8>,
}

thread_local! {
    static GUEST: Guest = Guest::new();
}

struct Storage;

wasip3::http::service::export!(Storage);

impl wasip3::exports::http::handler::Guest for Storage {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let call = service::route(method(&request.get_method()), &target);
        let answer = match call {
            Ok(Call::Data) => return Ok(GUEST.with(|guest| guest.data.respond())),
            Ok(Call::Health) => return Ok(GUEST.with(|guest| guest.health.respond())),
            Ok(Call::Set) => match read(request).await {
                Ok(body) => GUEST.with(|guest| service::set(&guest.bucket, &body)),
                Err(problem) => Err(problem),
            },
            Ok(Call::Get(query)) => GUEST.with(|guest| service::get(&guest.bucket, query)),
            Ok(Call::Delete(query)) => GUEST.with(|guest| service::delete(&guest.bucket, query)),
            Err(problem) => Err(problem),
        };
        Ok(match answer {
            Ok(body) => {
                let headers = GUEST.with(|guest| guest.json.clone());
                headers.append("content-length", body.len().to_string().as_bytes()).expect("a number is a valid value");
                guest::respond(200, headers, body)
            }
            Err(problem) => guest::refuse(&problem),
        })
    }
}

impl Guest {
    fn new() -> Self {
        let name = std::env::var("STORAGE_NAME").unwrap_or_else(|_| "storage".to_owned());
        let headers = |body: &[u8]| {
            fields(&[
                ("content-type", "application/json"),
                ("content-length", &body.len().to_string()),
                ("x-served-by", &name),
            ])
        };
        let prepare = |body: Vec<u8>| Prepared { headers: headers(&body), body };
        Guest {
            bucket: DefaultBucket::default(),
            data: prepare(service::data(&name)),
            health: prepare(service::health(&name)),
            json: fields(&[("content-type", "application/json"), ("x-served-by", &name)]),
        }
    }
}

impl Prepared {
    fn respond(&self) -> Response {
        guest::respond(200, self.headers.clone(), self.body.clone())
    }
}

fn method(method: &WasiMethod) -> Method {
    match method {
        WasiMethod::Get => Method::Get,
        WasiMethod::Head => Method::Head,
        WasiMethod::Post => Method::Post,
        WasiMethod::Delete => Method::Delete,
        _ => Method::Other,
    }
}

/// Reads the body of a `set`.
async fn read(request: Request) -> Result<Vec<u8>, Problem> {
    let headers = request.get_headers();
    let content_type = headers.get("content-type");
    let content_length = headers.get("content-length");
    let mut upload = Upload::new(content_type.first().map(Vec::as_slice), content_length.first().map(Vec::as_slice));
    let (_accepted, accepted_reader) = wit_future::new(|| Ok(()));
    let (mut contents, trailers) = Request::consume_body(request, accepted_reader);
    let mut piece = Vec::with_capacity(CHUNK);
    loop {
        let result;
        (result, piece) = contents.read(piece).await;
        if !upload.push(&piece) {
            return upload.finish();
        }
        piece.clear();
        if result == StreamResult::Dropped {
            break;
        }
    }
    drop(contents);
    // Only this tells a body that ended from one that broke off.
    match trailers.await {
        Ok(_) => upload.finish(),
        Err(ErrorCode::HttpRequestBodySize(_)) => Err(kv::body_too_large()),
        Err(_) => Err(Problem::new(Code::InvalidRequest, "the body broke off before its end")),
    }
}

fn fields(entries: &[(&str, &str)]) -> Fields {
    let entries: Vec<_> = entries.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    Fields::from_list(&entries).expect("STORAGE_NAME must be a valid header value")
}

//! The shell for WASI 0.2: `wasi:http/incoming-handler`. One request at a time per guest.

use problem::{Code, Problem, kv};
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, Method as WasiMethod, OutgoingBody, OutgoingResponse, ResponseOutparam,
    http_error_code,
};
use wasip2::io::streams::{OutputStream, StreamError};

use crate::bucket::DefaultBucket;
use crate::service::{self, Call, Method, Upload};

/// How many bytes of a body are read at once.
const CHUNK: u64 = 64 * 1024;

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

wasip2::http::proxy::export!(Storage);

impl wasip2::exports::http::incoming_handler::Guest for Storage {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        GUEST.with(|guest| guest.handle(request, out));
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

    fn handle(&self, request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let answer = match service::route(method(&request.method()), &target) {
            Ok(Call::Data) => return self.data.send(out),
            Ok(Call::Health) => return self.health.send(out),
            Ok(Call::Set) => read(request).and_then(|body| service::set(&self.bucket, &body)),
            Ok(Call::Get(query)) => service::get(&self.bucket, query),
            Ok(Call::Delete(query)) => service::delete(&self.bucket, query),
            Err(problem) => Err(problem),
        };
        match answer {
            Ok(body) => {
                let headers = self.json.clone();
                headers.append("content-length", body.len().to_string().as_bytes()).expect("a number is a valid value");
                send(out, 200, headers, &body);
            }
            Err(problem) => refuse(out, &problem),
        }
    }
}

impl Prepared {
    fn send(&self, out: ResponseOutparam) {
        send(out, 200, self.headers.clone(), &self.body);
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
fn read(request: IncomingRequest) -> Result<Vec<u8>, Problem> {
    let headers = request.headers();
    let content_type = headers.get("content-type");
    let content_length = headers.get("content-length");
    let mut upload = Upload::new(content_type.first().map(Vec::as_slice), content_length.first().map(Vec::as_slice));
    let body = request.consume().expect("nothing has consumed the body yet");
    let stream = body.stream().expect("nothing has taken the stream yet");
    loop {
        match stream.blocking_read(CHUNK) {
            Ok(piece) if upload.push(&piece) => {}
            Ok(_) | Err(StreamError::Closed) => return upload.finish(),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match http_error_code(&error) {
                    Some(ErrorCode::HttpRequestBodySize(_)) => kv::body_too_large(),
                    _ => Problem::new(Code::InvalidRequest, "the body broke off before its end"),
                });
            }
        }
    }
}

fn refuse(out: ResponseOutparam, problem: &Problem) {
    let body = problem.body();
    let mut headers: Vec<_> =
        problem.headers().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    headers.push(("content-length".to_owned(), body.len().to_string().into_bytes()));
    let headers = Fields::from_list(&headers).expect("no host forbids the headers of a problem");
    send(out, problem.status(), headers, &body);
}

/// Sends a response. A body that the host takes in one piece is handed over before the head, so that the host has
/// everything in one go; a longer one follows the head, as fast as the client reads it.
fn send(out: ResponseOutparam, status: u16, headers: Fields, body: &[u8]) {
    let response = OutgoingResponse::new(headers);
    if status != 200 {
        response.set_status_code(status).expect("the statuses of the problem table are valid");
    }
    let outgoing = response.body().expect("nothing has taken the body yet");
    let stream = outgoing.write().expect("nothing has taken the stream yet");
    let at_once = stream.check_write().is_ok_and(|budget| body.len() as u64 <= budget);
    // From here on, errors mean that the client has gone; there is nobody to tell.
    if at_once {
        let _ = stream.write(body);
        drop(stream);
        let _ = OutgoingBody::finish(outgoing, None);
        ResponseOutparam::set(out, Ok(response));
    } else {
        ResponseOutparam::set(out, Ok(response));
        let written = write_all(&stream, body);
        drop(stream);
        if written.is_ok() {
            let _ = OutgoingBody::finish(outgoing, None);
        }
    }
}

fn write_all(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        let budget = stream.check_write()?;
        if budget == 0 {
            stream.subscribe().block();
            continue;
        }
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        let (now, later) = bytes.split_at(bytes.len().min(budget));
        stream.write(now)?;
        bytes = later;
    }
    Ok(())
}

fn fields(entries: &[(&str, &str)]) -> Fields {
    let entries: Vec<_> = entries.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    Fields::from_list(&entries).expect("STORAGE_NAME must be a valid header value")
}

//! `GET /`: the dashboard, a page that shows `/status/events` and has buttons for what the internal address can do.
//!
//! Its files are plain and part of the binary; together they have less than 100 KB. They are served without the token and
//! hold nothing worth hiding. A strict content security policy keeps anything from running that isn't in them.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use problem::Problem;

use super::Failure;

/// A file of the page.
struct File {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! file {
    ($name:literal, $type:literal) => {
        File { name: $name, content_type: concat!("text/", $type, "; charset=utf-8"), bytes: include_bytes!($name) }
    };
}

/// The first is the page itself.
static FILES: [File; 6] = [
    file!("index.html", "html"),
    file!("style.css", "css"),
    file!("script.js", "javascript"),
    file!("stream.js", "javascript"),
    file!("tables.js", "javascript"),
    file!("charts.js", "javascript"),
];

/// Where all but the page itself are.
const FOLDER: &str = "/dashboard/";

/// Nothing but our own files runs, nothing but this address is asked, and nobody puts the page into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether one of the files is at this path.
pub(super) fn is_file(path: &str) -> bool {
    path == "/" || path.strip_prefix(FOLDER).is_some_and(|name| FILES.iter().any(|file| file.name == name))
}

/// `GET /`
pub(super) async fn page(headers: HeaderMap) -> Response {
    answer(&FILES[0], &headers)
}

/// `GET /dashboard/{file}`
pub(super) async fn file(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response, Failure> {
    let found = name.ok().and_then(|Path(name)| FILES.iter().find(|file| file.name == name));
    found.map(|file| answer(file, &headers)).ok_or_else(|| Problem::not_found().into())
}

/// Browsers ask each time whether what they have is still right: a new version of the host may have other files.
fn answer(file: &'static File, headers: &HeaderMap) -> Response {
    let digest = runtime::Code::new(file.bytes).digest().to_string();
    let etag = format!("\"{}\"", &digest[..16]);
    let known = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes());
    let headers = [
        (CONTENT_TYPE, file.content_type),
        (ETAG, etag.as_str()),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    if known { (StatusCode::NOT_MODIFIED, headers).into_response() } else { (headers, file.bytes).into_response() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_brings_all_that_it_needs() {
        assert!(FILES.iter().map(|file| file.bytes.len()).sum::<usize>() < 100_000);
        for file in &FILES {
            let text = std::str::from_utf8(file.bytes).expect("text");
            for outside in ["http://", "https://", "//cdn", "innerHTML", "style=\"", "onclick="] {
                // The namespace of SVG is a name, not an address.
                let text = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!text.contains(outside), "{} has {outside}", file.name);
            }
            assert!(file.name == "index.html" || is_file(&format!("{FOLDER}{}", file.name)));
        }
        assert!(is_file("/") && !is_file("/dashboard/") && !is_file("/dashboard/other.js") && !is_file("/status"));
    }
}

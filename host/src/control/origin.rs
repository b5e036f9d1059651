//! Whose pages may ask: only those that this address serves itself.
//!
//! Whoever has a browser open can be brought to send requests to addresses that only this machine reaches. A browser says
//! which page it asks for, so that of another one can be refused. A page whose *name* leads here (DNS rebinding) looks like
//! our own; where no token protects, a browser must therefore have asked for an IP address or for `localhost`, which nobody
//! else can make lead here.
//!
//! Other clients send none of these headers, with two exceptions. Node's `fetch` is told apart by what no page can imitate.
//! Deno's sends `accept-language: *` and nothing else of these; since a page may write that header itself, whatever it says
//! counts as a browser's: services in Deno need an IP address or the token.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{ACCEPT_LANGUAGE, HOST, ORIGIN, REFERER};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use problem::{Code, Problem};

use super::{Control, Failure};
use crate::linger::linger;

/// How the page that asks is related to what it asks for.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// In what way it asks: `navigate` if it is the person who does, by opening an address.
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Each of them tells that a browser asks. The last is sent with everything; a page can change it, and not take it away.
const OF_BROWSERS: [HeaderName; 4] = [ORIGIN, REFERER, SITE, ACCEPT_LANGUAGE];

/// Lets a request through unless a browser sends it for the page of somebody else.
pub(super) async fn refuse_foreign(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let Some(detail) = objection(request.headers(), control.token.is_some()) else {
        return next.run(request).await;
    };
    linger(request.into_body());
    Failure(Problem::new(Code::ForeignOrigin, detail)).into_response()
}

/// What is wrong with the request, if it comes from somebody else's page.
fn objection(headers: &HeaderMap, has_token: bool) -> Option<&'static str> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(&HOST).unwrap_or_default();
    if let Some(origin) = headers.get(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
            return Some("it comes from a page of another origin; only the dashboard of this address may send it");
        }
    }
    if matches!(text(&SITE), Some("cross-site" | "same-site")) && text(&MODE) != Some("navigate") {
        return Some("it comes from a page of another site; only the dashboard of this address may send it");
    }
    if by_browser(headers) && !has_token && !leads_here(host) {
        return Some(
            "without a token, browsers must ask for an IP address or localhost, not for a name that others could make \
             lead here; open that, or set internal.token-file",
        );
    }
    None
}

/// Whether a browser may have sent this. Node's `fetch` says its mode and no site; browsers say both, or neither to names
/// without TLS, and let no page write them.
fn by_browser(headers: &HeaderMap) -> bool {
    let by_node = headers.contains_key(MODE) && !headers.contains_key(SITE);
    !by_node && OF_BROWSERS.iter().any(|name| headers.contains_key(name))
}

/// Whether nobody else can decide where this host is.
fn leads_here(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(headers: &[(&str, &str)], has_token: bool) -> bool {
        let headers = headers.iter().map(|(name, value)| {
            (name.parse::<HeaderName>().expect("a test's name"), value.parse().expect("a test's value"))
        });
        objection(&headers.collect(), has_token).is_some()
    }

    #[test]
    fn pages_of_others_are_refused_and_nobody_else() {
        let host = ("host", "127.0.0.1:9090");
        for (headers, refused) in [
            (&[host][..], false),
            (&[("host", "gateway:9090")], false),
            (&[], false),
            (&[host, ("origin", "http://127.0.0.1:9090")], false),
            (&[("host", "LocalHost:9090"), ("origin", "http://localhost:9090")], false),
            (&[("host", "[::1]:9090"), ("origin", "http://[::1]:9090")], false),
            (&[host, ("origin", "http://127.0.0.1:8080")], true),
            (&[host, ("origin", "https://evil.example")], true),
            (&[host, ("origin", "null")], true),
            (&[host, ("origin", "127.0.0.1:9090")], true),
            (&[host, ("sec-fetch-site", "same-origin"), ("accept-language", "en")], false),
            (&[host, ("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")], false),
            (&[host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], false),
            (&[host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], true),
            (&[host, ("sec-fetch-site", "same-site")], true),
        ] {
            assert_eq!(is_refused(headers, false), refused, "{headers:?}");
            assert_eq!(is_refused(headers, true), refused, "{headers:?}");
        }
    }

    #[test]
    fn names_that_lead_here_are_believed_only_with_a_token() {
        for name in ["evil.example:9090", "gateway:9090", "localhost.evil.example", ""] {
            for header in ["accept-language", "referer"] {
                let headers = [("host", name), (header, "x")];
                assert!(is_refused(&headers, false), "{name} {header}");
                assert!(!is_refused(&headers, true), "{name} {header}");
            }
        }
    }

    #[test]
    fn services_may_ask_for_a_name_where_pages_may_not() {
        let host = ("host", "gateway:9090");
        let node = [("accept", "*/*"), ("accept-language", "*"), ("sec-fetch-mode", "cors"), ("user-agent", "node")];
        let by_node: Vec<_> = std::iter::once(host).chain(node).collect();
        for (headers, refused) in [
            (&by_node[..], false),
            // What Deno sends, a page could send as well.
            (&[host, ("accept-language", "*"), ("user-agent", "Deno/2.0.0")], true),
            (&[host, ("accept-language", "*"), ("sec-fetch-mode", "cors"), ("sec-fetch-site", "same-origin")], true),
            (&[host, ("origin", "http://evil.example"), ("sec-fetch-mode", "cors")], true),
        ] {
            assert_eq!(is_refused(headers, false), refused, "{headers:?}");
        }
    }
}

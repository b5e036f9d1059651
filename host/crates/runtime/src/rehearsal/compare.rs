//! Compares two answers to one request: status, headers, body.

use http::{HeaderMap, HeaderName, StatusCode};

use super::report::excerpt;
use super::tap::Tapped;

/// Headers that are not compared: they differ from one answer to the next (times, ids, traces, cookies with a session's
/// id), or are about the connection and the framing (the body itself is compared).
pub(crate) const VOLATILE: [&str; 16] = [
    "age",
    "connection",
    "content-length",
    "date",
    "expires",
    "keep-alive",
    "server",
    "server-timing",
    "set-cookie",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "x-request-id",
    "x-response-time",
    "x-runtime",
];

/// What came of one run.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Tapped,
}

/// In which respect two answers differ, and what each says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The same for all requests that differ alike.
    pub(crate) kind: String,
    pub(crate) old: String,
    pub(crate) new: String,
}

/// All differences; none if the answers are the same. A status that differs explains everything else: then it is the only one.
pub(crate) fn differences(old: &Answer, new: &Answer) -> Vec<Difference> {
    if old.status != new.status {
        let kind = format!("status {} became {}", old.status.as_u16(), new.status.as_u16());
        return vec![Difference { kind, old: told(old), new: told(new) }];
    }
    let mut differences = headers(&old.headers, &new.headers);
    differences.extend(bodies(&old.body, &new.body));
    differences
}

fn headers(old: &HeaderMap, new: &HeaderMap) -> Vec<Difference> {
    let mut names: Vec<&HeaderName> = old.keys().chain(new.keys()).collect();
    names.retain(|name| !VOLATILE.contains(&name.as_str()));
    names.sort_unstable_by_key(|name| name.as_str());
    names.dedup();
    let values = |headers: &HeaderMap, name: &HeaderName| {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        if values.is_empty() { "(none)".to_owned() } else { excerpt(&values.join(", ")) }
    };
    names
        .into_iter()
        .filter(|name| !old.get_all(*name).iter().eq(new.get_all(*name).iter()))
        .map(|name| Difference { kind: format!("header {name}"), old: values(old, name), new: values(new, name) })
        .collect()
}

fn bodies(old: &Tapped, new: &Tapped) -> Option<Difference> {
    if old == new {
        return None;
    }
    let (Tapped::Whole(left), Tapped::Whole(right)) = (old, new) else {
        return Some(Difference { kind: "body".into(), old: shown(old, 0), new: shown(new, 0) });
    };
    let same = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    Some(Difference { kind: "body".into(), old: shown(old, same), new: shown(new, same) })
}

/// A body around the byte where it begins to differ.
fn shown(body: &Tapped, at: usize) -> String {
    /// Bytes before it that help to find the place.
    const BEFORE: usize = 40;
    match body {
        Tapped::Whole(bytes) => {
            let from = at.saturating_sub(BEFORE).min(bytes.len());
            let text = excerpt(&String::from_utf8_lossy(&bytes[from..bytes.len().min(from + 1024)]));
            if from > 0 { format!("…{text}") } else { text }
        }
        Tapped::Part(bytes) => format!("(broke off after {} bytes)", bytes.len()),
        Tapped::TooLarge => format!("(more than {} bytes)", super::tap::MAX_BODY),
    }
}

/// An answer in one line.
pub(crate) fn told(answer: &Answer) -> String {
    format!("{} {}", answer.status.as_u16(), shown(&answer.body, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a test's value"));
        }
        let status = StatusCode::from_u16(status).expect("a test's status");
        Answer { status, headers: map, body: Tapped::Whole(body.to_owned().into()) }
    }

    fn kinds(old: &Answer, new: &Answer) -> Vec<String> {
        differences(old, new).into_iter().map(|difference| difference.kind).collect()
    }

    #[test]
    fn the_same_is_the_same() {
        let one = answer(200, &[("content-type", "text/plain"), ("a", "1"), ("a", "2")], "abc");
        assert_eq!(differences(&one, &one.clone()), []);
    }

    #[test]
    fn volatile_headers_do_not_count() {
        for name in VOLATILE {
            assert_eq!(kinds(&answer(200, &[(name, "1")], ""), &answer(200, &[(name, "2")], "")), [] as [&str; 0]);
            assert_eq!(kinds(&answer(200, &[], ""), &answer(200, &[(name, "2")], "")), [] as [&str; 0]);
        }
        assert!(VOLATILE.is_sorted(), "so that it is easy to read");
    }

    #[test]
    fn each_other_header_counts_once() {
        let old = answer(200, &[("a", "1"), ("b", "1"), ("c", "1"), ("c", "2"), ("e", "1")], "");
        let new = answer(200, &[("a", "2"), ("c", "2"), ("c", "1"), ("d", "1"), ("e", "1")], "");
        assert_eq!(kinds(&old, &new), ["header a", "header b", "header c", "header d"]);
        let c = differences(&old, &new).swap_remove(2);
        assert_eq!((c.old.as_str(), c.new.as_str()), ("1, 2", "2, 1"), "their order matters");
        let d = differences(&old, &new).swap_remove(3);
        assert_eq!((d.old.as_str(), d.new.as_str()), ("(none)", "1"));
    }

    #[test]
    fn a_body_is_shown_where_it_differs() {
        let long = "x".repeat(5000);
        let (old, new) = (answer(200, &[], &format!("{long}one")), answer(200, &[], &format!("{long}two")));
        let [difference] = differences(&old, &new).try_into().expect("one difference");
        assert_eq!(difference.kind, "body");
        assert_eq!(difference.old, format!("…{}one", "x".repeat(40)));
        assert_eq!(difference.new, format!("…{}two", "x".repeat(40)));

        let [shorter] = differences(&answer(200, &[], "abc"), &answer(200, &[], "")).try_into().expect("one");
        assert_eq!((shorter.old.as_str(), shorter.new.as_str()), ("abc", ""));
    }

    #[test]
    fn a_status_is_told_alone() {
        let old = answer(200, &[("a", "1")], "fine");
        let new = answer(500, &[("a", "2")], "broken");
        let [difference] = differences(&old, &new).try_into().expect("one difference");
        assert_eq!(
            difference,
            Difference { kind: "status 200 became 500".into(), old: "200 fine".into(), new: "500 broken".into() }
        );
    }

    #[test]
    fn a_body_that_breaks_off_differs_from_a_whole_one() {
        let old = answer(200, &[], "abc");
        let new = Answer { body: Tapped::Part("abc".into()), ..old.clone() };
        assert_eq!(kinds(&old, &new), ["body"]);
    }
}

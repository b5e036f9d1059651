//! `host status`.

use std::fmt::Write;

use anyhow::Context;
use serde_json::Value;

use super::table::{ago, short, table};
use super::watch::watch;
use super::{Output, StatusArgs};
use crate::control::{Instance, Rotation};
use crate::facts::{ComponentFacts, Facts, Failure, GuestFacts, History};
use crate::swap::ComponentInfo;

/// Most failures that `--watch` shows, so that they leave room for what comes after them.
const WATCHED_FAILURES: usize = 10;

/// Asks the host what is going on and prints it to stdout: as tables, or as the document of `/status`. With `--watch`,
/// again and again.
pub(crate) async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let client = args.host.client()?;
    let unexpected = || format!("reading the answer of the host at {}", client.host());
    if args.watch {
        let show = |event: &str| match args.output {
            // As it came: one line.
            Output::Json => Ok(format!("{event}\n")),
            Output::Text => Ok(text(&for_screen(serde_json::from_str(event).with_context(unexpected)?)) + "\n"),
        };
        return watch(&client, "status/events", show).await;
    }
    let asking = || format!("asking the host at {} (set --internal if it is elsewhere)", client.host());
    let document: Value = client.get("status").await.with_context(asking)?;
    super::print(&match args.output {
        Output::Json => format!("{document:#}\n"),
        Output::Text => text(&serde_json::from_value(document).with_context(unexpected)?),
    })
}

/// The same, with what matters most where a small screen has room for it.
fn for_screen(mut facts: Facts) -> Facts {
    facts.failures.truncate(WATCHED_FAILURES);
    facts.instances.sort_by_key(Instance::is_available);
    facts
}

fn text(facts: &Facts) -> String {
    let mut text = format!("{} of {} instances are available\n", facts.available, facts.total);
    if let Some(reason) = &facts.not_ready {
        write(&mut text, format_args!("not ready: {reason}\n"));
    }
    summary(&mut text, facts);
    text.push('\n');
    components(&mut text, &facts.components);
    if !facts.failures.is_empty() {
        text.push('\n');
        failures(&mut text, &facts.failures);
    }
    text.push('\n');
    instances(&mut text, facts);
    text
}

/// The newest figures, a line for each subject.
fn summary(text: &mut String, facts: &Facts) {
    let History { per_second, errors_per_second, p50_ms, p99_ms, sync_p99_ms, .. } = &facts.history;
    text.push_str("requests: ");
    match (per_second.last(), errors_per_second.last()) {
        (Some(requests), Some(errors)) => write(text, format_args!("{requests}/s, {errors}/s failed")),
        _ => text.push_str("no data yet"),
    }
    write(text, format_args!(", {} in flight", facts.in_flight));
    if let (Some(Some(p50)), Some(Some(p99))) = (p50_ms.last(), p99_ms.last()) {
        write(text, format_args!("; half within {p50} ms, 99 % within {p99} ms"));
    }
    write(text, format_args!("; {} retried since the start\n", facts.retries));
    let sum = |of: fn(&ComponentFacts) -> usize| facts.components.iter().map(of).sum::<usize>();
    let (busy, idle) = (sum(|component| component.guests.busy), sum(|component| component.guests.idle));
    let waiting = sum(|component| component.guests.waiting);
    write(text, format_args!("guests: {busy} busy, {idle} idle; {waiting} requests wait for one\n"));
    match facts.store.keys {
        Some(keys) => write(text, format_args!("store: {keys} keys")),
        None => text.push_str("store: another host's"),
    }
    if let Some(bytes) = facts.store.log_bytes {
        write(text, format_args!(", {} KiB of log", bytes.div_ceil(1024)));
    }
    if let Some(sync) = sync_p99_ms.iter().rev().flatten().next() {
        write(text, format_args!("; 99 % of syncs within {sync} ms"));
    }
    write(text, format_args!("\nhost: version {}, started {}\n", facts.version, ago(facts.uptime_ms)));
}

fn instances(text: &mut String, facts: &Facts) {
    let rows = facts.instances.iter().map(|instance| {
        let mut state = instance.state.clone();
        if instance.rotation == Rotation::Out {
            state += " (out)";
        }
        let (seen, failures) = (ago(instance.last_seen_ms), instance.failures.to_string());
        [instance.namespace.clone(), instance.name.clone(), state, instance.address.clone(), seen, failures]
    });
    table(text, ["NAMESPACE", "INSTANCE", "STATE", "ADDRESS", "LAST SEEN", "FAILURES"], rows);
    if facts.unlisted > 0 {
        write(text, format_args!("and {} more\n", facts.unlisted));
    }
}

fn components(text: &mut String, components: &[ComponentFacts]) {
    let rows = components.iter().map(|facts| {
        let component = &facts.info;
        let route = component.route.clone().unwrap_or_else(|| "-".to_owned());
        let published = format!("{} by {}", ago(component.published_ms_ago), component.published_by);
        let mut source = component.source.clone();
        if component.differs_from_source {
            source += " (another revision runs)";
        }
        [
            component.name.clone(),
            route,
            short(&component.digest).to_owned(),
            state(component),
            guests(&facts.guests),
            published,
            facts.revisions.len().to_string(),
            component.instances.len().to_string(),
            component.namespace.clone(),
            source,
        ]
    });
    let header = [
        "COMPONENT",
        "ROUTE",
        "REVISION",
        "STATE",
        "GUESTS",
        "PUBLISHED",
        "REVISIONS",
        "INSTANCES",
        "NAMESPACE",
        "SOURCE",
    ];
    table(text, header, rows);
}

/// What is still under way after its last swap.
fn state(component: &ComponentInfo) -> String {
    match (component.watching, component.draining) {
        (false, 0) => "settled".to_owned(),
        (true, 0) => "being watched".to_owned(),
        (false, draining) => format!("{draining} draining"),
        (true, draining) => format!("being watched, {draining} draining"),
    }
}

fn guests(guests: &GuestFacts) -> String {
    let mut text = format!("{} busy, {} idle", guests.busy, guests.idle);
    if guests.waiting > 0 {
        write(&mut text, format_args!(", {} waiting", guests.waiting));
    }
    for (reason, count) in &guests.failures {
        write(&mut text, format_args!(", {count} × {reason}"));
    }
    text
}

fn failures(text: &mut String, failures: &[Failure]) {
    let rows = failures.iter().map(|failure| {
        let or_none = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
        let what = failure.instance.as_ref().or(failure.component.as_ref()).cloned();
        let status = failure.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let (request, handler) = (or_none(&failure.request_id), or_none(&failure.handler));
        let times = if failure.times > 1 { format!(" ({} times)", failure.times) } else { String::new() };
        [ago(failure.ms_ago), or_none(&what), handler, status, request, failure.reason.clone() + &times]
    });
    table(text, ["FAILED", "WHAT", "HANDLER", "STATUS", "REQUEST", "REASON"], rows);
}

fn write(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("writing to a string never fails");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts() -> Value {
        let instances = json!([
            {"namespace": "storage", "name": "a", "state": "available", "address": "in-process", "last_seen_ms": 120},
            {"namespace": "s", "name": "long-name", "state": "unavailable", "address": "http://x:1",
             "last_seen_ms": 61000, "rotation": "out", "failures": 3},
        ]);
        let guests = json!({"busy": 1, "idle": 2, "waiting": 3, "failures": {"trap": 1}});
        let none = json!({"busy": 0, "idle": 0, "waiting": 0, "failures": {}});
        let components = json!([
            {"name": "echo", "namespace": "echo", "route": null, "instances": ["e"], "digest": "0123456789abcdef",
             "published_ms_ago": 7_200_000, "published_by": "swap", "source": "/srv/echo.wasm", "source_digest": null,
             "differs_from_source": true, "draining": 2, "watching": true, "guests": guests, "revisions": []},
            {"name": "gateway", "namespace": "gateway", "route": "/", "instances": [], "digest": "",
             "published_ms_ago": 10, "published_by": "start", "source": "builtin:gateway", "source_digest": "",
             "differs_from_source": false, "draining": 0, "watching": false, "guests": none, "revisions": []},
        ]);
        json!({
            "version": "0.1.0", "uptime_ms": 125_000, "not_ready": null, "available": 1, "total": 2, "in_flight": 4,
            "retries": 5,
            "instances": instances, "components": components, "failures": [],
            "history": {"interval_ms": 5000, "per_second": [1.0, 12.5], "errors_per_second": [0.0, 0.2],
                        "p50_ms": [null, 0.61], "p99_ms": [null, 2.1], "sync_p99_ms": [1.2, null]},
            "store": {"keys": 3, "log_bytes": 2048},
        })
    }

    #[test]
    fn tables_are_aligned() {
        let text = text(&serde_json::from_value(facts()).expect("facts"));
        let expected = "\
1 of 2 instances are available
requests: 12.5/s, 0.2/s failed, 4 in flight; half within 0.61 ms, 99 % within 2.1 ms; 5 retried since the start
guests: 1 busy, 2 idle; 3 requests wait for one
store: 3 keys, 2 KiB of log; 99 % of syncs within 1.2 ms
host: version 0.1.0, started 2 min ago

COMPONENT  ROUTE  REVISION      STATE                      GUESTS                               PUBLISHED           REVISIONS  INSTANCES  NAMESPACE  SOURCE
echo       -      0123456789ab  being watched, 2 draining  1 busy, 2 idle, 3 waiting, 1 × trap  2 h ago by swap     0          1          echo       /srv/echo.wasm (another revision runs)
gateway    /                    settled                    0 busy, 0 idle                       10 ms ago by start  0          0          gateway    builtin:gateway

NAMESPACE  INSTANCE   STATE              ADDRESS     LAST SEEN   FAILURES
storage    a          available          in-process  120 ms ago  0
s          long-name  unavailable (out)  http://x:1  61 s ago    3
";
        assert_eq!(text, expected);
    }

    #[test]
    fn keys_that_nobody_counted_are_not_told() {
        let mut facts = facts();
        facts["store"] = json!({"keys": null, "log_bytes": null});
        facts["history"]["sync_p99_ms"] = json!([null, null]);
        let text = text(&serde_json::from_value(facts).expect("facts"));
        assert!(text.contains("\nstore: another host's\nhost: "), "{text}");
    }

    #[test]
    fn what_failed_is_told_when_something_did() {
        let mut facts = facts();
        facts["unlisted"] = 7.into();
        facts["not_ready"] = "draining".into();
        facts["failures"] = json!([
            {"ms_ago": 8000, "kind": "request", "reason": "component_failed", "request_id": "ab", "component": "echo",
             "handler": "echo", "status": 502, "times": 3},
            {"ms_ago": 9000, "kind": "instance", "instance": "s/long-name", "reason": "unavailable"},
        ]);
        facts["history"] = json!({"interval_ms": 5000, "per_second": [], "errors_per_second": [], "p50_ms": [],
                                  "p99_ms": [], "sync_p99_ms": []});
        let text = text(&serde_json::from_value(facts).expect("facts"));
        let begin =
            "1 of 2 instances are available\nnot ready: draining\nrequests: no data yet, 4 in flight; 5 retried";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.ends_with("\nand 7 more\n"), "{text}");
        let expected = "
FAILED   WHAT         HANDLER  STATUS  REQUEST  REASON
8 s ago  echo         echo     502     ab       component_failed (3 times)
9 s ago  s/long-name  -        -       -        unavailable

";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_screen_has_what_is_wrong_first() {
        let mut facts = facts();
        let failure = |number| json!({"ms_ago": number, "kind": "swap", "reason": "refused"});
        facts["failures"] = (0..50).map(failure).collect();
        let shown = for_screen(serde_json::from_value(facts).expect("facts"));
        let instances: Vec<_> = shown.instances.iter().map(|instance| &*instance.name).collect();
        assert_eq!(instances, ["long-name", "a"]);
        let failures: Vec<_> = shown.failures.iter().map(|failure| failure.ms_ago).collect();
        assert_eq!(failures, (0..10).collect::<Vec<_>>(), "the newest");
    }
}

//! `host status`.

use anyhow::Context;
use serde_json::{Value, json};

use super::table::{ago, short, table};
use super::{Output, StatusArgs};
use crate::control::{Instances, Listed};

/// Asks the host and prints its instances and components to stdout: as tables, or as
/// `{"available","total","instances":[…],"components":[…]}`.
pub(crate) async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let client = args.host.client()?;
    let asking = || format!("asking the host at {} (set --internal if it is elsewhere)", client.host());
    let instances: Value = client.get("instances").await.with_context(asking)?;
    let components: Value = client.get("components").await.with_context(asking)?;
    let text = match args.output {
        Output::Json => {
            let mut document = instances;
            document["components"] = components.get("components").cloned().unwrap_or_else(|| json!([]));
            format!("{document:#}\n")
        }
        Output::Text => {
            let unexpected = || format!("reading the answer of the host at {}", client.host());
            let instances: Instances = serde_json::from_value(instances).with_context(unexpected)?;
            let components: Listed = serde_json::from_value(components).with_context(unexpected)?;
            tables(&instances, &components)
        }
    };
    super::print(&text)
}

fn tables(instances: &Instances, components: &Listed) -> String {
    let mut text = format!("{} of {} instances are available\n\n", instances.available, instances.total);
    let rows = instances.instances.iter().map(|instance| {
        let seen = ago(instance.last_seen_ms);
        [instance.namespace.clone(), instance.name.clone(), instance.state.clone(), instance.address.clone(), seen]
    });
    table(&mut text, ["NAMESPACE", "INSTANCE", "STATE", "ADDRESS", "LAST SEEN"], rows);
    text.push('\n');
    let rows = components.components.iter().map(|component| {
        let route = component.route.clone().unwrap_or_else(|| "-".to_owned());
        let count = component.instances.len().to_string();
        let published = format!("{} by {}", ago(component.published_ms_ago), component.published_by);
        let mut source = component.source.clone();
        if component.differs_from_source {
            source += " (another revision runs)";
        }
        let (name, namespace) = (component.name.clone(), component.namespace.clone());
        [name, namespace, route, count, short(&component.digest).to_owned(), published, source]
    });
    let header = ["COMPONENT", "NAMESPACE", "ROUTE", "INSTANCES", "REVISION", "PUBLISHED", "SOURCE"];
    table(&mut text, header, rows);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let instances = json!({"available": 1, "total": 2, "instances": [
            {"namespace": "storage", "name": "a", "state": "available", "address": "in-process", "last_seen_ms": 120},
            {"namespace": "s", "name": "long-name", "state": "unavailable", "address": "http://x:1", "last_seen_ms": 61000},
        ]});
        let components = json!({"components": [
            {"name": "echo", "namespace": "echo", "route": null, "instances": ["e"], "digest": "0123456789abcdef",
             "published_ms_ago": 7_200_000, "published_by": "swap", "source": "/srv/echo.wasm", "source_digest": null,
             "differs_from_source": true, "draining": 0, "watching": false},
            {"name": "gateway", "namespace": "gateway", "route": "/", "instances": [], "digest": "",
             "published_ms_ago": 10, "published_by": "start", "source": "builtin:gateway", "source_digest": "",
             "differs_from_source": false, "draining": 0, "watching": false},
        ]});
        let text = tables(
            &serde_json::from_value(instances).expect("instances"),
            &serde_json::from_value(components).expect("components"),
        );
        let expected = "\
1 of 2 instances are available

NAMESPACE  INSTANCE   STATE        ADDRESS     LAST SEEN
storage    a          available    in-process  120 ms ago
s          long-name  unavailable  http://x:1  61 s ago

COMPONENT  NAMESPACE  ROUTE  INSTANCES  REVISION      PUBLISHED           SOURCE
echo       echo       -      1          0123456789ab  2 h ago by swap     /srv/echo.wasm (another revision runs)
gateway    gateway    /      0                        10 ms ago by start  builtin:gateway
";
        assert_eq!(text, expected);
    }
}

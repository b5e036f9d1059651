//! `host status`.

use std::fmt::Write;

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Output, StatusArgs};
use crate::control::Instances;

/// What matters of `GET /components`.
#[derive(Deserialize)]
struct Components {
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    name: String,
    namespace: String,
    route: Option<String>,
    instances: Vec<String>,
    digest: String,
}

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
            let components: Components = serde_json::from_value(components).with_context(unexpected)?;
            tables(&instances, &components)
        }
    };
    super::print(&text)
}

fn tables(instances: &Instances, components: &Components) -> String {
    let mut text = format!("{} of {} instances are available\n\n", instances.available, instances.total);
    let rows = instances.instances.iter().map(|instance| {
        let seen = format!("{:.1} s ago", instance.last_seen_ms as f64 / 1000.0);
        [instance.namespace.clone(), instance.name.clone(), instance.state.clone(), instance.address.clone(), seen]
    });
    table(&mut text, ["NAMESPACE", "INSTANCE", "STATE", "ADDRESS", "LAST SEEN"], rows);
    text.push('\n');
    let rows = components.components.iter().map(|component| {
        let route = component.route.clone().unwrap_or_else(|| "-".to_owned());
        let digest = component.digest.chars().take(12).collect();
        let count = component.instances.len().to_string();
        [component.name.clone(), component.namespace.clone(), route, count, digest]
    });
    table(&mut text, ["COMPONENT", "NAMESPACE", "ROUTE", "INSTANCES", "REVISION"], rows);
    text
}

/// Left-aligned columns, two spaces apart.
fn table<const COLUMNS: usize>(
    text: &mut String,
    header: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) {
    let rows: Vec<[String; COLUMNS]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            write!(line, "{cell:width$}  ").expect("writing to a string never fails");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
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
            {"name": "echo", "namespace": "echo", "route": null, "instances": ["e"], "digest": "0123456789abcdef"},
        ]});
        let text = tables(
            &serde_json::from_value(instances).expect("instances"),
            &serde_json::from_value(components).expect("components"),
        );
        let expected = "\
1 of 2 instances are available

NAMESPACE  INSTANCE   STATE        ADDRESS     LAST SEEN
storage    a          available    in-process  0.1 s ago
s          long-name  unavailable  http://x:1  61.0 s ago

COMPONENT  NAMESPACE  ROUTE  INSTANCES  REVISION
echo       echo       -      1          0123456789ab
";
        assert_eq!(text, expected);
    }
}

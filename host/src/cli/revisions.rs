//! `host revisions`.

use anyhow::Context;
use serde_json::Value;

use super::swap::failed;
use super::table::{ago, short, table};
use super::{Output, RevisionsArgs};
use crate::control::Revisions;

/// Prints the revisions of a component to stdout: as a table, or as the host's document.
///
/// # Errors
/// The host refused, or can't be reached.
pub(crate) async fn revisions(args: &RevisionsArgs) -> anyhow::Result<()> {
    let client = args.component.host.client()?;
    let document: Value =
        client.get(&args.component.path("/revisions")).await.map_err(|error| failed(&client, error))?;
    let text = match args.output {
        Output::Json => format!("{document:#}\n"),
        Output::Text => {
            let unexpected = || format!("reading the answer of the host at {}", client.host());
            rows(&serde_json::from_value(document).with_context(unexpected)?)
        }
    };
    super::print(&text)
}

fn rows(revisions: &Revisions) -> String {
    let mut text = String::new();
    let rows = revisions.revisions.iter().map(|revision| {
        let digest = short(&revision.digest).to_owned();
        let published = format!("{} by {}", ago(revision.published_ms_ago), revision.published_by);
        let size = format!("{} KiB", revision.size.div_ceil(1024));
        let outcome = revision.outcome.clone().unwrap_or_default();
        [digest, revision.configuration.clone(), revision.state.to_string(), size, published, outcome]
    });
    table(&mut text, ["REVISION", "CONFIGURATION", "STATE", "SIZE", "PUBLISHED", "OUTCOME"], rows);
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_line_each() {
        let document = json!({"name": "storage", "revisions": [
            {"digest": "0123456789abcdef", "configuration": "00c0ffee", "state": "active", "size": 204_801,
             "published_by": "automatic-rollback", "published_ms_ago": 8000, "outcome": null},
            {"digest": "fedcba9876543210", "configuration": "00c0ffee", "state": "draining", "size": 1,
             "published_by": "swap", "published_ms_ago": 10_000, "outcome": "rolled back: 3 of 3 requests failed"},
        ]});
        let text = rows(&serde_json::from_value(document).expect("revisions"));
        let expected = "\
REVISION      CONFIGURATION  STATE     SIZE     PUBLISHED                      OUTCOME
0123456789ab  00c0ffee       active    201 KiB  8 s ago by automatic-rollback
fedcba987654  00c0ffee       draining  1 KiB    10 s ago by swap               rolled back: 3 of 3 requests failed
";
        assert_eq!(text, expected);
    }
}

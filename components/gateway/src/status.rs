//! The body of `/status`.

use serde::Serialize;

/// One instance, as `/status` shows it.
#[derive(Debug, Serialize)]
pub struct Instance {
    /// The namespace it serves.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it is picked for requests.
    pub state: State,
    /// `in-process`, or its URL.
    pub address: String,
    /// Milliseconds since it last gave a sign of life.
    pub last_seen_ms: u64,
}

/// Whether an instance is picked for requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is.
    Available,
    /// It is not.
    Unavailable,
}

/// The JSON document: how many are available, how many there are, and each of them.
#[must_use]
pub fn document(instances: &[Instance]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Status<'a> {
        available: usize,
        total: usize,
        instances: &'a [Instance],
    }
    let available = instances.iter().filter(|instance| instance.state == State::Available).count();
    let status = Status { available, total: instances.len(), instances };
    serde_json::to_vec(&status).expect("structs of strings and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(instances: &[Instance]) -> String {
        String::from_utf8(document(instances)).expect("JSON is UTF-8")
    }

    #[test]
    fn counts_and_lists() {
        let instance = |name: &str, state| Instance {
            namespace: "storage".to_owned(),
            name: name.to_owned(),
            state,
            address: "in-process".to_owned(),
            last_seen_ms: 7,
        };
        assert_eq!(text(&[]), r#"{"available":0,"total":0,"instances":[]}"#);
        assert_eq!(
            text(&[instance("a", State::Available), instance("b", State::Unavailable)]),
            concat!(
                r#"{"available":1,"total":2,"instances":["#,
                r#"{"namespace":"storage","name":"a","state":"available","address":"in-process","last_seen_ms":7},"#,
                r#"{"namespace":"storage","name":"b","state":"unavailable","address":"in-process","last_seen_ms":7}]}"#
            )
        );
    }
}

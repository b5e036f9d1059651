//! `host log`: a data directory that no host uses.

use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use store::DurableStore;
use store::durable::{self, Change, Config, OpenError, Recovery};

use super::{Exit, LogCommand, exit, print};
use crate::data;

/// Examines or compacts a data directory.
///
/// # Errors
/// With the exit code that `host run` would have.
pub(crate) fn log(command: &LogCommand) -> anyhow::Result<()> {
    match command {
        LogCommand::Verify(at) => verify(&at.directory),
        LogCommand::Dump(at) => dump(&at.directory),
        LogCommand::Compact(at) => compact(&at.directory),
    }
}

fn verify(directory: &Path) -> anyhow::Result<()> {
    let folder = data::store_folder(directory)?;
    let recovery = durable::verify(&folder).map_err(|error| data::refusal(directory, &folder, error))?;
    print(&summary(&folder, &recovery))
}

fn summary(folder: &Path, recovery: &Recovery) -> String {
    let Recovery { keys, records, segments, last_sequence, bytes, torn, lost, foreign, .. } = recovery;
    let mut text = format!(
        "{} is whole: {keys} keys in the snapshot, {records} records in {segments} segments, {bytes} bytes; \
         the last record is {last_sequence}\n",
        folder.display()
    );
    if let Some(torn) = torn {
        text +=
            &format!("note: {} ends in a torn write of {} bytes at offset {}; ", torn.file, torn.bytes, torn.offset);
        text += "host run will cut it off and keep it aside\n";
    }
    if *lost > 0 {
        text += &format!("note: {lost} records that were acknowledged are missing at the end: the log was cut\n");
    }
    for file in foreign {
        text += &format!("note: {file} is not the store's\n");
    }
    text
}

/// A change as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    operation: &'static str,
    bucket: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'a> Line<'a> {
    fn of(change: Change<'a>) -> Self {
        let Change { sequence, bucket, key, value } = change;
        let operation = if value.is_some() { "set" } else { "delete" };
        let (value, value_base64) = match value.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
            None => (None, None),
            Some(Ok(text)) => (Some(text), None),
            Some(Err(bytes)) => (None, Some(BASE64_STANDARD.encode(bytes))),
        };
        Self { sequence, operation, bucket, key, value, value_base64 }
    }
}

fn dump(directory: &Path) -> anyhow::Result<()> {
    let folder = data::store_folder(directory)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    let dumped = durable::dump(&folder, |change| {
        written = write_line(&mut out, &Line::of(change));
        // What was returned here would come back as the log's fault.
        written.as_ref().map_err(|_| "stdout".into()).copied()
    });
    match written.and_then(|()| out.flush()) {
        Ok(()) => dumped.map(drop).map_err(|error| data::refusal(directory, &folder, error).into()),
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error).context("writing to stdout"),
    }
}

fn write_line(mut out: impl Write, line: &Line<'_>) -> std::io::Result<()> {
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")
}

fn compact(directory: &Path) -> anyhow::Result<()> {
    let folder = data::store_folder(directory)?;
    let opened = DurableStore::open(&folder, Config::default());
    let (store, _) = opened.map_err(|error| match error {
        OpenError::Io { .. } => unwritable(&folder, &error),
        error => data::refusal(directory, &folder, error),
    })?;
    let compacted = store.compact().map_err(|error| unwritable(&folder, &error))?;
    store.close().map_err(|error| unwritable(&folder, &error))?;
    let shown = folder.display();
    print(&format!(
        "{shown}: {} keys, {} bytes before, {} bytes after\n",
        compacted.keys, compacted.before, compacted.after
    ))
}

fn unwritable(folder: &Path, error: &dyn std::fmt::Display) -> Exit {
    Exit::new(exit::STORE, format!("{} can't be compacted: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_text_or_base64() {
        let line = |value| {
            let change = Change { sequence: 7, bucket: "default", key: "k\"", value };
            serde_json::to_string(&Line::of(change)).expect("a line is JSON")
        };
        let head = r#"{"sequence":7,"operation":"set","bucket":"default","key":"k\"","#;
        assert_eq!(line(Some(b"a\nb")), format!("{head}\"value\":\"a\\nb\"}}"));
        assert_eq!(line(Some(b"\xff\0")), format!("{head}\"value_base64\":\"/wA=\"}}"));
        assert_eq!(line(None), r#"{"sequence":7,"operation":"delete","bucket":"default","key":"k\""}"#);
    }
}

//! `host kv`.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, bail};
use store::{Bucket, Limits, Store, Value};

use super::{KvArgs, KvCommand, Output, StoreArgs};

/// Does one operation on the host's store.
///
/// # Errors
/// The key doesn't exist, or the store refused or can't be reached.
pub(crate) async fn kv(args: &KvArgs) -> anyhow::Result<()> {
    match &args.command {
        KvCommand::Get { key, store } => get(key, store).await,
        KvCommand::Set { key, value, store } => set(key, value.as_deref(), store).await,
        KvCommand::Delete { key, store } => delete(key, store).await,
        KvCommand::List { output, store } => list(*output, store).await,
    }
}

async fn get(key: &str, args: &StoreArgs) -> anyhow::Result<()> {
    let value = args.open()?.get(&args.bucket, key).await.with_context(|| asking(args))?;
    let Some(value) = value else { bail!(absent(&args.bucket, key)) };
    write(&value).map(drop)
}

async fn set(key: &str, value: Option<&OsStr>, args: &StoreArgs) -> anyhow::Result<()> {
    let value = match value {
        Some(value) if value != "-" => Value::copy_from_slice(value.as_bytes()),
        _ => stdin()?,
    };
    args.open()?.set(&args.bucket, key, value).await.with_context(|| asking(args))
}

async fn delete(key: &str, args: &StoreArgs) -> anyhow::Result<()> {
    if args.open()?.delete(&args.bucket, key).await.with_context(|| asking(args))? {
        return Ok(());
    }
    bail!(absent(&args.bucket, key))
}

/// Prints page by page: there may be more keys than memory.
async fn list(output: Output, args: &StoreArgs) -> anyhow::Result<()> {
    let store = args.open()?;
    let mut text = if output == Output::Json { "{\"keys\":[".to_owned() } else { String::new() };
    let mut after: Option<String> = None;
    loop {
        let limit = Limits::default().batch;
        let page = store.list(&args.bucket, after.as_deref(), limit).await.with_context(|| asking(args))?;
        for (index, key) in page.keys.iter().enumerate() {
            match output {
                Output::Json if index == 0 && after.is_none() => text.push_str(&serde_json::to_string(key)?),
                Output::Json => text.extend([",", &serde_json::to_string(key)?]),
                Output::Text => text.extend([key, "\n"]),
            }
        }
        after = page.next;
        if after.is_none() && output == Output::Json {
            text.push_str("]}\n");
        }
        if !write(text.as_bytes())? || after.is_none() {
            return Ok(());
        }
        text.clear();
    }
}

fn asking(args: &StoreArgs) -> String {
    format!("asking the host at {} (set --internal if it is elsewhere)", args.host.internal)
}

fn absent(bucket: &Bucket, key: &str) -> String {
    format!("the bucket \"{bucket}\" has no key {key:?}")
}

/// A value from stdin; not read further than a value can be long.
fn stdin() -> anyhow::Result<Value> {
    let mut value = Vec::new();
    let longest = Limits::default().value as u64;
    std::io::stdin().lock().take(longest + 1).read_to_end(&mut value).context("reading the value from stdin")?;
    if value.len() as u64 > longest {
        bail!("the value on stdin has more than {longest} bytes");
    }
    Ok(value.into())
}

/// Writes to stdout. False if nobody reads it any more.
fn write(bytes: &[u8]) -> anyhow::Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("writing to stdout"),
    }
}

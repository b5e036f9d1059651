//! `host swap`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use reqwest::StatusCode;

use super::SwapArgs;
use super::table::short;
use crate::client::{CallError, Client};
use crate::control::{LARGEST_COMPONENT, Revisions};
use crate::swap::{RevisionInfo, RevisionState, Swapped};

/// How often a revision is looked at that has to prove itself.
const LOOK: Duration = Duration::from_millis(200);

/// Swaps a component.
///
/// # Errors
/// The file can't be read, the host refused or can't be reached, or it took the revision back.
pub(crate) async fn swap(args: &SwapArgs) -> anyhow::Result<()> {
    let bytes = read(&args.file)?;
    let client = args.component.host.client()?;
    let rehearse = args.rehearse.map(|requests| format!("rehearse={requests}"));
    let promote = args.promote.as_ref().map(|promote| format!("promote={promote}"));
    let options: Vec<String> = rehearse.into_iter().chain(promote).collect();
    let path = args.component.path(&format!("?{}", options.join("&")));
    let swapped: Swapped = client.swap(&path, bytes).await.map_err(|error| failed(&client, error))?;
    super::print(&told(&swapped))?;
    if !args.watch {
        return Ok(());
    }
    loop {
        let path = args.component.path("/revisions");
        let now: Revisions = client.get(&path).await.map_err(|error| failed(&client, error))?;
        match proved(&swapped, &now.revisions)? {
            true => return super::print(&format!("{}: {} stays\n", swapped.name, short(&swapped.digest))),
            false => tokio::time::sleep(LOOK).await,
        }
    }
}

/// A component; not read further than a component may be long.
fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(LARGEST_COMPONENT as u64 + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("{} can't be read", file.display()))?;
    if bytes.len() > LARGEST_COMPONENT {
        bail!("{} has more than {LARGEST_COMPONENT} bytes; a host takes no larger component", file.display());
    }
    Ok(bytes)
}

/// Whether the revision is past the time in which it could have been taken back. The error says that it was, and why.
fn proved(swapped: &Swapped, revisions: &[RevisionInfo]) -> anyhow::Result<bool> {
    let (name, digest) = (&swapped.name, short(&swapped.digest));
    let ours = revisions.iter().find(|revision| revision.digest == swapped.digest);
    match ours {
        Some(ours) if ours.state == RevisionState::Active => {
            Ok(!revisions.iter().any(|revision| revision.state == RevisionState::Warm))
        }
        Some(RevisionInfo { outcome: Some(outcome), .. }) => Err(anyhow!("{name}: {digest} was {outcome}")),
        _ => Err(anyhow!("{name}: {digest} was replaced before it had proved itself")),
    }
}

/// What was done: a line, and the report of the rehearsal if there was one.
pub(super) fn told(swapped: &Swapped) -> String {
    let Swapped { name, digest, previous, changed, took_ms, rehearsal } = swapped;
    let digest = short(digest);
    if !changed {
        return format!("{name}: {digest} is active, as it was before\n");
    }
    let before = previous.as_deref().map(|previous| format!(" (was {})", short(previous))).unwrap_or_default();
    let report = rehearsal.as_ref().map(|report| format!("{report}\n")).unwrap_or_default();
    format!("{name}: {digest} is active{before}, published after {took_ms} ms\n{report}")
}

/// What the host says if it refuses, else how it could be reached.
pub(super) fn failed(client: &Client, error: CallError) -> anyhow::Error {
    match error {
        CallError::Refused { status, detail, .. } if !detail.is_empty() && status != StatusCode::UNAUTHORIZED => {
            anyhow!(detail)
        }
        error => anyhow::Error::from(error)
            .context(format!("asking the host at {} (set --internal if it is elsewhere)", client.host())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swap::PublishedBy;

    fn swapped() -> Swapped {
        Swapped {
            name: "storage".to_owned(),
            digest: "0123456789abcdef".to_owned(),
            previous: Some("fedcba9876543210".to_owned()),
            changed: true,
            took_ms: 84,
            rehearsal: None,
        }
    }

    fn revision(digest: &str, state: RevisionState, outcome: Option<&str>) -> RevisionInfo {
        RevisionInfo {
            digest: digest.to_owned(),
            configuration: "00c0ffee".to_owned(),
            state,
            size: 1,
            published_by: PublishedBy::Swap,
            published_ms_ago: 1,
            outcome: outcome.map(str::to_owned),
        }
    }

    #[test]
    fn a_swap_is_told_in_a_line() {
        let told = |swapped| told(&swapped).trim_end().to_owned();
        let done = "storage: 0123456789ab is active (was fedcba987654), published after 84 ms";
        assert_eq!(told(swapped()), done);
        let first = Swapped { previous: None, ..swapped() };
        assert_eq!(told(first), "storage: 0123456789ab is active, published after 84 ms");
        let same = Swapped { changed: false, ..swapped() };
        assert_eq!(told(same), "storage: 0123456789ab is active, as it was before");
    }

    #[test]
    fn a_revision_has_proved_itself_when_none_is_warm_any_more() {
        use RevisionState::{Active, Draining, Kept, Warm};
        let (ours, before) = (swapped().digest, swapped().previous.expect("it has one"));
        let proved = |revisions: &[RevisionInfo]| proved(&swapped(), revisions).map_err(|error| error.to_string());
        assert_eq!(proved(&[revision(&ours, Active, None), revision(&before, Warm, None)]), Ok(false));
        assert_eq!(proved(&[revision(&ours, Active, None), revision(&before, Draining, None)]), Ok(true));
        assert_eq!(proved(&[revision(&ours, Active, None)]), Ok(true));
        let back = [revision(&before, Active, None), revision(&ours, Draining, Some("rolled back: 3 of 3 failed"))];
        assert_eq!(proved(&back), Err("storage: 0123456789ab was rolled back: 3 of 3 failed".to_owned()));
        let replaced = Err("storage: 0123456789ab was replaced before it had proved itself".to_owned());
        assert_eq!(proved(&[revision("77", Active, None), revision(&ours, Kept, None)]), replaced);
        assert_eq!(proved(&[revision("77", Active, None)]), replaced);
    }

    #[test]
    fn a_file_that_can_not_be_read_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for path in [folder.path().to_owned(), folder.path().join("nowhere.wasm")] {
            let error = format!("{:#}", read(&path).expect_err("there is no file"));
            assert!(error.starts_with(&format!("{} can't be read: ", path.display())), "{error}");
        }
        let file = folder.path().join("large.wasm");
        File::create(&file).and_then(|file| file.set_len(LARGEST_COMPONENT as u64 + 1)).expect("a writable folder");
        assert!(read(&file).expect_err("it is too large").to_string().contains("more than 67108864 bytes"));
        File::create(&file).expect("a writable folder");
        assert!(read(&file).expect("an empty file is for the host to refuse").is_empty());
    }
}

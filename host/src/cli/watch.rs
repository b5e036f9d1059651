//! `host status --watch`: follows the host's stream of events until it is told to stop.
//!
//! On a terminal each event takes the place of the one before; elsewhere they follow each other. A host that was reached
//! once may go away: it is asked again until it is back.

use std::io::{ErrorKind, IsTerminal, StdoutLock, Write};
use std::time::Duration;

use anyhow::Context;
use terminal_size::{Height, Width, terminal_size};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::{CallError, Client};

/// Between two attempts to reach the host.
const AGAIN: Duration = Duration::from_secs(1);

/// Shows each event of `path` as `show` writes it, until the process is asked to end or nobody reads.
///
/// # Errors
/// The host can't be reached at the start, or refuses.
pub(super) async fn watch(
    client: &Client,
    path: &str,
    show: impl Fn(&str) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        followed = follow(client, path, show) => followed,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

async fn follow(client: &Client, path: &str, show: impl Fn(&str) -> anyhow::Result<String>) -> anyhow::Result<()> {
    let asking = || format!("asking the host at {} (set --internal if it is elsewhere)", client.host());
    let mut events = client.events(path).await.with_context(asking)?;
    let mut screen = Screen::open();
    loop {
        let away = match events.next().await {
            Ok(event) => {
                if !screen.show(&show(&event)?)? {
                    return Ok(());
                }
                continue;
            }
            Err(error) => error,
        };
        if !screen.note(&format!("the host at {} is away: {away}", client.host()))? {
            return Ok(());
        }
        events = loop {
            tokio::time::sleep(AGAIN).await;
            match client.events(path).await {
                Ok(events) => break events,
                // The host that is back may want another token. One that has no room for a stream may have it later.
                Err(error @ CallError::Refused { status, .. }) if status.is_client_error() => {
                    return Err(error).with_context(asking);
                }
                Err(_) => {}
            }
        };
    }
}

/// Where it is shown. A terminal has its former contents back when this is dropped.
struct Screen {
    is_terminal: bool,
}

/// Another screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

impl Screen {
    fn open() -> Self {
        let mut stdout = std::io::stdout().lock();
        let is_terminal = stdout.is_terminal();
        if is_terminal {
            // What can't be written now can't be written later, where it is noticed.
            let _ = stdout.write_all(ENTER.as_bytes());
        }
        Self { is_terminal }
    }

    /// Shows a text in the place of the one before. False if nobody reads any more.
    fn show(&mut self, text: &str) -> anyhow::Result<bool> {
        if !self.is_terminal {
            return written(|stdout| stdout.write_all(text.as_bytes()));
        }
        let (width, height) = terminal_size().map_or((80, 24), |(Width(width), Height(height))| (width, height));
        written(|stdout| stdout.write_all(fitted(text, width.into(), height.into()).as_bytes()))
    }

    /// Says something that is no event: below it on a terminal, else on stderr.
    fn note(&mut self, text: &str) -> anyhow::Result<bool> {
        if !self.is_terminal {
            eprintln!("{text}");
            return Ok(true);
        }
        // The last line, which events leave free.
        written(|stdout| write!(stdout, "\x1b[999;1H\x1b[K{text}"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = written(|stdout| stdout.write_all(LEAVE.as_bytes()));
        }
    }
}

fn written(write: impl FnOnce(&mut StdoutLock<'_>) -> std::io::Result<()>) -> anyhow::Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("writing to stdout"),
    }
}

/// As much of a text as a terminal has room for, less its last line, from its upper left corner on. What was there before
/// is overwritten line by line, so that nothing flickers.
fn fitted(text: &str, width: usize, height: usize) -> String {
    let mut fitted = String::from("\x1b[H");
    for line in text.lines().take(height.saturating_sub(1)) {
        fitted.extend(line.chars().take(width));
        fitted.push_str("\x1b[K\r\n");
    }
    fitted.push_str("\x1b[J");
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_fits_the_terminal() {
        let text = "ein längerer Satz\nb\nc\nd\n";
        assert_eq!(fitted(text, 6, 4), "\x1b[Hein lä\x1b[K\r\nb\x1b[K\r\nc\x1b[K\r\n\x1b[J");
        assert_eq!(fitted(text, 6, 0), "\x1b[H\x1b[J");
    }
}

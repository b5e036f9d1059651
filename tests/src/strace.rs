//! Processes whose system calls fail, are slow, or are the last thing they do: by `strace`.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

/// What a process is started by so that `strace` does this to its calls; see [`Builder::under`](crate::Builder::under).
/// None where there is no strace, or it may not trace.
pub fn around(arguments: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    // `-D`: strace is not the process's parent but its grandchild, and ends with it.
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null"].map(str::to_owned);
    tried.ok().filter(ExitStatus::success).map(|_| strace.into_iter().chain(arguments).collect())
}

/// Kills a process, unless it is dropped before.
pub struct Executioner {
    strace: Child,
    /// Held, so that strace can go on writing to it.
    _stderr: BufReader<ChildStderr>,
}

impl Executioner {
    /// Kills the process when one of its threads is about to make its `nth` system call of this name on one of these paths.
    /// A name can have alternatives, separated by commas, and a `?` before those that not every machine has. None where
    /// there is no strace, or it may not be attached to others.
    pub fn at(pid: u32, call: &str, nth: u32, paths: impl IntoIterator<Item = PathBuf>) -> Option<Self> {
        let only = paths.into_iter().flat_map(|path| [OsString::from("-P"), path.into()]);
        let mut strace = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:signal=KILL:when={nth}")])
            .args(only)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut stderr = BufReader::new(strace.stderr.take().expect("it is piped"));
        let mut line = String::new();
        let _ = stderr.read_line(&mut line);
        let executioner = Self { strace, _stderr: stderr };
        line.contains("attached").then_some(executioner)
    }
}

/// The process goes on, if it still does.
impl Drop for Executioner {
    fn drop(&mut self) {
        // What it is attached to is let go of by the kernel. Asked to end, it would wait for processes that it has killed.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

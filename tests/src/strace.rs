//! A process that is killed at one of its own system calls: `strace` watches it from when it is attached.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

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

//! A disk that is as small as a test wants it: a tmpfs in a mount namespace of its own, which a process holds open.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::host::{Builder, share_compiled};

/// A small disk. Gone, with everything on it, when it is dropped.
pub struct Disk {
    /// Ends when its stdin is closed, and is waited for.
    holder: Child,
    directory: TempDir,
}

impl Disk {
    /// One of this size. None where `unshare` doesn't let us mount.
    pub fn of_size(bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mount = format!("mount -t tmpfs -o size={bytes} tmpfs \"$1\" && echo mounted && read -r _");
        let mut holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", &mount, "sh"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let _ = BufReader::new(holder.stdout.take().expect("it is piped")).read_line(&mut line);
        let disk = Self { holder, directory };
        (line == "mounted\n").then_some(disk)
    }

    /// The disk's root as this process reaches it.
    pub fn root(&self) -> PathBuf {
        let seen = self.directory.path().strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(seen)
    }

    /// Starts a host with its data on this disk.
    #[must_use]
    pub fn keeps_data_of(&self, host: Builder) -> Builder {
        share_compiled(&self.root());
        let holder = self.holder.id().to_string();
        let directory = host.directory().to_owned();
        let enter = ["nsenter", "--user", "--preserve-credentials", "--mount", "--target", &holder, "env", "--chdir"];
        let host = host.under(enter).under([directory]);
        host.own_data().flag("--data-dir").flag(self.directory.path())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

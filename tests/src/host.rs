//! A host under test: the real binary, started, asked, told to stop.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Client, Log, Metrics, Reply, Usage, Wire, artifact, eventually, revision};

/// A running host. Reads like a [`Client`] of its public address. Killed when it is dropped.
pub struct Host {
    child: Child,
    public: Client,
    internal: Client,
    log: Log,
    directory: TempDir,
    stdout: BufReader<ChildStdout>,
}

/// A host that is not started yet.
pub struct Builder {
    command: Command,
    directory: TempDir,
    own_addresses: bool,
    own_data: bool,
    under: Vec<OsString>,
}

/// What came of a host, or of one of its commands, that has ended.
#[derive(Debug)]
pub struct Run {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Everything on stdout.
    pub stdout: String,
    /// Everything on stderr.
    pub stderr: String,
}

impl Builder {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Host::command();
        command.arg("run").current_dir(directory.path());
        Self { command, directory, own_addresses: false, own_data: false, under: Vec::new() }
    }

    /// Writes a manifest and runs it.
    #[must_use]
    pub fn manifest(mut self, manifest: &str) -> Self {
        self.command.args(["-f", "hostler.toml"]);
        self.file("hostler.toml", manifest)
    }

    /// Writes a file into the directory that the host is started in.
    #[must_use]
    pub fn file(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.directory.path().join(name), contents).expect("a file can be written");
        self
    }

    /// Adds something to the command line. To name the addresses, see [`Self::own_addresses`].
    #[must_use]
    pub fn flag(mut self, flag: impl Into<OsString>) -> Self {
        self.command.arg(flag.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Leaves it to the test to say where to listen. Otherwise it is on free ports.
    #[must_use]
    pub fn own_addresses(mut self) -> Self {
        self.own_addresses = true;
        self
    }

    /// Leaves it to the test to say where data is kept. Otherwise it is in the host's own directory.
    #[must_use]
    pub fn own_data(mut self) -> Self {
        self.own_data = true;
        self
    }

    /// Keeps data in a directory that outlives the host. Made if it isn't there.
    #[must_use]
    pub fn data(self, directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("the directory can be made");
        share_compiled(directory);
        self.own_data().flag("--data-dir").flag(directory)
    }

    /// Starts it by another program, which is given the host's command line behind these arguments and must become it, or
    /// at least keep its process id for it.
    #[must_use]
    pub fn under<S: Into<OsString>>(mut self, program: impl IntoIterator<Item = S>) -> Self {
        self.under.extend(program.into_iter().map(Into::into));
        self
    }

    /// The directory that the host is started in.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn ready(&mut self) -> &mut Command {
        if !self.own_addresses {
            self.command.args(["--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0"]);
        }
        if !self.own_data {
            let data = self.directory.path().join("data");
            std::fs::create_dir(&data).expect("the directory is new");
            share_compiled(&data);
            self.command.arg("--data-dir").arg(data);
        }
        if let Some((program, arguments)) = self.under.split_first() {
            let mut under = Command::new(program);
            under.args(arguments).arg(self.command.get_program()).args(self.command.get_args());
            for (name, value) in self.command.get_envs() {
                match value {
                    Some(value) => under.env(name, value),
                    None => under.env_remove(name),
                };
            }
            under.current_dir(self.directory.path());
            self.command = under;
            self.under.clear();
        }
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())
    }

    /// Starts it and waits until it says that it is ready.
    ///
    /// # Panics
    /// It ended instead, with its log.
    #[track_caller]
    pub fn start(mut self) -> Host {
        let mut child = self.ready().spawn().expect("the host can be started");
        let mut log = Log::read(child.stderr.take().expect("it is piped"));
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut address = |label: &str| {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            line.strip_prefix(label).map(|url| url.trim_end().to_owned()).ok_or(line)
        };
        match (address("public   "), address("internal ")) {
            (Ok(public), Ok(internal)) => {
                let (public, internal) = (Client::new(public), Client::new(internal));
                Host { child, public, internal, log, directory: self.directory, stdout }
            }
            other => {
                let _ = child.kill();
                log.complete();
                panic!("the host did not start: {:?}, {other:?}\n{}", child.wait(), log.text());
            }
        }
    }

    /// Starts it and waits until it ends.
    pub fn run(mut self) -> Run {
        Run::of(self.ready())
    }
}

/// Every host has its own data, but none needs to compile what another one has compiled.
pub(crate) fn share_compiled(data: &Path) {
    let link = data.join("cache");
    if !link.is_symlink() {
        std::os::unix::fs::symlink(artifact::scratch("compiled"), link).expect("a link can be made");
    }
}

impl Run {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("the command can be run");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The same, if it ended with this code and each of the parts is on stderr.
    #[track_caller]
    pub fn expect(self, code: i32, stderr: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for part in stderr {
            assert!(self.stderr.contains(part), "{part:?} is not on stderr: {}", self.stderr);
        }
        self
    }

    /// The same, if it didn't end by itself: a signal ended it.
    #[track_caller]
    pub fn expect_killed(self) -> Self {
        assert_eq!(self.code, None, "{self:#?}");
        self
    }
}

impl Host {
    /// Starts the built-in assembly.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// The built-in assembly, to be changed before it is started.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A component of `tests/guests` on `/`, with two instances, further lines for its table, and a neighbour on
    /// `/neighbour`.
    pub fn with_guest(guest: &str, lines: &str) -> Builder {
        let manifest = format!(
            "[components.guest]\nsource = \"{}\"\nroute = \"/\"\ninstances = [\"one\", \"two\"]\n{lines}\n\
             [components.neighbour]\nsource = \"{}\"\nroute = \"/neighbour\"\n",
            artifact::guest(guest).display(),
            artifact::guest("hello-p3").display(),
        );
        Self::builder().manifest(&manifest)
    }

    /// A component of `tests/guests` on `/`, with one instance, further lines for its table, and one worker. Its health
    /// is checked once, at the start.
    pub fn with_only(guest: &str, lines: &str) -> Builder {
        let manifest = format!(
            "[components.guest]\nsource = \"{}\"\nroute = \"/\"\nhealth-check = {{ interval = \"1h\" }}\n{lines}\n",
            artifact::guest(guest).display()
        );
        Self::builder().manifest(&manifest).flag("--workers").flag("1")
    }

    /// The guest `stamped`, number 0, on `/`, from a file `guest.wasm` that is the test's to change, with further lines
    /// for its table.
    pub fn with_stamped(lines: &str) -> Builder {
        let manifest = format!(
            "[components.guest]\nsource = \"guest.wasm\"\nroute = \"/\"\nhealth-check = {{ path = \"/healthz\" }}\n{lines}\n"
        );
        Self::builder().file("guest.wasm", revision::stamped("stamped", 0)).manifest(&manifest)
    }

    /// The binary, without the variables that change what it does.
    pub fn command() -> Command {
        let mut command = Command::new(artifact::host());
        for (name, _) in std::env::vars_os() {
            if ["HOSTLER_", "OTEL_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs one of the binary's commands to its end.
    pub fn cli<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Run {
        Run::of(Self::command().args(arguments))
    }

    /// Runs one of the client commands against this host.
    pub fn ask(&self, arguments: &[&str]) -> Run {
        Run::of(Self::command().args(arguments).args(["--internal", self.internal.url()]))
    }

    /// A client of the public address. The host itself can be used as one.
    pub fn public(&self) -> &Client {
        &self.public
    }

    /// A client of the internal address.
    pub fn internal(&self) -> &Client {
        &self.internal
    }

    /// A connection to the public address.
    pub fn wire(&self) -> Wire {
        Wire::connect(self.public.url())
    }

    /// What it has logged.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The directory it was started in.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where it keeps its data, unless the test said otherwise.
    pub fn data(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What its `/metrics` says, by the internal address, which is not counted itself.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.internal.get("/metrics").expect(200).text())
    }

    /// What it has of the machine's now.
    pub fn usage(&self) -> Usage {
        Usage::of(self.pid())
    }

    /// Swaps a component for these bytes.
    #[track_caller]
    pub fn swap(&self, component: &str, bytes: impl Into<Vec<u8>>) -> Reply {
        self.internal.request("PUT", &format!("/components/{component}")).body(bytes).send()
    }

    /// A component as `/components` has it.
    #[track_caller]
    pub fn component(&self, name: &str) -> Value {
        let all = self.internal.get("/components").expect(200).json();
        let mut listed = all["components"].as_array().expect("a list of components").iter();
        listed.find(|component| component["name"] == name).unwrap_or_else(|| panic!("no {name} in {all}")).clone()
    }

    /// The revisions of a component, the newest publication first.
    #[track_caller]
    pub fn revisions(&self, component: &str) -> Vec<Value> {
        let listed = self.internal.get(&format!("/components/{component}/revisions")).expect(200).json();
        listed["revisions"].as_array().expect("a list of revisions").clone()
    }

    /// Registers an instance of the namespace `storage`.
    #[track_caller]
    pub fn register(&self, name: &str, url: &str) -> Reply {
        self.internal.post("/register", &json!({ "name": name, "address": url }))
    }

    /// The instances of a namespace, `*` for all, by `/instances`.
    #[track_caller]
    pub fn instances(&self, namespace: &str) -> Vec<Value> {
        let reply = self.internal.get(&format!("/instances?namespace={namespace}")).expect(200);
        reply.json()["instances"].as_array().expect("a list of instances").clone()
    }

    /// Waits until an instance is in this state.
    #[track_caller]
    pub fn wait_for_state(&self, namespace: &str, name: &str, state: &str) {
        eventually(&format!("{name} {state}"), || {
            let instances = self.instances(namespace);
            instances.iter().any(|instance| instance["name"] == name && instance["state"] == state).then_some(())
        });
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process was not waited for");
    }

    /// Waits until it ends. Returns what it wrote after its two first lines.
    #[track_caller]
    pub fn wait(mut self) -> Run {
        let child = &mut self.child;
        let status = eventually("the end of the host", || child.try_wait().expect("a child can be waited for"));
        self.log.complete();
        let mut stdout = String::new();
        let _ = std::io::Read::read_to_string(&mut self.stdout, &mut stdout);
        Run { code: status.code(), stdout, stderr: self.log.text() }
    }

    /// Asks it to stop and waits until it ends.
    #[track_caller]
    pub fn stop(self) -> Run {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Deref for Host {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.public
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.log.complete();
            eprintln!("--- the host's log\n{}\n---", self.log.text());
        }
    }
}

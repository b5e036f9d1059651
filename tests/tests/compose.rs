//! `docker-compose.yml`: a gateway and three storages in containers of one image.
//!
//! No image is pulled: the base image is made by `debootstrap`, under the name that the Dockerfile uses. If no Docker
//! daemon answers, the test starts one of its own and ends it again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use e2e::{Client, Log, Run, artifact, eventually, eventually_true, need};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What the Dockerfile begins from.
const BASE: &str = "debian:bookworm-slim";

/// A Docker daemon, and how to reach it.
struct Docker {
    /// `DOCKER_HOST`, unless it is where clients look anyway.
    address: Option<String>,
    /// The one that the test started, with its directory.
    own: Option<(Child, Log, TempDir)>,
}

impl Docker {
    /// The daemon that runs here, or one of our own. None if there are no programs for it, or no right to start it.
    fn find() -> Option<Self> {
        for program in ["docker", "docker-compose", "debootstrap"] {
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
        }
        let running = Self { address: None, own: None };
        if running.answers() {
            return Some(running);
        }
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        // Not in /tmp, which may be in memory.
        let directory = TempDir::new_in("/var/tmp").ok()?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let address = format!("unix://{}", path("docker.sock"));
        let mut command = Command::new("dockerd");
        command.args(["--host", &address, "--data-root", &path("data"), "--exec-root", &path("exec")]);
        command.args(["--pidfile", &path("pid")]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let log = Log::read(child.stderr.take().expect("it is piped"));
        let mut docker = Self { address: Some(address), own: Some((child, log, directory)) };
        eventually("a daemon that answers, or ends", || {
            let ended =
                docker.own.as_mut().is_some_and(|(child, ..)| child.try_wait().is_ok_and(|status| status.is_some()));
            (ended || docker.answers()).then_some(())
        });
        if docker.answers() {
            return Some(docker);
        }
        if let Some((_, log, _)) = &docker.own {
            eprintln!("dockerd can't be started:\n{}", log.text());
        }
        None
    }

    fn answers(&self) -> bool {
        self.command("docker").arg("info").output().is_ok_and(|output| output.status.success())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(address) = &self.address {
            command.env("DOCKER_HOST", address);
        }
        command.current_dir(artifact::root());
        command
    }

    /// Runs `docker` and returns what it prints.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        Run::of(self.command("docker").args(arguments)).expect(0, &[]).stdout.trim().to_owned()
    }

    /// Sees to it that the base image is there.
    fn base_image(&self) {
        if Run::of(self.command("docker").args(["image", "inspect", BASE])).code == Some(0) {
            return;
        }
        let archive = artifact::scratch("base").join("bookworm.tar");
        if !archive.exists() {
            make_base(&archive);
        }
        self.run(&["import", archive.to_str().expect("the path is UTF-8"), BASE]);
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some((child, ..)) = &mut self.own {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            let _ = child.wait();
        }
    }
}

/// Installs a minimal Debian and packs it.
fn make_base(archive: &Path) {
    let directory = TempDir::new_in("/var/tmp").expect("a temporary directory");
    let root = directory.path().join("root");
    let mut command = Command::new("debootstrap");
    Run::of(command.args(["--variant=minbase", "bookworm"]).arg(&root)).expect(0, &[]);
    // Whole or not at all: it is kept for the next time.
    let unfinished = archive.with_extension("unfinished");
    let mut command = Command::new("tar");
    Run::of(
        command
            .arg("-C")
            .arg(&root)
            .args(["--exclude=./var/cache/apt/archives/*.deb", "-cf"])
            .arg(&unfinished)
            .arg("."),
    )
    .expect(0, &[]);
    std::fs::rename(&unfinished, archive).expect("a file can be renamed");
}

/// The binary under test, without what only debuggers need. Below the folder that the image is built from.
fn binary() -> PathBuf {
    let file = artifact::root().join("target/e2e/image/host");
    std::fs::create_dir_all(file.parent().expect("it is in a folder")).expect("a directory can be made");
    std::fs::copy(artifact::host(), &file).expect("a file can be copied");
    // Without binutils the image is larger, and that is all.
    let _ = Command::new("strip").arg(&file).status();
    file
}

/// The assembly of `docker-compose.yml`. Taken down, with its volumes, when it is dropped.
struct Compose<'a> {
    docker: &'a Docker,
    project: String,
}

impl Compose<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.docker.command("docker-compose");
        let binary = "target/e2e/image/host";
        command.args(["-p", &self.project]).args(arguments);
        // Plain builds, which every daemon has.
        command.env("HOST", binary).env("DOCKER_BUILDKIT", "0").env("COMPOSE_DOCKER_CLI_BUILD", "0");
        command.env("HOSTLER_TOKEN", "a-token-for-tests").env("HOSTLER_PORT", "0").env("HOSTLER_API_KEYS", "secret");
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        Run::of(&mut self.command(arguments)).expect(0, &[]).stdout.trim().to_owned()
    }

    /// Looks something up in what Docker knows of a service's container.
    #[track_caller]
    fn inspect(&self, service: &str, what: &str) -> String {
        let id = self.run(&["ps", "-q", service]);
        self.docker.run(&["inspect", "--format", what, &id])
    }
}

impl Drop for Compose<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = Run::of(&mut self.command(&["logs", "--no-color"]));
            eprintln!("--- the containers' logs\n{}\n---", logs.stdout);
        }
        let _ = Run::of(&mut self.command(&["down", "-v", "--timeout", "5"]));
    }
}

#[test]
fn a_gateway_and_three_storages() {
    let docker = need!(Docker::find(), "docker, docker-compose, debootstrap and a daemon, or root to start dockerd");
    docker.base_image();
    binary();
    let compose = Compose { docker: &docker, project: format!("hostler-e2e-{}", std::process::id()) };
    compose.run(&["build", "--quiet"]);
    compose.run(&["up", "-d"]);
    let client = Client::new(format!("http://{}", compose.run(&["port", "gateway", "8080"])));
    let names = || {
        let mut names: Vec<String> =
            (0..6).map(|_| client.get("/data").expect(200).header("x-served-by").to_owned()).collect();
        names.sort();
        names.dedup();
        names
    };
    let available = |count: usize| {
        eventually_true(&format!("{count} storages available"), || {
            let status = client.request("GET", "/status").try_send();
            status.is_ok_and(|status| status.status == 200 && status.json()["available"] == count)
        });
    };

    available(3);
    assert_eq!(names(), ["storage-1", "storage-2", "storage-3"]);
    let status = client.get("/status").json();
    assert_eq!(status["instances"][0]["address"], "http://storage-1:8080", "{status}");
    let key = client.request("GET", "/v1/values/never").header("x-api-key", "secret").send();
    key.problem(404, "key_not_found");

    // Set through one, read through all four, over both addresses.
    let keys = std::cell::Cell::new(0);
    let agree = |client: &Client| {
        let key = format!("key-{}", keys.replace(keys.get() + 1));
        for value in ["one", "two"] {
            let document = serde_json::json!({ "key": key, "value": value });
            eventually_true("the store can be reached", || client.post("/api/set", &document).status == 200);
            let mut readers = Vec::new();
            for _ in 0..3 {
                let reply = client.get(&format!("/api/get?key={key}")).expect(200);
                assert_eq!(reply.json()["value"], value, "{}", reply.header("x-served-by"));
                readers.push(reply.header("x-served-by").to_owned());
            }
            readers.sort();
            assert_eq!(readers, ["storage-1", "storage-2", "storage-3"]);
            for service in ["gateway", "storage-1", "storage-2", "storage-3"] {
                assert_eq!(compose.run(&["exec", "-T", service, "host", "kv", "get", &key]), value, "{service}");
            }
        }
    };
    agree(&client);
    for service in ["storage-1", "storage-2", "storage-3"] {
        compose.run(&["restart", service]);
        available(3);
        assert_eq!(client.get("/api/get?key=key-0").expect(200).json()["value"], "two");
        agree(&client);
    }

    // Not root, and nothing can be written but the data.
    for service in ["gateway", "storage-1"] {
        assert_eq!(compose.run(&["exec", "-T", service, "id", "-u"]), "65532");
        let write = |path: &str| Run::of(&mut compose.command(&["exec", "-T", service, "touch", path])).code;
        assert_ne!(write("/usr/local/bin/x"), Some(0));
        assert_ne!(write("/tmp/x"), Some(0));
        assert_eq!(write("/var/lib/hostler/x"), Some(0));
        eventually_true("its health check passes", || {
            compose.inspect(service, "{{.State.Health.Status}}") == "healthy"
        });
    }

    // One is stopped: it says goodbye, and nobody is sent there any more.
    compose.run(&["stop", "storage-2"]);
    let status = client.get("/status").json();
    assert_eq!((&status["total"], &status["available"]), (&2.into(), &2.into()), "{status}");
    assert_eq!(names(), ["storage-1", "storage-3"]);
    assert_eq!(compose.inspect("storage-2", "{{.State.ExitCode}}"), "0", "it drained");
    compose.run(&["start", "storage-2"]);
    available(3);
    assert_eq!(names(), ["storage-1", "storage-2", "storage-3"]);

    // One dies: no request is lost, and Docker starts it again.
    let pid = || compose.inspect("storage-3", "{{.State.Pid}}");
    let before = pid();
    let process = before.parse().ok().and_then(Pid::from_raw).expect("a process id");
    if kill_process(process, Signal::KILL).is_ok() {
        assert!(!names().is_empty());
        eventually_true("it is started again", || !["0", before.as_str()].contains(&pid().as_str()));
        eventually("it is picked again", || names().contains(&"storage-3".to_owned()).then_some(()));
    } else {
        e2e::missing("a daemon on this machine, to kill a container's process");
    }

    // The gateway goes and comes back: the storages register again by themselves.
    compose.run(&["restart", "gateway"]);
    let client = Client::new(format!("http://{}", compose.run(&["port", "gateway", "8080"])));
    eventually_true("all have registered again", || {
        let status = client.request("GET", "/status").try_send();
        status.is_ok_and(|status| status.status == 200 && status.json()["available"] == 3)
    });
    assert_eq!(client.get("/api/get?key=key-0").expect(200).json()["value"], "two", "its data has survived");
    agree(&client);
}

#[test]
fn without_a_token_it_says_what_to_do() {
    need!(Command::new("docker-compose").arg("--version").output().ok(), "docker-compose");
    let mut command = Command::new("docker-compose");
    command.arg("config").current_dir(artifact::root()).env_remove("HOSTLER_TOKEN");
    let run = Run::of(&mut command);
    assert_ne!(run.code, Some(0));
    assert!(run.stderr.contains("HOSTLER_TOKEN"), "{}", run.stderr);
}

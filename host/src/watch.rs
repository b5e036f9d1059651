//! Watches the manifest and the files that it names, and acts when one of them is written.
//!
//! [`Files`] decides: from what files look like, again and again, it tells which were changed and are complete. It knows
//! no clock and no disk. [`Watch`] looks every [`PAUSE`], at as many files as the manifest names, and acts: a component's
//! file is swapped in, a manifest is served as a whole or not at all. What can't be used is reported once, and not looked at
//! again until it is written again.
//!
//! One task on the control plane, from the start until the drain. It does one thing at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::RunArgs;
use crate::facts::{Failure, Kind};
use crate::look::Look;
use crate::manifest::{self, Component, Environment, Manifest, ManifestError, Sections, Source};
use crate::swap::{PublishedBy, SourceIdentity, SwapError, SwapOptions, Swapper};

/// Between two looks. What looks the same in both is taken to be complete.
const PAUSE: Duration = Duration::from_millis(250);

/// After how many looks a file is tried again that could not be swapped in for another reason than what is in it.
const AGAIN: u32 = 40;

/// Watches files for a running host.
pub(crate) struct Watch {
    args: Arc<RunArgs>,
    process: Environment,
    /// What the host was started with, and can't be changed without starting it again.
    started: Sections,
    /// Names of sections that differ from that, which was said.
    reported: Vec<&'static str>,
    files: Files,
    manifest: Option<PathBuf>,
    /// Whether the manifest was written and could not be used. It is tried again whenever another file changes, as that may
    /// have been what was wrong.
    owed: bool,
    components: Vec<Watched>,
}

/// A component whose file is watched.
struct Watched {
    name: String,
    path: PathBuf,
    /// What the file looked like before the manifest was loaded.
    look: Look,
    /// What the file was when it was last read.
    known: SourceIdentity,
    /// Looks until it is tried again, after something else than the file stood in its way.
    again: Option<u32>,
}

impl Watch {
    /// For a host that serves `manifest`, which was loaded with `args`.
    pub(crate) fn new(args: &RunArgs, process: Environment, manifest: &Manifest) -> Self {
        let mut watch = Watch {
            args: Arc::new(args.clone()),
            process,
            started: manifest.sections(),
            reported: Vec::new(),
            files: Files::default(),
            manifest: None,
            owed: false,
            components: Vec::new(),
        };
        watch.begin(manifest.file.clone(), watched(manifest));
        watch
    }

    /// Watches until `stop` completes, or not at all if everything is built in. A swap that has begun then goes on.
    pub(crate) async fn run(mut self, swapper: Swapper, stop: impl Future<Output = ()>) {
        if self.files.0.is_empty() {
            return;
        }
        let watching = async {
            loop {
                tokio::time::sleep(PAUSE).await;
                self.look(&swapper).await;
            }
        };
        tokio::select! {
            () = stop => {}
            () = watching => {}
        }
    }

    /// Watches these files from now on. They were read after they were looked at.
    fn begin(&mut self, manifest: Option<(PathBuf, Look)>, components: Vec<Watched>) {
        self.manifest = manifest.as_ref().map(|(path, _)| path.clone());
        let files = components.iter().map(|component| (component.path.clone(), component.look));
        self.files = files.chain(manifest).collect();
        self.components = components;
    }

    /// Looks at the files once, and acts upon those that were changed and are complete.
    async fn look(&mut self, swapper: &Swapper) {
        let paths = self.files.paths();
        let looks = blocking(move || {
            let looks = paths.iter().map(|path| Look::at(path)).collect::<Vec<_>>();
            paths.into_iter().zip(looks).collect()
        });
        let settled = self.files.settled(looks.await);
        let manifest = self.manifest.as_ref().is_some_and(|manifest| settled.contains(manifest));
        if (manifest || (self.owed && !settled.is_empty())) && self.reload(swapper, manifest).await {
            // It has read the components' files too.
            return;
        }
        for component in &mut self.components {
            if settled.contains(&component.path) || component.is_due() {
                component.swap(swapper).await;
            }
        }
    }

    /// Loads the manifest again and has it served. False if it can't be: then nothing changes. `changed` if it was written
    /// since the last time, so that there is something to say about it.
    async fn reload(&mut self, swapper: &Swapper, changed: bool) -> bool {
        let (args, process) = (self.args.clone(), self.process.clone());
        let applied = match blocking(move || manifest::load(&args, &process)).await {
            Ok(manifest) => self.apply(swapper, manifest).await,
            Err(error) => Err(error.into()),
        };
        self.owed = applied.is_err();
        match applied {
            Ok(()) => {}
            Err(error) if changed => {
                tracing::error!("the manifest was changed and can't be served, so nothing changes: {error}");
                // Beside what there may be to tell of a component: it is the whole that isn't served.
                let reason = format!("the manifest can't be served: {error}");
                swapper.failures().record(Failure { kind: Kind::Swap, reason, ..Failure::default() });
            }
            Err(error) => tracing::debug!("the manifest still can't be served: {error}"),
        }
        !self.owed
    }

    async fn apply(&mut self, swapper: &Swapper, manifest: Manifest) -> Result<(), ReloadError> {
        let (file, components) = (manifest.file.clone(), watched(&manifest));
        let (sections, notes) = (manifest.sections(), manifest.notes.clone());
        let swapped = swapper.apply(manifest).await?;
        tracing::info!(components = swapped.len(), "the manifest was changed and is served");
        for note in notes {
            tracing::warn!("{note}");
        }
        self.report(self.started.unlike(&sections));
        self.begin(file, components);
        Ok(())
    }

    /// Says which sections take effect later, if it wasn't said before.
    fn report(&mut self, sections: Vec<&'static str>) {
        if !sections.is_empty() && sections != self.reported {
            let named = sections.join(", ");
            tracing::warn!("changes of {named} in the manifest take effect when the host is started again");
        }
        self.reported = sections;
    }
}

/// Why a changed manifest is not served.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Swap(#[from] SwapError),
}

impl Watched {
    /// Whether it is to be tried again at this look.
    fn is_due(&mut self) -> bool {
        self.again = self.again.map(|looks| looks.saturating_sub(1));
        self.again == Some(0)
    }

    /// Swaps the component for what is in its file, if that is something new.
    async fn swap(&mut self, swapper: &Swapper) {
        self.again = None;
        let component = self.name.as_str();
        let path = self.path.clone();
        let read = blocking(move || {
            let source = Source::File { look: Look::at(&path), path };
            let code = source.read()?;
            Ok::<_, String>((source, code))
        });
        let (source, code) = match read.await {
            Ok(read) => read,
            Err(error) => {
                return tracing::warn!(component, "{} was changed and can't be read: {error}", self.path.display());
            }
        };
        let identity = SourceIdentity::of_read(&source, code.digest());
        if identity == self.known {
            // Only its permissions or links are other ones: no newer event than the last swap.
            return;
        }
        let before = std::mem::replace(&mut self.known, identity);
        let options = SwapOptions { by: PublishedBy::File, rehearse: None, promote: None };
        match swapper.swap(component, code, options).await {
            // What became of it is in the log already; and a host that is stopping swaps nothing.
            Ok(_) | Err(SwapError::Rejected { .. } | SwapError::NotPromoted { .. } | SwapError::Draining) => {}
            Err(error) => {
                tracing::warn!(component, "{} was changed and not swapped in yet: {error}", self.path.display());
                (self.known, self.again) = (before, Some(AGAIN));
            }
        }
    }
}

/// The components of a manifest whose files are to be watched.
fn watched(manifest: &Manifest) -> Vec<Watched> {
    let watched = |component: &Component| match &component.source {
        Source::File { path, look } if component.swap.watch => {
            let known = SourceIdentity::of(component);
            Some(Watched { name: component.spec.name.clone(), path: path.clone(), look: *look, known, again: None })
        }
        _ => None,
    };
    manifest.components.iter().filter_map(watched).collect()
}

async fn blocking<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(task).await.expect("files are read without a panic")
}

/// What files looked like, by path.
#[derive(Default)]
struct Files(BTreeMap<PathBuf, Seen>);

struct Seen {
    /// When it was last acted upon.
    acted: Look,
    /// The last time.
    last: Look,
}

/// Files that were read after they looked so.
impl FromIterator<(PathBuf, Look)> for Files {
    fn from_iter<I: IntoIterator<Item = (PathBuf, Look)>>(files: I) -> Self {
        Files(files.into_iter().map(|(path, look)| (path, Seen { acted: look, last: look })).collect())
    }
}

impl Files {
    fn paths(&self) -> Vec<PathBuf> {
        self.0.keys().cloned().collect()
    }

    /// Takes what the files look like now. Returns those that are to be acted upon: they are other than when that was last
    /// done, there, and the same as at the look before, so that nobody seems to be writing them.
    fn settled(&mut self, looks: Vec<(PathBuf, Look)>) -> Vec<PathBuf> {
        let mut settled = Vec::new();
        for (path, look) in looks {
            let Some(seen) = self.0.get_mut(&path) else { continue };
            let still = std::mem::replace(&mut seen.last, look) == look;
            if still && look != seen.acted && matches!(look, Look::Present { .. }) {
                seen.acted = look;
                settled.push(path);
            }
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::swap::{ComponentInfo, testing};

    fn present(modified: i64) -> Look {
        Look::Present { modified: (modified, 0), changed: (modified, 0), size: 8, inode: (1, 1) }
    }

    #[test]
    fn what_is_written_settles_once() {
        let path = PathBuf::from("/srv/a.wasm");
        let hidden = Look::Hidden(std::io::ErrorKind::PermissionDenied);
        // What a file looks like, and whether that is acted upon. It was read as 1.
        for (name, looks) in [
            ("nothing happens", vec![(present(1), false), (present(1), false)]),
            ("it is renamed to its place", vec![(present(2), false), (present(2), true), (present(2), false)]),
            (
                "it is written for a while",
                vec![
                    (present(2), false),
                    (present(3), false),
                    (present(4), false),
                    (present(4), true),
                    (present(4), false),
                ],
            ),
            (
                "it is removed and built again",
                vec![(Look::Absent, false), (Look::Absent, false), (present(2), false), (present(2), true)],
            ),
            (
                "it can't be seen for a while",
                vec![(hidden, false), (hidden, false), (present(1), false), (present(1), false)],
            ),
            (
                "it is written again, and back",
                vec![(present(2), false), (present(2), true), (present(1), false), (present(1), true)],
            ),
        ] {
            let mut files = Files::from_iter([(path.clone(), present(1))]);
            for (step, (look, acts)) in looks.into_iter().enumerate() {
                let settled = files.settled(vec![(path.clone(), look), (PathBuf::from("/not/watched"), look)]);
                assert_eq!(!settled.is_empty(), acts, "{name}, step {step}");
            }
        }
    }

    /// A host with one component, `echo`, whose file is in the folder of its manifest.
    struct Host {
        folder: TempDir,
        swapper: Swapper,
        watch: Watch,
        _data: TempDir,
    }

    const MANIFEST: &str = "[components.echo]\nsource = 'echo.wasm'\nwatch-for = '0s'";

    impl Host {
        fn start() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            std::fs::write(folder.path().join("echo.wasm"), component("echo")).expect("a writable folder");
            std::fs::write(folder.path().join("hostler.toml"), MANIFEST).expect("a writable folder");
            let args = RunArgs { manifest: Some(folder.path().join("hostler.toml")), ..RunArgs::default() };
            let manifest = manifest::load(&args, &Environment::default()).expect("it is right");
            let watch = Watch::new(&args, Environment::default(), &manifest);
            let (swapper, data) = testing::swapper(manifest.components);
            Host { folder, swapper, watch, _data: data }
        }

        /// Replaces a file as a build does.
        fn write(&self, name: &str, content: &[u8]) {
            let path = self.folder.path().join(name);
            std::fs::write(path.with_extension("new"), content).expect("a writable folder");
            std::fs::rename(path.with_extension("new"), path).expect("a writable folder");
        }

        /// Long enough for what was written to settle. Returns the component, and how many of its revisions were active.
        async fn settle(&mut self) -> (ComponentInfo, usize) {
            for _ in 0..3 {
                self.watch.look(&self.swapper).await;
            }
            let component = self.swapper.components().remove(0);
            let revisions = self.swapper.revisions(&component.name).expect("it is served").len();
            (component, revisions)
        }
    }

    fn component(name: &str) -> &'static [u8] {
        crate::builtin::component(name).expect("it is built in")
    }

    fn digest(name: &str) -> String {
        runtime::Code::new(component(name)).digest().to_string()
    }

    #[tokio::test]
    async fn a_file_that_is_written_is_swapped_in_once() {
        let mut host = Host::start();
        host.write("echo.wasm", component("storage"));
        let (now, revisions) = host.settle().await;
        assert_eq!((now.digest, now.published_by, revisions), (digest("storage"), PublishedBy::File, 2));

        // What is no component changes nothing, and neither do other rights or a file that is gone.
        host.write("echo.wasm", &component("gateway")[..1000]);
        assert_eq!(host.settle().await.0.digest, digest("storage"));
        let by_hand = runtime::Code::new(component("gateway"));
        let options = SwapOptions { by: PublishedBy::Swap, rehearse: None, promote: None };
        host.write("echo.wasm", component("storage"));
        host.settle().await;
        host.swapper.swap("echo", by_hand, options).await.expect("it is a component");
        let file = host.folder.path().join("echo.wasm");
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, rights).expect("our own file");
        assert_eq!(host.settle().await.0.digest, digest("gateway"));
        std::fs::remove_file(&file).expect("our own file");
        assert_eq!(host.settle().await.0.digest, digest("gateway"));

        // The newest event wins, also with bytes that were there before.
        host.write("echo.wasm", component("echo"));
        assert_eq!(host.settle().await.0.digest, digest("echo"));
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_not_tried_again() {
        let mut host = Host::start();
        std::fs::remove_file(host.folder.path().join("echo.wasm")).expect("our own file");
        host.watch.components[0].again = Some(1);
        host.watch.look(&host.swapper).await;
        assert_eq!(host.watch.components[0].again, None);
    }

    #[tokio::test]
    async fn a_manifest_is_served_as_a_whole_or_not_at_all() {
        let mut host = Host::start();
        let changed = |rest: &str| format!("{MANIFEST}\nroute = '/here'\n{rest}");
        host.write("hostler.toml", changed("rout = '/there'").as_bytes());
        assert_eq!(host.settle().await.0.route, None);
        let failures = host.swapper.failures().list();
        let told: Vec<_> = failures.iter().map(|failure| (failure.kind, failure.component.as_deref())).collect();
        assert_eq!(told, [(Kind::Swap, None)], "once: {failures:?}");
        host.write("hostler.toml", changed("[components.more]\nsource = 'more.wasm'").as_bytes());
        assert_eq!(host.settle().await.0.route, None, "more.wasm doesn't exist");

        // A file that was missing may be there when another one is written.
        host.write("more.wasm", component("storage"));
        host.write("echo.wasm", component("gateway"));
        let (now, _) = host.settle().await;
        assert_eq!(
            (now.route.as_deref(), now.digest, now.published_by),
            (Some("/here"), digest("gateway"), PublishedBy::Manifest)
        );
        assert_eq!(host.swapper.components().len(), 2);

        // Its files are watched from now on.
        host.write("more.wasm", component("echo"));
        host.settle().await;
        let more = host.swapper.components().remove(1);
        assert_eq!((more.digest, more.published_by), (digest("echo"), PublishedBy::File));
        host.write("hostler.toml", changed("watch = false\n[public]\nmax-headers = 7").as_bytes());
        assert_eq!(host.settle().await.0.route.as_deref(), Some("/here"));
        assert_eq!(host.watch.reported, ["[public]"]);
        host.write("echo.wasm", component("storage"));
        assert_eq!(host.settle().await.0.digest, digest("gateway"), "it isn't watched any more");
    }
}

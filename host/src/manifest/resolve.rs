//! From what was typed to what it means: merges flags, variables, manifest and defaults, reads the files that are
//! named, and checks what only shows when everything is together.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use registry::{Name, Namespace};
use runtime::{Buckets, ComponentSpec, Directory, HealthCheck, Limits, OutboundPolicy, PathPattern, SocketRule};
use toml::Spanned;

use super::error::{Document, unreadable};
use super::{Component, Environment, Internal, Join, Manifest, ManifestError, Place, Public, Run, Store, SwapPolicy};
use super::{file, source};
use crate::builtin;
use crate::cli::{MOST_WORKERS, RunArgs};
use crate::look::Look;
use crate::telemetry::LogFormat;
use crate::token::Token;
use crate::value::{Listen, Period, Route, Size};

type Result<T, E = ManifestError> = std::result::Result<T, E>;

/// Largest manifest that is read.
const LARGEST: u64 = 1 << 20;

/// Most instances that one component may have in process.
const MOST_INSTANCES: usize = 1000;

/// Most handlers that a component may name: each is several time series.
const MOST_HANDLERS: usize = 64;

/// Characters of a handler's name.
const HANDLER_NAME: RangeInclusive<usize> = 1..=32;

/// hyper can't read heads with a smaller buffer.
const SMALLEST_HEAD: u64 = 8 << 10;

/// One page, and all that 32-bit memories can have.
const MEMORY: Range<u64> = 64 << 10..(4 << 30) + 1;

/// The variable by which the gateway gets API keys, and the host too.
const API_KEYS: &str = "HOSTLER_API_KEYS";

/// What stands for the instance's name in the values of `environment`.
const INSTANCE: &str = "{instance}";

/// Loads what `args` ask for: the manifest they name or the built-in one, with everything they and the process's
/// environment say on top. Reads files (manifest, components, tokens, keys) and touches nothing else.
///
/// # Errors
/// The first mistake found, with its place and what to do about it.
pub(crate) fn load(args: &RunArgs, process: &Environment) -> Result<Manifest> {
    let current = std::env::current_dir().map_err(|error| {
        Place::Setting("current directory".to_owned()).error(format!("it can't be found: {error}; cd somewhere else"))
    })?;
    match &args.manifest {
        Some(path) => {
            let file = current.join(path);
            let look = Look::at(&file);
            let text = read(path)?;
            let directory = file.parent().unwrap_or(&current).to_owned();
            let document = Document { file: path.display().to_string(), text: &text };
            let manifest = Resolver { args, process, document, directory, current, notes: Vec::new() }.manifest()?;
            Ok(Manifest { file: Some((file, look)), ..manifest })
        }
        None => {
            let document = Document { file: "built-in manifest".to_owned(), text: builtin::MANIFEST };
            let mut notes = Vec::new();
            if current.join("hostler.toml").exists() {
                notes.push("hostler.toml is not used; to run it: host run -f hostler.toml".to_owned());
            }
            let directory = current.clone();
            Resolver { args, process, document, directory, current, notes }.manifest()
        }
    }
}

fn read(path: &Path) -> Result<String> {
    let place = Place::Line { file: path.display().to_string(), line: None };
    let unreadable = |error| place.error(format!("the manifest can't be read: {error}; check the path after -f"));
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > LARGEST {
        return Err(place.error(format!("it has {size} bytes; a manifest has at most {LARGEST}")));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

struct Resolver<'a> {
    args: &'a RunArgs,
    process: &'a Environment,
    document: Document<'a>,
    /// Where paths in the manifest start from.
    directory: PathBuf,
    /// Where paths in flags and variables start from.
    current: PathBuf,
    notes: Vec<String>,
}

impl Resolver<'_> {
    fn manifest(mut self) -> Result<Manifest> {
        let typed: file::File =
            toml::from_str(self.document.text).map_err(|error| self.document.parse_error(&error))?;
        let run = self.run(typed.run)?;
        let keys = self.api_keys(typed.public.api_keys_file.as_ref())?;
        let (listen, listen_place) = self.listen(typed.public.listen.as_ref(), self.args.listen, "--listen", 8080);
        let public = self.public(typed.public, listen)?;
        let internal = self.internal(typed.internal, listen, &listen_place)?;
        let store = self.store(&typed.store)?;
        let components = match typed.components {
            Some(components) => {
                let components = self.components(components, keys.as_deref())?;
                self.note_crowd(&components, run.workers);
                components
            }
            None => self.builtin_components(keys.as_deref())?,
        };
        if keys.is_some() {
            self.note_unused_keys(&components);
        }
        let join = typed.join.map(|join| self.join(join, &components)).transpose()?;
        if components.iter().all(|component| component.spec.route.is_none()) {
            let example = &components[0].spec.name;
            self.notes.push(format!(
                "no component has a route, so every public path answers 404; for example: \
                 [components.{example}] route = \"/\""
            ));
        }
        Ok(Manifest { run, public, internal, store, join, components, notes: self.notes, file: None })
    }

    /// Says so if the API keys that are configured are given to nobody: then nothing checks them.
    fn note_unused_keys(&mut self, components: &[Component]) {
        let gets_keys = |Component { spec, .. }: &Component| spec.environment.iter().any(|(name, _)| name == API_KEYS);
        if !components.iter().any(gets_keys) {
            let example = &components[0].spec.name;
            self.notes.push(format!(
                "API keys are configured, and no component gets them, so nothing checks them: only builtin:gateway gets \
                 them by itself; write under the one that is to check them, for example: [components.{example}] \
                 environment = {{ {API_KEYS} = \"…\" }}"
            ));
        }
    }

    /// Says so if guests may find no room in the process. Not of the built-in manifest, which nobody can change.
    fn note_crowd(&mut self, components: &[Component], workers: usize) {
        let guests = |Component { spec, .. }: &Component| spec.instances.len().saturating_mul(spec.limits.max_guests);
        let wanted = components.iter().map(guests).fold(0, usize::saturating_add).saturating_mul(workers);
        let room = runtime::most_guests(workers);
        if self.args.manifest.is_some() && wanted > room as usize {
            self.notes.push(format!(
                "the components may have {wanted} guests, max-guests for each instance and worker, and the process has room \
                 for {room}: a request whose guest has none gets 503; a lower max-guests keeps components from taking each \
                 other's room"
            ));
        }
    }

    fn run(&self, typed: file::Run) -> Result<Run> {
        let workers = match (self.args.workers, typed.workers) {
            (Some(workers), _) => workers,
            (None, Some(workers)) => {
                let count = workers.get_ref().0;
                if count > u32::from(MOST_WORKERS) {
                    return Err(self.at(&workers, format!("{count} workers are too many: at most {MOST_WORKERS}")));
                }
                count as usize
            }
            (None, None) => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let data_dir = match (&self.args.data_dir, typed.data_dir) {
            (Some(flag), _) => self.current.join(flag),
            (None, Some(key)) => self.directory.join(key),
            (None, None) => self.current.join(".hostler"),
        };
        Ok(Run {
            data_dir,
            workers,
            log_format: self.args.log_format.or(typed.log_format).unwrap_or_else(LogFormat::fitting),
            log_level: self.args.log_level.or(typed.log_level).unwrap_or_default(),
            access_log: typed.access_log.unwrap_or(true),
            drain_timeout: self.args.drain_timeout.or(typed.drain_timeout).map_or(seconds(30), |wait| wait.0),
        })
    }

    fn public(&self, typed: file::Public, listen: SocketAddr) -> Result<Public> {
        let max_header_bytes = match typed.max_header_bytes {
            Some(size) if size.get_ref().0 < SMALLEST_HEAD || size.get_ref().0 > 1 << 20 => {
                let message = format!("{} is out of range: 8KiB to 1MiB", size.get_ref());
                return Err(self.at(&size, message));
            }
            Some(size) => size.get_ref().0 as usize,
            None => 32 << 10,
        };
        Ok(Public {
            listen,
            trusted_proxies: typed.trusted_proxies.into_iter().map(|network| network.0).collect(),
            max_connections: typed.max_connections.map_or(10_000, |count| count.0 as usize),
            header_timeout: period(typed.header_timeout, 10),
            max_header_bytes,
            max_headers: typed.max_headers.map_or(100, |count| count.0 as usize),
            body_idle_timeout: period(typed.body_idle_timeout, 30),
            max_body: typed.max_body.map_or(10 << 20, |size| size.0),
            metrics: typed.metrics.unwrap_or(true),
        })
    }

    fn internal(&self, typed: file::Internal, public: SocketAddr, public_place: &Place) -> Result<Internal> {
        let flag = "--internal-listen";
        let (listen, place) = self.listen(typed.listen.as_ref(), self.args.internal_listen, flag, 9090);
        if listen == public && listen.port() != 0 {
            return Err(place.error(format!(
                "{listen} is also the public address (set at {public_place}); give one of them another port"
            )));
        }
        let variable = ("HOSTLER_INTERNAL_TOKEN", self.process.internal_token.as_deref());
        let token = self.token(variable, typed.token_file.as_ref())?;
        if token.is_none() && !listen.ip().is_loopback() && !typed.allow_unauthenticated {
            return Err(place.error(format!(
                "the internal address {listen} can be reached from other machines and has no token; set \
                 HOSTLER_INTERNAL_TOKEN or internal.token-file (or, if the network is trusted, \
                 internal.allow-unauthenticated = true)"
            )));
        }
        Ok(Internal { listen, token })
    }

    /// An address to listen on and where it was set.
    fn listen(
        &self,
        key: Option<&Spanned<Listen>>,
        flag: Option<Listen>,
        name: &str,
        default_port: u16,
    ) -> (SocketAddr, Place) {
        match (flag, key) {
            (Some(flag), _) => (flag.0, Place::Setting(name.to_owned())),
            (None, Some(key)) => (key.get_ref().0, self.document.place(Some(key.span()))),
            (None, None) => (SocketAddr::from(([127, 0, 0, 1], default_port)), Place::Setting(name.to_owned())),
        }
    }

    fn store(&self, typed: &file::Store) -> Result<Store> {
        let Some(backend) = &typed.backend else {
            return self.durable_store(typed);
        };
        match backend.get_ref().as_str() {
            "txlog" => self.durable_store(typed),
            "memory" => self.memory_store(typed),
            url if url.contains("://") => self.remote_store(backend, typed),
            other => {
                let message = format!(
                    "there is no backend {other:?}; write backend = \"txlog\", \"memory\", or another host's internal \
                     address, like \"http://gateway:9090\""
                );
                Err(self.at(backend, message))
            }
        }
    }

    fn durable_store(&self, typed: &file::Store) -> Result<Store> {
        self.needs_no_token("txlog", typed)?;
        let sync = typed.sync.as_ref().map_or(store::SyncPolicy::Always, |sync| sync.get_ref().0);
        Ok(Store::Durable { sync })
    }

    fn memory_store(&self, typed: &file::Store) -> Result<Store> {
        self.needs_no_token("memory", typed)?;
        match &typed.sync {
            Some(sync) => Err(self.at(sync, "the backend \"memory\" syncs nothing; remove this line")),
            None => Ok(Store::Memory),
        }
    }

    fn needs_no_token(&self, backend: &str, typed: &file::Store) -> Result<()> {
        match &typed.token_file {
            Some(token) => Err(self.at(token, format!("the backend \"{backend}\" needs no token; remove this line"))),
            None => Ok(()),
        }
    }

    /// Another host's store, which need not be there yet.
    fn remote_store(&self, backend: &Spanned<String>, typed: &file::Store) -> Result<Store> {
        if let Some(sync) = &typed.sync {
            return Err(self.at(sync, "the other host decides when its store is synced; remove this line"));
        }
        let url = backend.get_ref();
        let url = url.parse().map_err(|error| self.at(backend, format!("\"{}\": {error}", url.escape_debug())))?;
        let variable = ("HOSTLER_STORE_TOKEN", self.process.store_token.as_deref());
        Ok(Store::Remote { url, token: self.token(variable, typed.token_file.as_ref())? })
    }

    fn join(&self, typed: Spanned<file::Join>, components: &[Component]) -> Result<Join> {
        let place = self.document.place(Some(typed.span()));
        let typed = typed.into_inner();
        let root = components.iter().find(|component| component.spec.route.as_deref() == Some("/"));
        let root = root.ok_or_else(|| {
            place.error(
                "requests to join.advertise reach the component on \"/\", and there is none; \
                 write route = \"/\" under the component whose instances are to be registered",
            )
        })?;
        let token =
            self.token(("HOSTLER_JOIN_TOKEN", self.process.join_token.as_deref()), typed.token_file.as_ref())?;
        let namespace = &root.spec.namespace;
        let instances = root.spec.instances.iter().map(|name| (namespace.clone(), name.clone())).collect();
        Ok(Join { url: typed.url.0, token, advertise: typed.advertise.0, instances })
    }

    /// A token from a variable or, if that is not set, from a file.
    fn token(&self, (name, value): (&str, Option<&str>), file: Option<&Spanned<PathBuf>>) -> Result<Option<Token>> {
        let place = || Place::Setting(name.to_owned());
        let variable = Token::from_variable(value).map_err(|error| place().error(error))?;
        match (variable, file) {
            (Some(token), _) => Ok(Some(token)),
            (None, None) => Ok(None),
            (None, Some(file)) => {
                let path = self.directory.join(file.get_ref());
                let token = Token::read(&path);
                token.map(Some).map_err(|error| self.at(file, format!("the token file {}: {error}", path.display())))
            }
        }
    }

    /// API keys for the gateway, separated by commas, from the variable or, if that is not set, from the file.
    fn api_keys(&self, file: Option<&Spanned<PathBuf>>) -> Result<Option<String>> {
        if self.process.api_keys.is_some() {
            return Ok(self.process.api_keys.clone());
        }
        let Some(file) = file else { return Ok(None) };
        let path = self.directory.join(file.get_ref());
        let wrong =
            |message: &dyn fmt::Display| self.at(file, format!("the API keys file {}: {message}", path.display()));
        let text = std::fs::read_to_string(&path)
            .map_err(|error| wrong(&format!("it can't be read: {}", unreadable(&error))))?;
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            if !key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') {
                let message = "a key is visible ASCII without spaces and commas; write one key per line";
                return Err(wrong(&format!("line {}: {message}", index + 1)));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(wrong(&"it holds no key; write one key per line, or remove this line of the manifest"));
        }
        Ok(Some(keys.join(",")))
    }

    /// The components of the built-in manifest, for one of the user's that has no `[components]`.
    fn builtin_components(&self, keys: Option<&str>) -> Result<Vec<Component>> {
        let document = Document { file: "built-in manifest".to_owned(), text: builtin::MANIFEST };
        let typed: file::File = toml::from_str(document.text).map_err(|error| document.parse_error(&error))?;
        let resolver = Resolver {
            args: self.args,
            process: self.process,
            document,
            directory: self.directory.clone(),
            current: self.current.clone(),
            notes: Vec::new(),
        };
        resolver.components(typed.components.expect("the built-in manifest has components"), keys)
    }

    fn components(
        &self,
        typed: Spanned<BTreeMap<Spanned<String>, file::Component>>,
        keys: Option<&str>,
    ) -> Result<Vec<Component>> {
        let place = self.document.place(Some(typed.span()));
        let mut routes: HashMap<Route, (String, Place)> = HashMap::new();
        let mut instances: HashMap<(Namespace, Name), (String, Place)> = HashMap::new();
        let mut components = Vec::new();
        for (name, typed) in typed.into_inner() {
            let name_place = self.document.place(Some(name.span()));
            let name = name.into_inner();
            if let Some(route) = &typed.route {
                let place = self.document.place(Some(route.span()));
                let shown = &route.get_ref().0;
                if let Some((other, line)) = routes.insert(route.get_ref().clone(), (name.clone(), place.clone())) {
                    return Err(place.error(format!(
                        "the route \"{shown}\" of \"{name}\" is also that of \"{other}\" ({line}); change one of them"
                    )));
                }
            }
            let instances_span = typed.instances.as_ref().map(Spanned::span);
            let component = self.component(name.clone(), &name_place, typed, keys)?;
            let place = instances_span.map_or(name_place, |span| self.document.place(Some(span)));
            for instance in &component.spec.instances {
                let member = (component.spec.namespace.clone(), instance.clone());
                if let Some((other, line)) = instances.insert(member, (name.clone(), place.clone())) {
                    let namespace = &component.spec.namespace;
                    return Err(place.error(format!(
                        "the instance \"{instance}\" of \"{name}\" is already in the namespace \"{namespace}\", \
                         as one of \"{other}\" ({line}); rename one of them"
                    )));
                }
            }
            components.push(component);
        }
        if components.is_empty() {
            return Err(place.error(
                "[components] is empty; declare one, like [components.echo] with source = \"builtin:echo\", \
                 or remove the table to run the built-in components",
            ));
        }
        Ok(components)
    }

    fn component(&self, name: String, place: &Place, typed: file::Component, keys: Option<&str>) -> Result<Component> {
        let own_name = name.parse::<Namespace>().map_err(|error| {
            place.error(format!("\"{}\" can't be a component's name: {error}", name.escape_debug()))
        })?;
        let (source, code) =
            source::load(typed.source.get_ref(), &self.directory).map_err(|error| self.at(&typed.source, error))?;
        let handlers = match typed.handlers {
            Some(handlers) => self.handlers(handlers)?,
            None => builtin::handlers(typed.source.get_ref()),
        };
        let namespace = typed.namespace.map_or(own_name, |parsed| parsed.0);
        let instances = self.instances(&name, place, typed.instances)?;
        let gateway_keys = keys.filter(|_| typed.source.get_ref() == "builtin:gateway");
        let environment = self.environment(typed.environment, gateway_keys)?;
        let config = self.config(typed.config)?;
        let outbound = match &typed.allowed_outbound_hosts {
            Some(rules) => OutboundPolicy::parse(rules.get_ref()).map_err(|error| self.at(rules, error))?,
            None => OutboundPolicy::default(),
        };
        let buckets = typed.key_value_buckets.map_or(Ok(Buckets::default()), |names| self.buckets(names))?;
        let directories = typed.directories.into_iter();
        let directories = directories.map(|(guest, host)| self.directory(guest, host)).collect::<Result<_>>()?;
        let sockets = typed.sockets.into_iter().map(|socket| SocketRule { address: socket.0 }).collect();

        let default = Limits::default();
        let count = |typed: Option<crate::value::Count>, default| typed.map_or(default, |count| count.0 as usize);
        let limits = Limits {
            max_guests: count(typed.max_guests, default.max_guests),
            queue: typed.queue.map_or(default.queue, |count| count.0 as usize),
            queue_timeout: typed.queue_timeout.map_or(default.queue_timeout, |wait| wait.0),
            max_instance_reuse_count: typed
                .max_instance_reuse_count
                .map_or(default.max_instance_reuse_count, |count| u64::from(count.0)),
            max_instance_concurrent_reuse_count: count(
                typed.max_instance_concurrent_reuse_count,
                default.max_instance_concurrent_reuse_count,
            ),
            idle_instance_timeout: typed.idle_instance_timeout.map_or(default.idle_instance_timeout, |time| time.0),
            request_timeout: typed.request_timeout.map_or(default.request_timeout, |time| time.0),
            memory: self.memory(typed.memory_limit)?.unwrap_or(default.memory),
            table_elements: self.table_elements(typed.table_elements, default.table_elements)?,
            resources: count(typed.resources, default.resources),
        };
        let default = SwapPolicy::default();
        let swap = SwapPolicy {
            watch: typed.watch.unwrap_or(default.watch),
            watch_for: typed.watch_for.map_or(default.watch_for, |time| time.0),
            rollback_threshold: typed.rollback_threshold.map_or(default.rollback_threshold, |share| share.0),
            drain_timeout: typed.drain_timeout.map_or(default.drain_timeout, |time| time.0),
            rehearse: typed.rehearse.map_or(default.rehearse, |count| count.0),
            promote: typed.promote.map_or(default.promote, |promote| promote.0),
        };
        Ok(Component {
            place: self.document.place(Some(typed.source.span())),
            source,
            code,
            swap,
            spec: ComponentSpec {
                name,
                route: typed.route.map(|route| route.into_inner().0),
                handlers,
                namespace,
                instances,
                environment,
                config,
                outbound,
                buckets,
                directories,
                sockets,
                limits,
                health: self.health(typed.health_check)?,
            },
        })
    }

    fn handlers(
        &self,
        typed: Spanned<BTreeMap<Spanned<String>, file::Parsed<PathPattern>>>,
    ) -> Result<Vec<(String, PathPattern)>> {
        let count = typed.get_ref().len();
        if count > MOST_HANDLERS {
            return Err(self.at(&typed, format!("{count} handlers are too many: at most {MOST_HANDLERS}")));
        }
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let named = typed.into_inner().into_iter().map(|(name, pattern)| {
            let text = name.get_ref();
            if !HANDLER_NAME.contains(&text.len()) || !text.bytes().all(allowed) {
                let message =
                    format!("\"{}\" can't be a label: write 1 to 32 characters of a-z, 0-9 and _", text.escape_debug());
                return Err(self.at(&name, message));
            }
            Ok((name.into_inner(), pattern.0))
        });
        named.collect()
    }

    fn instances(
        &self,
        component: &str,
        place: &Place,
        typed: Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Result<Vec<Name>> {
        let Some(typed) = typed else {
            let name = component.parse().map_err(|error| place.error(format!("\"{component}\": {error}")))?;
            return Ok(vec![name]);
        };
        let count = typed.get_ref().len();
        if count == 0 || count > MOST_INSTANCES {
            return Err(self.at(&typed, format!("{count} instances: a component has 1 to {MOST_INSTANCES}")));
        }
        let mut names: Vec<Name> = Vec::with_capacity(count);
        for typed in typed.into_inner() {
            let place = self.document.place(Some(typed.span()));
            let name = typed.get_ref();
            let name: Name =
                name.parse().map_err(|error| place.error(format!("\"{}\": {error}", name.escape_debug())))?;
            if names.contains(&name) {
                return Err(place.error(format!("the instance \"{name}\" is there twice; rename one of them")));
            }
            names.push(name);
        }
        Ok(names)
    }

    /// The flags' variables beat the manifest's, which beat the API keys that the gateway gets.
    fn environment(
        &self,
        typed: Option<Spanned<file::Unprinted>>,
        keys: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        let mut environment = BTreeMap::new();
        if let Some(keys) = keys {
            environment.insert(API_KEYS.to_owned(), keys.to_owned());
        }
        for (key, value) in self.texts("environment", typed)? {
            let name = key.get_ref();
            if name.is_empty() || name.contains(['=', '\0']) {
                let message = format!(
                    "\"{}\" can't be a variable's name: it must not be empty or contain \"=\"",
                    name.escape_debug()
                );
                return Err(self.at(&key, message));
            }
            if value.get_ref().contains('\0') {
                return Err(self.at(&value, "a variable's value can't contain NUL; remove it"));
            }
            environment.insert(key.into_inner(), value.into_inner());
        }
        environment.extend(self.args.environment.iter().cloned());
        Ok(environment.into_iter().collect())
    }

    /// A table of strings. No message has a value: it may be a secret.
    fn texts(
        &self,
        table: &str,
        typed: Option<Spanned<file::Unprinted>>,
    ) -> Result<Vec<(Spanned<String>, Spanned<String>)>> {
        let Some(typed) = typed else { return Ok(Vec::new()) };
        let span = typed.span();
        let file::Unprinted::Table(pairs) = typed.into_inner() else {
            let message =
                format!("\"{table}\" is not a table of strings; write it like {table} = {{ NAME = \"value\" }}");
            return Err(self.document.place(Some(span)).error(message));
        };
        let pairs = pairs.into_iter().map(|(key, value)| {
            let span = value.span();
            match value.into_inner() {
                file::Unprinted::Text(text) => Ok((key, Spanned::new(span, text))),
                _ => {
                    let name = key.get_ref().escape_debug();
                    let message = format!("the value of \"{name}\" in {table}: expected a string; write it in quotes");
                    Err(self.document.place(Some(span)).error(message))
                }
            }
        });
        pairs.collect()
    }

    fn config(&self, typed: Option<Spanned<file::Unprinted>>) -> Result<Vec<(String, String)>> {
        let pairs = self.texts("config", typed)?.into_iter().map(|(key, value)| {
            if key.get_ref().is_empty() {
                return Err(self.at(&key, "a config value needs a name; write one before the \"=\""));
            }
            if value.get_ref().contains(INSTANCE) {
                return Err(self.at(
                    &value,
                    "\"{instance}\" is only known in the values of environment; config is the same for all instances",
                ));
            }
            Ok((key.into_inner(), value.into_inner()))
        });
        pairs.collect()
    }

    fn buckets(&self, typed: Vec<Spanned<String>>) -> Result<Buckets> {
        let mut buckets = Vec::with_capacity(typed.len());
        for name in &typed {
            if name.get_ref() == "*" {
                return Ok(Buckets::All);
            }
            let bucket = name.get_ref().parse();
            buckets.push(bucket.map_err(|error| {
                self.at(name, format!("\"{}\": {error}; \"*\" stands for all", name.get_ref().escape_debug()))
            })?);
        }
        Ok(Buckets::Only(buckets))
    }

    fn directory(&self, guest: Spanned<String>, host: Spanned<file::Directory>) -> Result<Directory> {
        let valid = guest.get_ref().starts_with('/') && !guest.get_ref().contains('\0');
        if !valid {
            let message = format!(
                "\"{}\" is not a path in the guest: it must begin with \"/\", like \"/data\"",
                guest.get_ref().escape_debug()
            );
            return Err(self.at(&guest, message));
        }
        let path = self.directory.join(&host.get_ref().path);
        if path.to_string_lossy().contains(INSTANCE) {
            return Err(self.at(&host, "\"{instance}\" is only known in the values of environment; name a directory"));
        }
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(self.at(&host, format!("{} is not a directory; name one", path.display())));
            }
            Err(error) => {
                let message = format!("the directory {} can't be opened: {error}; create it", path.display());
                return Err(self.at(&host, message));
            }
        }
        Ok(Directory { host: path, guest: guest.into_inner(), writable: host.get_ref().writable })
    }

    fn memory(&self, typed: Option<Spanned<Size>>) -> Result<Option<usize>> {
        typed.map_or(Ok(None), |size| {
            let bytes = size.get_ref().0;
            if MEMORY.contains(&bytes) {
                return Ok(Some(bytes as usize));
            }
            Err(self.at(&size, format!("{} is out of range: 64KiB to 4GiB", size.get_ref())))
        })
    }

    /// The default is also the most that the engine has room for.
    fn table_elements(&self, typed: Option<Spanned<crate::value::Count>>, most: usize) -> Result<usize> {
        typed.map_or(Ok(most), |count| {
            let elements = count.get_ref().0 as usize;
            if elements <= most {
                return Ok(elements);
            }
            Err(self.at(&count, format!("{elements} is out of range: 1 to {most}")))
        })
    }

    fn health(&self, typed: file::HealthCheck) -> Result<HealthCheck> {
        if let Some(path) = &typed.path
            && (!path.get_ref().starts_with('/') || !path.get_ref().bytes().all(|byte| byte.is_ascii_graphic()))
        {
            let message = format!(
                "\"{}\" is not a path to check: it must begin with \"/\" and have no spaces, like \"/healthz\"",
                path.get_ref().escape_debug()
            );
            return Err(self.at(path, message));
        }
        let default = HealthCheck::default();
        Ok(HealthCheck {
            path: typed.path.map(Spanned::into_inner),
            interval: typed.interval.map_or(default.interval, |time| time.0),
            timeout: typed.timeout.map_or(default.timeout, |time| time.0),
            unhealthy_after: typed.unhealthy_after.map_or(default.unhealthy_after, |count| count.0),
            healthy_after: typed.healthy_after.map_or(default.healthy_after, |count| count.0),
        })
    }

    /// A mistake in something that the manifest says.
    fn at<T>(&self, thing: &Spanned<T>, message: impl fmt::Display) -> ManifestError {
        self.document.place(Some(thing.span())).error(message)
    }
}

fn seconds(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds)
}

fn period(typed: Option<Period>, default_seconds: u64) -> std::time::Duration {
    typed.map_or(seconds(default_seconds), |period| period.0)
}

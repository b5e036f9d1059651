//! Whether a file can be run here, and if not, why not and what to do.
//!
//! Every import is looked up in the very linker that guests are instantiated with: a probe, a component that imports
//! nothing but one function or resource, is matched against it. So the report can't differ from what `host run` does.

use std::fmt;

use wasm_encoder::{
    Component as Encoder, ComponentImportSection, ComponentTypeRef, ComponentTypeSection, InstanceType, TypeBounds,
};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre, Linker, ResourceType};
use wasmtime::{Engine, Module};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2, p3};

use crate::engine;
use crate::state::GuestState;

/// The versions under which an interface may be provided when a component asks for another one.
const VERSIONS: [&str; 5] = ["0.3.0", "0.2.0", "0.2.0-draft2", "0.2.0-draft", "0.2.0-rc.1"];

/// The patch versions of an interface that are looked for, from 0.
const MAX_PATCH: u32 = 64;

/// The core module of nothing: magic number and version.
const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// The handler that a component exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// `wasi:http/incoming-handler@0.2`: a guest serves one request at a time.
    Wasi02,
    /// `wasi:http/handler@0.3`: a guest serves many requests at once.
    Wasi03,
}

/// What a component is and needs.
#[derive(Clone, Debug)]
pub struct Report {
    /// The handler it exports, if it exports one that can be served.
    pub world: Option<World>,
    /// Everything it exports.
    pub exports: Vec<String>,
    /// Everything it imports.
    pub imports: Vec<Import>,
    /// Why it can't be linked although every import is there.
    mismatch: Option<String>,
}

/// One import of a component.
#[derive(Clone, Debug)]
pub struct Import {
    /// Its name, for example `wasi:http/types@0.2.3`.
    pub name: String,
    /// Why it isn't there and what to do. `None`: it is there.
    pub missing: Option<Missing>,
    /// The manifest line without which it is there but allows nothing.
    pub grant: Option<&'static str>,
}

/// An import that isn't there.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Why.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

/// Why a component can't be loaded. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file isn't WebAssembly.
    #[error("it isn't WebAssembly: it begins with {beginning}; give it a component (.wasm), not its source")]
    NotWasm {
        /// The first bytes of the file, in a readable form.
        beginning: String,
    },
    /// The file is a core module.
    #[error(
        "it is a core module, not a component; build it for a target that makes components \
         (cargo build --target wasm32-wasip2), or convert it (wasm-tools component new)"
    )]
    CoreModule,
    /// The component is damaged, cut off, or uses what this engine doesn't know.
    #[error("it can't be compiled: {0:#}; if it was copied, copy it again; if not, build it again")]
    Invalid(wasmtime::Error),
    /// The component is sound but can't be run here.
    #[error("{0}")]
    Unfit(Box<Report>),
}

impl Report {
    /// Whether `host run` could load it.
    pub fn is_fit(&self) -> bool {
        self.world.is_some() && self.mismatch.is_none() && self.imports.iter().all(|import| import.missing.is_none())
    }
}

/// The problems, one a line, or that there is none.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = Vec::new();
        if self.world.is_none() {
            let exports = if self.exports.is_empty() { "nothing".to_owned() } else { self.exports.join(", ") };
            lines.push(format!(
                "it exports {exports}, but neither wasi:http/handler@0.3 nor wasi:http/incoming-handler@0.2; \
                 only HTTP components can be served"
            ));
        }
        for import in &self.imports {
            if let Some(Missing { reason, fix }) = &import.missing {
                lines.push(format!("it imports {}: {reason}; {fix}", import.name));
            }
        }
        if let Some(mismatch) = &self.mismatch {
            lines.push(format!("an import has another type than what is provided: {mismatch}"));
        }
        if lines.is_empty() {
            lines.push("it can be run".into());
        }
        f.write_str(&lines.join("\n"))
    }
}

/// Compiles a component and makes it ready to be instantiated.
///
/// # Errors
/// See [`LoadError`].
pub(crate) fn prepare(
    engine: &Engine,
    linker: &Linker<GuestState>,
    bytes: &[u8],
) -> Result<ProxyPre<GuestState>, LoadError> {
    let component = compile(engine, bytes)?;
    let unfit = |mismatch| LoadError::Unfit(Box::new(report(engine, linker, &component, mismatch)));
    let pre = linker.instantiate_pre(&component).map_err(|error| unfit(Some(error)))?;
    let (_, pre) = world_of(pre).ok_or_else(|| unfit(None))?;
    Ok(pre)
}

/// Looks at a component without running it.
///
/// # Errors
/// It isn't a component that can be compiled.
pub(crate) fn check(engine: &Engine, linker: &Linker<GuestState>, bytes: &[u8]) -> Result<Report, LoadError> {
    let component = compile(engine, bytes)?;
    Ok(report(engine, linker, &component, linker.instantiate_pre(&component).err()))
}

fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, LoadError> {
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', ..] => engine::compile(engine, bytes).map_err(LoadError::Invalid),
        [] => Err(LoadError::NotWasm { beginning: "nothing (the file is empty)".into() }),
        _ => {
            let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).into_owned();
            Err(LoadError::NotWasm { beginning: format!("{beginning:?}") })
        }
    }
}

fn world_of(pre: InstancePre<GuestState>) -> Option<(World, ProxyPre<GuestState>)> {
    if let Ok(pre) = p3::bindings::ServicePre::new(pre.clone()) {
        return Some((World::Wasi03, ProxyPre::P3(pre)));
    }
    let pre = p2::bindings::ProxyPre::new(pre).ok()?;
    Some((World::Wasi02, ProxyPre::P2(pre)))
}

fn report(
    engine: &Engine,
    linker: &Linker<GuestState>,
    component: &Component,
    error: Option<wasmtime::Error>,
) -> Report {
    let ty = component.component_type();
    let exports: Vec<String> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    let mut provided = Provided { engine, linker, resources: Vec::new() };
    let imports: Vec<Import> = ty.imports(engine).map(|(name, item)| provided.look_up(name, &item.ty)).collect();
    let exports_handler = |handler: &str| exports.iter().any(|export| export.starts_with(handler));
    let world = if exports_handler("wasi:http/handler@0.3.") {
        Some(World::Wasi03)
    } else if exports_handler("wasi:http/incoming-handler@0.2.") {
        Some(World::Wasi02)
    } else {
        None
    };
    let named = imports.iter().any(|import| import.missing.is_some());
    let mismatch = error.filter(|_| !named).map(|error| format!("{error:#}"));
    Report { world, exports, imports, mismatch }
}

/// What the linker provides.
struct Provided<'a> {
    engine: &'a Engine,
    linker: &'a Linker<GuestState>,
    /// Those that were looked up: an interface that uses one of another interface has it under a name of its own.
    resources: Vec<ResourceType>,
}

/// An item of an interface that can be probed for.
#[derive(Clone)]
enum Item {
    Function(String),
    Resource(String),
}

impl Provided<'_> {
    fn look_up(&mut self, name: &str, item: &ComponentItem) -> Import {
        let missing = match item {
            ComponentItem::ComponentInstance(instance) => {
                let items: Vec<Item> = instance
                    .exports(self.engine)
                    .filter_map(|(name, item)| match item.ty {
                        // Methods come with their resource.
                        ComponentItem::ComponentFunc(_) if !name.starts_with('[') => Some(Item::Function(name.into())),
                        ComponentItem::Resource(resource) if !self.resources.contains(&resource) => {
                            self.resources.push(resource);
                            Some(Item::Resource(name.into()))
                        }
                        _ => None,
                    })
                    .collect();
                self.missing_from(name, &items)
            }
            ComponentItem::Type(_) => None,
            _ => Some(Missing {
                reason: "it isn't part of an interface".into(),
                fix: "compose the component with one that exports it (wac plug)".into(),
            }),
        };
        Import { name: name.to_owned(), missing, grant: grant(name) }
    }

    fn missing_from(&self, interface: &str, items: &[Item]) -> Option<Missing> {
        let absent: Vec<&Item> = items.iter().filter(|item| !self.has(interface, item)).collect();
        if absent.is_empty() {
            return None;
        }
        if absent.len() < items.len() || self.knows(interface) {
            let names: Vec<&str> = absent.iter().map(|item| item.name()).collect();
            return Some(Missing {
                reason: format!("this host's version of it has no {}", names.join(", ")),
                fix: "build the component for an older version of the interface".into(),
            });
        }
        let (package, version) = interface.split_once('@').unwrap_or((interface, ""));
        let near = VERSIONS
            .iter()
            .find(|near| **near != version && items.iter().all(|item| self.has(&format!("{package}@{near}"), item)));
        let provides = near.map(|near| match near.strip_suffix(".0") {
            Some(series) => format!("{series}.x"),
            None => (*near).to_owned(),
        });
        Some(match provides {
            Some(provided) => Missing {
                reason: format!("this host doesn't provide version {version} of it, but {provided}"),
                fix: format!("build the component for {package}@{provided}"),
            },
            None => Missing { reason: "this host doesn't provide it".into(), fix: alternative(package) },
        })
    }

    /// Whether the linker has this interface at all, in a version that a component which asks for this one would get.
    fn knows(&self, interface: &str) -> bool {
        let Some((package, version)) = interface.split_once('@') else { return false };
        let Some((series, _)) = version.rsplit_once('.').filter(|_| !version.contains('-')) else { return false };
        let Ok(module) = Module::new(self.engine, EMPTY_MODULE) else { return false };
        let mut linker = self.linker.clone();
        // To define what is defined already is an error.
        (0..MAX_PATCH).any(|patch| linker.root().module(&format!("{package}@{series}.{patch}"), &module).is_err())
    }

    /// Whether the linker has this item, whatever its type.
    fn has(&self, interface: &str, item: &Item) -> bool {
        let Ok(probe) = Component::new(self.engine, probe(interface, item)) else { return false };
        match self.linker.instantiate_pre(&probe) {
            Ok(_) => true,
            Err(error) => !format!("{error:#}").contains("implementation is missing"),
        }
    }
}

impl Item {
    fn name(&self) -> &str {
        let (Self::Function(name) | Self::Resource(name)) = self;
        name
    }
}

/// A component that imports nothing but this item.
fn probe(interface: &str, item: &Item) -> Vec<u8> {
    let mut instance = InstanceType::new();
    match item {
        Item::Function(name) => {
            instance.ty().function().params([] as [(&str, wasm_encoder::PrimitiveValType); 0]).result(None);
            instance.export(name, ComponentTypeRef::Func(0));
        }
        Item::Resource(name) => {
            instance.export(name, ComponentTypeRef::Type(TypeBounds::SubResource));
        }
    }
    let mut types = ComponentTypeSection::new();
    types.instance(&instance);
    let mut imports = ComponentImportSection::new();
    imports.import(interface, ComponentTypeRef::Instance(0));
    let mut component = Encoder::new();
    component.section(&types).section(&imports);
    component.finish()
}

/// What to use instead of an interface that isn't provided in any version.
fn alternative(package: &str) -> String {
    let known = match package {
        _ if package.contains("key-value") => Some("wasi:keyvalue/store@0.2.0-draft2"),
        "fermyon:spin/variables" | "fermyon:spin/config" => Some("wasi:config/store@0.2.0-rc.1"),
        _ if package.contains("http") => Some("wasi:http/outgoing-handler@0.2.x or wasi:http/client@0.3.x"),
        _ => None,
    };
    match known {
        Some(known) => format!("use {known} instead"),
        None => "compose the component with one that exports it (wac plug), or do without".into(),
    }
}

/// The manifest line without which an interface is there but allows nothing.
fn grant(name: &str) -> Option<&'static str> {
    if name.starts_with("wasi:filesystem/preopens") {
        Some("directories = { \"/guest/path\" = \"./host/path\" }")
    } else if name.starts_with("wasi:sockets/tcp@") || name.starts_with("wasi:sockets/types@") {
        Some("sockets = [\"10.0.0.5:5432\"]")
    } else if name.starts_with("wasi:http/outgoing-handler") || name.starts_with("wasi:http/client") {
        Some("allowed-outbound-hosts = [\"https://api.example.com\"]")
    } else {
        None
    }
}

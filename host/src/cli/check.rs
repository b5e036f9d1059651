//! `host check`.

use std::fmt::Write;

use anyhow::Context;
use runtime::{Compiler, World};

use super::{CheckArgs, Exit, exit, print};

/// Prints what a component exports and imports, and what stands in the way of running it.
///
/// # Errors
/// `host run` could not load it.
pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let file = args.file.display();
    let bytes = std::fs::read(&args.file).with_context(|| format!("{file} can't be read"))?;
    let report = Compiler::new(None, 1)?.check(&bytes).map_err(|error| anyhow::anyhow!("{file}: {error}"))?;

    let mut text = String::new();
    let world = match report.world {
        Some(World::Wasi03) => "wasi:http/handler@0.3 (a guest serves many requests at once)",
        Some(World::Wasi02) => "wasi:http/incoming-handler@0.2 (a guest serves one request at a time)",
        None => "no HTTP handler",
    };
    writeln!(text, "{file} exports {world}")?;
    for import in &report.imports {
        let state = if import.missing.is_some() { "MISSING" } else { "ok" };
        write!(text, "  {state:<8}{}", import.name)?;
        if let Some(line) = import.grant {
            write!(text, "  (allows nothing without a line in the manifest, like {line})")?;
        }
        writeln!(text)?;
    }
    print(&text)?;
    if report.is_fit() {
        return print("it can be run\n");
    }
    Err(Exit::new(exit::FAILED, format!("{file} can't be run:\n{report}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_components_can_be_run() {
        let compiler = Compiler::new(None, 1).expect("this machine runs the engine");
        for name in crate::builtin::names() {
            let bytes = crate::builtin::component(name).expect("it is listed");
            let report = compiler.check(bytes).expect("it is a component");
            assert!(report.is_fit(), "{name}: {report}");
        }
    }

    #[test]
    fn what_is_no_component_fails_with_the_reason() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("text.wasm");
        std::fs::write(&file, "hello, world").expect("a writable folder");
        for (file, said) in [(file, "isn't WebAssembly"), (folder.path().join("nowhere"), "can't be read")] {
            let error = check(&CheckArgs { file }).expect_err(said);
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
    }
}

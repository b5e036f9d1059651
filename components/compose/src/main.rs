//! `compose SOCKET.wasm PLUG.wasm OUTPUT.wasm`: gives the socket those of its imports that the plug exports.
//!
//! Used by `serve.sh` to make `gateway-standalone.wasm` of the gateway and registry-static. Other tools do the same,
//! for example `wac plug`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, PackageId, plug};

fn main() -> Result<()> {
    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [socket, filler, output] = files.as_slice() else {
        bail!("usage: compose SOCKET.wasm PLUG.wasm OUTPUT.wasm");
    };
    let mut graph = CompositionGraph::new();
    let socket_package = load(&mut graph, "socket", socket)?;
    let filler_package = load(&mut graph, "plug", filler)?;
    plug(&mut graph, vec![filler_package], socket_package)
        .with_context(|| format!("{} has nothing that {} imports", filler.display(), socket.display()))?;
    let component = graph.encode(EncodeOptions::default()).context("the composition can't be encoded")?;
    std::fs::write(output, component).with_context(|| format!("can't write {}", output.display()))
}

fn load(graph: &mut CompositionGraph, name: &str, file: &Path) -> Result<PackageId> {
    let bytes = std::fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
    let package = Package::from_bytes(name, None, bytes, graph.types_mut())
        .with_context(|| format!("{} is not a component", file.display()))?;
    Ok(graph.register_package(package)?)
}

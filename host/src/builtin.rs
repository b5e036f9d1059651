//! What is inside the binary: the guests that `build.rs` built, and the manifest that `host run` uses without `-f`.

/// The manifest of the built-in assembly.
pub(crate) const MANIFEST: &str = include_str!("builtin.toml");

/// Names that may follow `builtin:` in a component's `source`, with the component's bytes.
const COMPONENTS: [(&str, &[u8]); 3] = [
    ("gateway", include_bytes!(env!("HOSTLER_GATEWAY_WASM"))),
    ("storage", include_bytes!(env!("HOSTLER_STORAGE_WASM"))),
    ("echo", include_bytes!(env!("HOSTLER_ECHO_WASM"))),
];

/// The bytes of the embedded component `name`.
pub(crate) fn component(name: &str) -> Option<&'static [u8]> {
    COMPONENTS.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}

/// The names of the embedded components.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    COMPONENTS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_component_is_a_component() {
        for name in names() {
            let bytes = component(name).expect("it is listed");
            assert_eq!(&bytes[..8], b"\0asm\x0d\0\x01\0", "{name}");
        }
        assert_eq!(component("nonsense"), None);
    }
}

//! What is inside the binary: the guests that `build.rs` built, and the manifest that `host run` uses without `-f`.

use runtime::PathPattern;

/// The manifest of the built-in assembly.
pub(crate) const MANIFEST: &str = include_str!("builtin.toml");

/// Names that may follow `builtin:` in a component's `source`, with the component's bytes.
const COMPONENTS: [(&str, &[u8]); 3] = [
    ("gateway", include_bytes!(env!("HOSTLER_GATEWAY_WASM"))),
    ("storage", include_bytes!(env!("HOSTLER_STORAGE_WASM"))),
    ("echo", include_bytes!(env!("HOSTLER_ECHO_WASM"))),
];

/// What the public paths of the embedded components are called in metrics and the log, unless the manifest says it.
const HANDLERS: [(&str, &str, &str); 13] = [
    ("gateway", "data", "/data"),
    ("gateway", "status", "/status"),
    ("gateway", "health", "/health"),
    ("gateway", "api_set", "/api/set"),
    ("gateway", "api_get", "/api/get"),
    ("gateway", "api_delete", "/api/delete"),
    ("gateway", "v1_values", "/v1/values"),
    ("gateway", "v1_value", "/v1/values/*"),
    ("gateway", "services", "/services/*"),
    ("storage", "data", "/data"),
    ("storage", "kv_set", "/kv/set"),
    ("storage", "kv_get", "/kv/get"),
    ("storage", "kv_delete", "/kv/delete"),
];

/// The handlers of the component that is written so as a `source`. Of others, nothing is known.
pub(crate) fn handlers(source: &str) -> Vec<(String, PathPattern)> {
    let Some(name) = source.strip_prefix("builtin:") else { return Vec::new() };
    let own = HANDLERS.iter().filter(|(component, ..)| *component == name);
    own.map(|(_, name, pattern)| ((*name).to_owned(), pattern.parse().expect("it is a pattern"))).collect()
}

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
    fn the_handlers_are_those_of_embedded_components() {
        let known: usize = names().map(|name| handlers(&format!("builtin:{name}")).len()).sum();
        assert_eq!(known, HANDLERS.len());
        assert_eq!(handlers("./gateway.wasm"), []);
    }

    #[test]
    fn every_embedded_component_is_a_component() {
        for name in names() {
            let bytes = component(name).expect("it is listed");
            assert_eq!(&bytes[..8], b"\0asm\x0d\0\x01\0", "{name}");
        }
        assert_eq!(component("nonsense"), None);
    }
}

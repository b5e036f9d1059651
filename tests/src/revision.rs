//! Revisions: copies of one guest that differ in their stamps, and files that can't be one.

use crate::artifact;

/// How the mark in the bytes of a guest begins. See `tests/guests/stamp`.
const MARK: &[u8] = b"hostler-stamp:";

/// A guest of the family `stamped`, of this number: what its answers say.
pub fn stamped(guest: &str, number: u32) -> Vec<u8> {
    unwell(guest, "", number)
}

/// A component that has become larger by some 600 KiB, more than is written to disk in one go.
pub fn enlarged(mut component: Vec<u8>) -> Vec<u8> {
    // A custom section without a name: its kind, its length in LEB128, the length of its name, and what is in it.
    component.extend([0, 0x80, 0x80, 0x25, 0]);
    component.resize(component.len() + 0x25 * 0x4000 - 1, 0);
    component
}

/// The same as [`stamped`], which behaves as this kind does. The guest `stamped` has some.
pub fn unwell(guest: &str, kind: &str, number: u32) -> Vec<u8> {
    let mut bytes = std::fs::read(artifact::guest(guest)).expect("it was built");
    let mut marks = bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let (at, _) = marks.next().expect("the guest has a stamp");
    assert_eq!(marks.next(), None, "the guest has one stamp");
    let text = format!("{kind:.<8}:{number:06}");
    assert_eq!(text.len(), 15, "a kind has at most 8 letters, a number 6 digits");
    bytes[at + MARK.len()..][..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

/// What names these bytes: their SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that can't become a revision.
pub struct Bad {
    /// What is wrong with them.
    pub kind: &'static str,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What whoever sends them must be told.
    pub reason: &'static str,
}

/// One of each kind of what can't become a revision. Those of another number are other bytes.
pub fn bad(number: u32) -> Vec<Bad> {
    let unmet = "(component (import \"acme:rocket/launch@1.0.0\" (instance (export \"ignite\" (func)))))";
    let whole = stamped("stamped", number);
    let trap = std::fs::read(artifact::guest("instantiation-trap")).expect("it was built");
    let sick = |kind| unwell("stamped", kind, number);
    [
        ("text", format!("no component, number {number}\n").into_bytes(), "isn't WebAssembly"),
        ("half a file", whole[..whole.len() / 2].to_vec(), ""),
        ("a core module", numbered(text("(module)"), number), "core module"),
        ("another world", numbered(text("(component)"), number), "wasi:http/handler@0.3"),
        ("an unmet import", numbered(text(unmet), number), "acme:rocket/launch@1.0.0"),
        ("traps on start", numbered(trap, number), "trap"),
        ("fails its health check", sick("unwell"), "health check"),
        ("hangs in its health check", sick("hangs"), "health check"),
        ("loops in its health check", sick("spins"), "health check"),
        ("traps in its health check", sick("traps"), "health check"),
        ("allocates without end", sick("greedy"), "health check"),
    ]
    .map(|(kind, bytes, reason)| Bad { kind, bytes, reason })
    .into()
}

fn text(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("a test's component")
}

/// The same with a custom section behind it, which makes other bytes of it and nothing else.
pub fn numbered(mut bytes: Vec<u8>, number: u32) -> Vec<u8> {
    let name = b"number";
    let length = u8::try_from(1 + name.len() + 4).expect("short enough for one byte of LEB128");
    bytes.extend([0, length, 6]);
    bytes.extend(name);
    bytes.extend(number.to_le_bytes());
    bytes
}

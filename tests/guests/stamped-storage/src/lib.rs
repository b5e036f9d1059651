//! The storage, with its revision's number behind its name: `storage-1@000012`. For tests only.
//!
//! It is the real one, shell and all. Only its environment is changed before it reads it.

#![cfg(target_family = "wasm")]
#![allow(unsafe_code, reason = "a constructor is a function in a link section, and environments are shared by threads")]

// For what it exports.
use storage as _;

const NAME: &str = "STORAGE_NAME";

extern "C" fn rename() {
    let name = std::env::var(NAME).unwrap_or_else(|_| "storage".to_owned());
    // SAFETY: the guest has one thread.
    unsafe { std::env::set_var(NAME, format!("{name}@{}", stamp::number())) };
}

#[used]
#[unsafe(link_section = ".init_array")]
static RENAME: extern "C" fn() = rename;

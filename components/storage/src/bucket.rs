//! The values, in the default bucket of a standard `wasi:keyvalue` store.
//!
//! The bucket is opened by the first request that needs it and stays open for the guest's life: some hosts (stock
//! `wasmtime serve`) give an empty store to every `open`, and opening costs a call.

use std::cell::OnceCell;

use crate::bindings::wasi::keyvalue0_2_0_draft::store::{self, Bucket, Error};
use crate::service::{StoreError, Values};

/// The default bucket.
#[derive(Default)]
pub(crate) struct DefaultBucket(OnceCell<Bucket>);

impl DefaultBucket {
    fn open(&self) -> Result<&Bucket, StoreError> {
        if let Some(bucket) = self.0.get() {
            return Ok(bucket);
        }
        let bucket = store::open("")?;
        Ok(self.0.get_or_init(|| bucket))
    }
}

impl Values for DefaultBucket {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.open()?.get(key)?)
    }

    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        Ok(self.open()?.set(key, value)?)
    }

    /// The standard's `delete` doesn't say whether the key was there, so two requests that delete one key at the same
    /// time may both be told that they did.
    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let bucket = self.open()?;
        let existed = bucket.exists(key)?;
        if existed {
            bucket.delete(key)?;
        }
        Ok(existed)
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        StoreError(match error {
            Error::NoSuchStore => "store_unavailable: the host has no default bucket".to_owned(),
            Error::AccessDenied => "store_unavailable: the host denies access to the default bucket".to_owned(),
            Error::Other(text) => text,
        })
    }
}

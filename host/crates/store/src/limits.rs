//! How large keys, values, batches and the whole store may be.

use bytes::Bytes;

use crate::Error;

/// A store's bounds. Fixed for its lifetime; every backend checks with the methods here, so that all refuse the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Bytes that the store may hold: keys, values, and [`Limits::KEY_OVERHEAD`] for each key.
    pub total: u64,
    /// Keys in one batch or one page.
    pub batch: usize,
    /// Bytes of all keys and values in one batch to be set, and of all values in one that is read.
    pub batch_bytes: usize,
}

/// Keys of 1 KiB, values of 1 MiB, 1 GiB in total, 1,000 keys and 16 MiB in a batch.
impl Default for Limits {
    fn default() -> Self {
        Self { key: 1 << 10, value: 1 << 20, total: 1 << 30, batch: 1000, batch_bytes: 16 << 20 }
    }
}

impl Limits {
    /// Bytes of memory that a key takes besides its own and its value's, roughly. Counted against [`Limits::total`]:
    /// otherwise a store full of tiny keys would take many times its limit.
    pub const KEY_OVERHEAD: u64 = 128;

    /// Refuses an empty key and one that is too large.
    ///
    /// # Errors
    /// [`Error::EmptyKey`], [`Error::KeyTooLarge`].
    pub fn check_key(&self, key: &str) -> Result<(), Error> {
        match key.len() {
            0 => Err(Error::EmptyKey),
            len if len > self.key => Err(Error::KeyTooLarge { len, limit: self.key }),
            _ => Ok(()),
        }
    }

    /// Refuses a value that is too large.
    ///
    /// # Errors
    /// [`Error::ValueTooLarge`].
    pub fn check_value(&self, value: &[u8]) -> Result<(), Error> {
        match value.len() {
            len if len > self.value => Err(Error::ValueTooLarge { len, limit: self.value }),
            _ => Ok(()),
        }
    }

    /// Refuses a batch of too many keys, or with a bad one.
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`], and those of [`Limits::check_key`].
    pub fn check_keys(&self, keys: &[String]) -> Result<(), Error> {
        self.check_batch(keys.len())?;
        keys.iter().try_for_each(|key| self.check_key(key))
    }

    /// Refuses a batch of too many keys or bytes, or with a bad key or value.
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`], [`Error::BatchTooHeavy`], and those of [`Limits::check_key`] and [`Limits::check_value`].
    pub fn check_values(&self, values: &[(String, Bytes)]) -> Result<(), Error> {
        self.check_batch(values.len())?;
        values.iter().try_for_each(|(key, value)| {
            self.check_key(key)?;
            self.check_value(value)
        })?;
        self.check_weight(values.iter().map(|(key, value)| key.len() + value.len()).sum())
    }

    /// Refuses to hand out more bytes at once than could have been set at once.
    ///
    /// # Errors
    /// [`Error::BatchTooHeavy`].
    pub fn check_found<'v>(&self, values: impl IntoIterator<Item = &'v Bytes>) -> Result<(), Error> {
        self.check_weight(values.into_iter().map(Bytes::len).sum())
    }

    fn check_weight(&self, len: usize) -> Result<(), Error> {
        let limit = self.batch_bytes;
        if len > limit { Err(Error::BatchTooHeavy { len, limit }) } else { Ok(()) }
    }

    fn check_batch(&self, len: usize) -> Result<(), Error> {
        if len > self.batch { Err(Error::BatchTooLarge { len, limit: self.batch }) } else { Ok(()) }
    }

    /// How many keys a page has that was asked to have `limit`.
    pub fn page(&self, limit: usize) -> usize {
        limit.clamp(1, self.batch.max(1))
    }
}

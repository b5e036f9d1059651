//! `wasi:keyvalue` over the host's store, in both drafts that components use: `0.2.0-draft` (wasmtime's) and
//! `0.2.0-draft2` (Spin's). They differ in cursors, in the type of numbers and in compare-and-swap.
//!
//! An operation waits for the store, and its whole guest waits with it: the interfaces are synchronous. Where the guest need
//! not wait for a write, its answer does: see [`held`].

use std::borrow::Cow;
use std::sync::Arc;

use problem::Code;
use registry::Name;
use store::{Store, Value};
use trace::Tracer;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTableError};

use crate::guest::Guest;
use crate::held;
use crate::state::GuestState;
use crate::steps;
use crate::template::Shared;

/// What is the first draft's own: cursors are numbers.
mod draft {
    use wasmtime::component::Resource;

    use super::{Bucket, Error, MAX_CURSORS};
    pub(super) use crate::capabilities::bindings::wasi::keyvalue0_2_0_draft::{atomics, batch, store};
    use crate::state::GuestState;

    pub(super) type Cursor = u64;

    pub(super) async fn list_keys(
        state: &mut GuestState,
        bucket: Resource<Bucket>,
        cursor: Option<Cursor>,
    ) -> wasmtime::Result<Result<store::KeyResponse, store::Error>> {
        let after = match cursor {
            None => None,
            Some(cursor) => {
                let pages = &state.table.get(&bucket)?.pages;
                match usize::try_from(cursor).ok().and_then(|index| pages.get(index)) {
                    Some(key) => Some(key.clone()),
                    None => return Ok(Err(store::Error::Other(format!("{cursor} is no cursor of this bucket")))),
                }
            }
        };
        let page = match state.page(&bucket, after.as_deref()).await? {
            Ok(page) => page,
            Err(error) => return Ok(Err(error.into())),
        };
        let cursor = match page.next {
            None => None,
            Some(last) => {
                let pages = &mut state.table.get_mut(&bucket)?.pages;
                if pages.len() == MAX_CURSORS {
                    let text = format!("{MAX_CURSORS} pages of this bucket were listed; open it again to go on");
                    return Ok(Err(Error::Other(text).into()));
                }
                pages.push(last);
                Some(pages.len() as u64 - 1)
            }
        };
        Ok(Ok(store::KeyResponse { keys: page.keys, cursor }))
    }

    impl atomics::Host for GuestState {
        async fn increment(
            &mut self,
            bucket: Resource<Bucket>,
            key: String,
            delta: u64,
        ) -> wasmtime::Result<Result<u64, store::Error>> {
            let Ok(delta) = i64::try_from(delta) else { return Ok(Err(::store::Error::Overflow.into())) };
            Ok(match self.add(&bucket, &key, delta).await? {
                Ok(sum) => u64::try_from(sum).map_err(|_| ::store::Error::NotANumber.into()),
                Err(error) => Err(error.into()),
            })
        }
    }
}

/// What is the second draft's own: cursors are keys, and there is compare-and-swap.
mod draft2 {
    use ::store::Swap;
    use wasmtime::component::Resource;

    use super::{Bucket, Cas};
    pub(super) use crate::capabilities::bindings::wasi::keyvalue0_2_0_draft2::{atomics, batch, store};
    use crate::state::GuestState;

    pub(super) type Cursor = String;

    pub(super) async fn list_keys(
        state: &mut GuestState,
        bucket: Resource<Bucket>,
        cursor: Option<Cursor>,
    ) -> wasmtime::Result<Result<store::KeyResponse, store::Error>> {
        let page = state.page(&bucket, cursor.as_deref()).await?;
        Ok(page.map(|page| store::KeyResponse { keys: page.keys, cursor: page.next }).map_err(Into::into))
    }

    impl atomics::Host for GuestState {
        async fn increment(
            &mut self,
            bucket: Resource<Bucket>,
            key: String,
            delta: i64,
        ) -> wasmtime::Result<Result<i64, store::Error>> {
            Ok(self.add(&bucket, &key, delta).await?.map_err(Into::into))
        }

        async fn swap(
            &mut self,
            cas: Resource<Cas>,
            value: Vec<u8>,
        ) -> wasmtime::Result<Result<(), atomics::CasError>> {
            let cas = self.table.delete(cas)?;
            let swapped = self.key_value.store.swap(&cas.bucket, &cas.key, cas.seen.version, value.into());
            let swapped = self.key_value.write("swap", swapped).await;
            Ok(match swapped {
                Ok(Swap::Done) => Ok(()),
                Ok(Swap::Conflict(seen)) => Err(atomics::CasError::CasFailed(self.table.push(Cas { seen, ..cas })?)),
                Err(error) => Err(atomics::CasError::StoreError(error.into())),
            })
        }
    }

    impl atomics::HostCas for GuestState {
        async fn new(
            &mut self,
            bucket: Resource<Bucket>,
            key: String,
        ) -> wasmtime::Result<Result<Resource<Cas>, store::Error>> {
            let (store, bucket) = self.opened(&bucket)?;
            Ok(match self.key_value.run(store.read_versioned(&bucket, &key)).await {
                Ok(seen) => Ok(self.table.push(Cas { bucket, key, seen })?),
                Err(error) => Err(error.into()),
            })
        }

        async fn current(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Result<Option<Vec<u8>>, store::Error>> {
            Ok(Ok(self.table.get(&cas)?.seen.value.clone().map(Vec::from)))
        }

        async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
            self.table.delete(cas)?;
            Ok(())
        }
    }
}

/// Keys in one page of `list-keys`.
const PAGE: usize = 1000;
/// Pages of one opened bucket that draft 1, whose cursors are numbers, can go on from.
const MAX_CURSORS: usize = 1000;

/// The way from a guest to the store.
pub(crate) struct KeyValue {
    pub(crate) store: Arc<dyn Store>,
    /// Of the guest's revision.
    pub(crate) shared: Arc<Shared>,
    pub(crate) guest: Arc<Guest>,
    pub(crate) instance: Name,
    pub(crate) tracer: Option<Tracer>,
}

impl KeyValue {
    /// Waits for the write that the guest takes for done, so that it finds what it wrote; then for the operation.
    async fn run<T>(&self, operation: impl Future<Output = Result<T, store::Error>>) -> Result<T, store::Error> {
        if let Some(held) = self.guest.held() {
            held.await?;
        }
        operation.await
    }

    /// The same for a write, as a step of the request that it is for.
    async fn write<T>(
        &self,
        operation: &'static str,
        write: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, store::Error> {
        self.run(steps::write(self.tracer.as_ref(), &self.guest, operation, write)).await
    }

    /// Sets a key, or removes it if there is no value. The guest goes on before that is done if its answer can wait instead.
    async fn put(&self, bucket: &store::Bucket, key: &str, value: Option<Value>) -> Result<(), store::Error> {
        let operation = if value.is_some() { "set" } else { "delete" };
        if self.shared.go_on.allows() {
            let begun = self.run(async { self.store.begin(bucket, key, value.as_ref()) }).await?;
            if let Some(begun) = begun {
                let write = held::shared(steps::write(self.tracer.as_ref(), &self.guest, operation, begun));
                return if self.guest.hold(&write) { Ok(()) } else { write.await };
            }
        }
        let written = match value {
            Some(value) => self.write(operation, self.store.set(bucket, key, value)).await,
            None => self.write(operation, self.store.delete(bucket, key)).await.map(drop),
        };
        if written.is_ok() {
            self.shared.go_on.succeeded();
        }
        written
    }

    /// The bucket of this name, if there can be one and the manifest lets the component open it.
    fn admit(&self, name: &str) -> Result<store::Bucket, Error> {
        let bucket = name.parse().map_err(|_| Error::NoSuchStore)?;
        if self.shared.buckets.allows(&bucket) {
            return Ok(bucket);
        }
        tracing::warn!(
            component = &*self.shared.component,
            instance = self.instance.as_str(),
            request_id = self.guest.request_ids(),
            trace_id = self.guest.trace_ids(),
            "the bucket \"{bucket}\" was denied; to allow it, write under [components.{}] in the manifest: {}",
            self.shared.component,
            self.shared.buckets.line_allowing(&bucket)
        );
        Err(Error::AccessDenied)
    }
}

/// A bucket that a guest has opened.
#[allow(unreachable_pub, reason = "the generated code names it publicly")]
pub struct Bucket {
    name: store::Bucket,
    /// The last key of each page that was handed out with a number for a cursor. The number is the index.
    pages: Vec<String>,
}

/// A compare-and-swap under way.
#[allow(unreachable_pub, reason = "the generated code names it publicly")]
pub struct Cas {
    bucket: store::Bucket,
    key: String,
    seen: store::Versioned,
}

/// Why an operation failed, whatever the draft.
enum Error {
    NoSuchStore,
    AccessDenied,
    /// Begins with the problem's code, so that a component can tell a full store from one that is gone.
    Other(String),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        let code = store_error_code(&error).as_str();
        Self::Other(format!("{code}: {}", store_error_detail(&error)))
    }
}

/// What a store's error says to clients, whom some reasons don't concern. Whoever knows those logs them.
pub(crate) fn store_error_detail(error: &store::Error) -> Cow<'static, str> {
    match error {
        store::Error::Unavailable(_) | store::Error::Failed(_) => "the store can't be reached".into(),
        error => error.to_string().into(),
    }
}

/// The problem that a store's error is, wherever it is met.
pub fn store_error_code(error: &store::Error) -> Code {
    match error {
        store::Error::EmptyKey => Code::InvalidKey,
        store::Error::KeyTooLarge { .. } => Code::KeyTooLarge,
        store::Error::ValueTooLarge { .. } => Code::ValueTooLarge,
        store::Error::BatchTooLarge { .. } => Code::BatchTooLarge,
        store::Error::BatchTooHeavy { .. } => Code::BatchTooHeavy,
        store::Error::NotANumber => Code::NotANumber,
        store::Error::Overflow => Code::NumberOverflow,
        store::Error::Full { .. } | store::Error::DiskFull => Code::StoreFull,
        store::Error::Unavailable(_) | store::Error::Failed(_) => Code::StoreUnavailable,
    }
}

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    type State = HasSelf<GuestState>;
    draft::store::add_to_linker::<_, State>(linker, |state| state)?;
    draft::atomics::add_to_linker::<_, State>(linker, |state| state)?;
    draft::batch::add_to_linker::<_, State>(linker, |state| state)?;
    draft2::store::add_to_linker::<_, State>(linker, |state| state)?;
    draft2::atomics::add_to_linker::<_, State>(linker, |state| state)?;
    draft2::batch::add_to_linker::<_, State>(linker, |state| state)
}

impl GuestState {
    fn opened(&self, bucket: &Resource<Bucket>) -> Result<(Arc<dyn Store>, store::Bucket), ResourceTableError> {
        Ok((self.key_value.store.clone(), self.table.get(bucket)?.name.clone()))
    }

    async fn page(
        &mut self,
        bucket: &Resource<Bucket>,
        after: Option<&str>,
    ) -> wasmtime::Result<Result<store::Page, Error>> {
        let (store, bucket) = self.opened(bucket)?;
        Ok(self.key_value.run(store.list(&bucket, after, PAGE)).await.map_err(Error::from))
    }

    async fn add(&mut self, bucket: &Resource<Bucket>, key: &str, delta: i64) -> wasmtime::Result<Result<i64, Error>> {
        let (store, bucket) = self.opened(bucket)?;
        Ok(self.key_value.write("increment", store.increment(&bucket, key, delta)).await.map_err(Error::from))
    }
}

/// What the drafts have in common, to the letter.
macro_rules! implement_draft {
    ($draft:ident) => {
        impl From<Error> for $draft::store::Error {
            fn from(error: Error) -> Self {
                match error {
                    Error::NoSuchStore => Self::NoSuchStore,
                    Error::AccessDenied => Self::AccessDenied,
                    Error::Other(text) => Self::Other(text),
                }
            }
        }

        impl From<store::Error> for $draft::store::Error {
            fn from(error: store::Error) -> Self {
                Error::from(error).into()
            }
        }

        impl $draft::store::Host for GuestState {
            async fn open(
                &mut self,
                identifier: String,
            ) -> wasmtime::Result<Result<Resource<Bucket>, $draft::store::Error>> {
                Ok(match self.key_value.admit(&identifier) {
                    Ok(name) => Ok(self.table.push(Bucket { name, pages: Vec::new() })?),
                    Err(error) => Err(error.into()),
                })
            }
        }

        impl $draft::store::HostBucket for GuestState {
            async fn get(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<Option<Vec<u8>>, $draft::store::Error>> {
                let (store, bucket) = self.opened(&bucket)?;
                Ok(match self.key_value.run(store.get(&bucket, &key)).await {
                    Ok(value) => Ok(value.map(Vec::from)),
                    Err(error) => Err(error.into()),
                })
            }

            async fn set(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
                value: Vec<u8>,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                let bucket = self.table.get(&bucket)?.name.clone();
                Ok(self.key_value.put(&bucket, &key, Some(value.into())).await.map_err(Into::into))
            }

            async fn delete(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                let bucket = self.table.get(&bucket)?.name.clone();
                Ok(self.key_value.put(&bucket, &key, None).await.map_err(Into::into))
            }

            async fn exists(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<bool, $draft::store::Error>> {
                let (store, bucket) = self.opened(&bucket)?;
                Ok(self.key_value.run(store.exists(&bucket, &key)).await.map_err(Into::into))
            }

            async fn list_keys(
                &mut self,
                bucket: Resource<Bucket>,
                cursor: Option<$draft::Cursor>,
            ) -> wasmtime::Result<Result<$draft::store::KeyResponse, $draft::store::Error>> {
                $draft::list_keys(self, bucket, cursor).await
            }

            async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }
        }

        impl $draft::batch::Host for GuestState {
            async fn get_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, $draft::store::Error>> {
                let (store, bucket) = self.opened(&bucket)?;
                Ok(match self.key_value.run(store.get_many(&bucket, &keys)).await {
                    Ok(values) => {
                        let pairs = keys.into_iter().zip(values);
                        Ok(pairs.map(|(key, value)| Some((key, Vec::from(value?)))).collect())
                    }
                    Err(error) => Err(error.into()),
                })
            }

            async fn set_many(
                &mut self,
                bucket: Resource<Bucket>,
                pairs: Vec<(String, Vec<u8>)>,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                let (store, bucket) = self.opened(&bucket)?;
                let pairs = pairs.into_iter().map(|(key, value)| (key, value.into())).collect();
                let set = store.set_many(&bucket, pairs);
                Ok(self.key_value.write("set_many", set).await.map_err(Into::into))
            }

            async fn delete_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                let (store, bucket) = self.opened(&bucket)?;
                let deleted = store.delete_many(&bucket, &keys);
                Ok(self.key_value.write("delete_many", deleted).await.map_err(Into::into))
            }
        }
    };
}

implement_draft!(draft);
implement_draft!(draft2);

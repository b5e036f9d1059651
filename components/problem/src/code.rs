//! The stable codes. Clients match on them, so a code is never renamed and never changes its status.

use std::fmt;

use http::StatusCode;

/// Declares the table: variant, stable name, HTTP status, title, and where it is met.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:ident, $title:literal;)*) => {
        /// Why a request failed, as a name that never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// Every code there is, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The name in `code` and at the end of `type`, in snake_case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// The status of the response.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Code::$variant => StatusCode::$status,)* }
            }

            /// The document's `title`: the same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }

            /// The document's `type`.
            #[must_use]
            pub const fn type_uri(self) -> &'static str {
                match self { $(Code::$variant => concat!("urn:hostler:problem:", $name),)* }
            }
        }
    };
}

codes! {
    /// The body isn't JSON.
    InvalidJson = "invalid_json", BAD_REQUEST, "The body is not valid JSON";
    /// A field, parameter or header is missing or has the wrong type.
    InvalidRequest = "invalid_request", BAD_REQUEST, "The request is not valid";
    /// The key is empty, or not percent-encoded UTF-8.
    InvalidKey = "invalid_key", BAD_REQUEST, "The key is not valid";
    /// The key is longer than [`crate::kv::MAX_KEY`].
    KeyTooLarge = "key_too_large", BAD_REQUEST, "The key is too large";
    /// Neither `x-api-key` nor a valid one came with the request.
    InvalidApiKey = "invalid_api_key", UNAUTHORIZED, "A valid API key is needed";
    /// The internal address wants a bearer token.
    Unauthorized = "unauthorized", UNAUTHORIZED, "A valid token is needed";
    /// A browser sent the request for a page that the address doesn't serve itself.
    ForeignOrigin = "foreign_origin", FORBIDDEN, "The request comes from another site";
    /// No resource has this path.
    NotFound = "not_found", NOT_FOUND, "There is nothing at this path";
    /// The store has no such key.
    KeyNotFound = "key_not_found", NOT_FOUND, "There is no such key";
    /// Nobody ever registered in this namespace.
    UnknownNamespace = "unknown_namespace", NOT_FOUND, "There is no such namespace";
    /// The registry has no such instance (any more).
    UnknownInstance = "unknown_instance", NOT_FOUND, "There is no such instance";
    /// The assembly has no such component.
    UnknownComponent = "unknown_component", NOT_FOUND, "There is no such component";
    /// No such revision of the component is kept.
    UnknownRevision = "unknown_revision", NOT_FOUND, "There is no such revision";
    /// The path exists, the method on it doesn't. The response names those that do in `Allow`.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// The head of the request did not come in time.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request took too long to arrive";
    /// The value was stored by other means and is not text, so a JSON string can't carry it.
    ValueNotText = "value_not_text", CONFLICT, "The value is not text";
    /// The value to be incremented is not a number.
    NotANumber = "not_a_number", CONFLICT, "The value is not a number";
    /// The sum is beyond the range of a number.
    NumberOverflow = "number_overflow", CONFLICT, "The sum is out of range";
    /// The component was never swapped, so there is nothing to go back to.
    NoPreviousRevision = "no_previous_revision", CONFLICT, "There is no revision before this one";
    /// The key isn't as the request's condition (`If-Match`, `If-None-Match`) wants it.
    PreconditionFailed = "precondition_failed", PRECONDITION_FAILED, "The key has changed";
    /// The body is longer than the limit.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The value is longer than [`crate::kv::MAX_VALUE`].
    ValueTooLarge = "value_too_large", PAYLOAD_TOO_LARGE, "The value is too large";
    /// The batch has too many keys.
    BatchTooLarge = "batch_too_large", PAYLOAD_TOO_LARGE, "The batch has too many keys";
    /// The keys and values of the batch have too many bytes.
    BatchTooHeavy = "batch_too_heavy", PAYLOAD_TOO_LARGE, "The batch has too many bytes";
    /// The body's content type isn't one that is understood here.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The content type is not supported";
    /// The request's target is longer than any.
    UriTooLong = "uri_too_long", URI_TOO_LONG, "The target is too long";
    /// The component that came can't be run, or didn't prove itself. The one before serves on.
    SwapFailed = "swap_failed", UNPROCESSABLE_ENTITY, "The component was not swapped";
    /// The request's head is longer than the limit, or has too many headers.
    HeadersTooLarge = "headers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too large";
    /// The host or a component failed in a way that says nothing about the request.
    InternalError = "internal_error", INTERNAL_SERVER_ERROR, "Something went wrong";
    /// The swap can't be made to survive a restart. The revision before serves on.
    SwapNotRecorded = "swap_not_recorded", INTERNAL_SERVER_ERROR, "The swap can't be recorded";
    /// The component trapped or ended without an answer.
    ComponentFailed = "component_failed", BAD_GATEWAY, "The component failed";
    /// The instance did not accept the connection, or broke it before the answer.
    InstanceUnreachable = "instance_unreachable", BAD_GATEWAY, "The instance can't be reached";
    /// The namespace has no instance that takes requests now.
    NoInstanceAvailable = "no_instance_available", SERVICE_UNAVAILABLE, "No instance is available";
    /// Every guest is busy and the queue is full.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Too many requests at once";
    /// The host is stopping and takes no more of these.
    Draining = "draining", SERVICE_UNAVAILABLE, "The host is stopping";
    /// The registry holds as many instances as it may.
    RegistryFull = "registry_full", SERVICE_UNAVAILABLE, "The registry is full";
    /// The store failed, or can't be reached.
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "The store is unavailable";
    /// The request was not answered within its deadline.
    DeadlineExceeded = "deadline_exceeded", GATEWAY_TIMEOUT, "The answer took too long";
    /// The store holds as many bytes as it may.
    StoreFull = "store_full", INSUFFICIENT_STORAGE, "The store is full";
    /// The request went through too many components, most likely in a circle.
    LoopDetected = "loop_detected", LOOP_DETECTED, "The request went round in a loop";
}

impl Code {
    /// The code that `text` begins with, if it is of the form `code: explanation`. This is how a store tells a guest
    /// the code behind a `wasi:keyvalue` error, which carries nothing but text.
    #[must_use]
    pub fn leading(text: &str) -> Option<Code> {
        let (name, _) = text.split_once(':')?;
        Code::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_snake_case_and_end_the_type() {
        let mut seen = HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} is there twice");
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
            assert!(code.type_uri().ends_with(code.as_str()), "{code}");
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code}");
            assert!(!code.title().ends_with('.'), "{code}: a title is not a sentence");
        }
    }

    #[test]
    fn finds_the_code_a_store_error_begins_with() {
        assert_eq!(Code::leading("store_full: 1 GiB used"), Some(Code::StoreFull));
        assert_eq!(Code::leading("store_full"), None);
        assert_eq!(Code::leading("no such thing: x"), None);
        assert_eq!(Code::leading(""), None);
    }
}

//! A request's place in a trace: the header `traceparent` of W3C's Trace Context, level 1.
//!
//! What isn't valid to the letter is no context at all: it is never passed on.

use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::num::{NonZeroU64, NonZeroU128};

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries a context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What others add to it. Meaningless without it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of a header of the version that we know.
const LENGTH: usize = 55;
/// The flag that says that whoever sent the request records it.
const SAMPLED: u8 = 1;

/// All steps of a request, on all hosts, have the same. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

/// One step of a request. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

/// A step of a trace, and whether it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The step: what comes next is its child.
    pub span: SpanId,
    /// Whether its spans are recorded.
    pub sampled: bool,
}

/// A context that isn't one. It must not be passed on, nor what was added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header traceparent isn't valid")]
pub struct InvalidContext;

impl InvalidContext {
    /// Removes it.
    pub fn remove(self, headers: &mut HeaderMap) {
        headers.remove(TRACEPARENT);
        headers.remove(TRACESTATE);
    }
}

impl TraceContext {
    /// The first step of a new trace.
    pub(crate) fn root(sampled: impl FnOnce(TraceId) -> bool) -> Self {
        let trace = TraceId::random();
        Self { trace, span: SpanId::random(), sampled: sampled(trace) }
    }

    /// Another step of the same trace.
    pub fn child(self) -> Self {
        Self { span: SpanId::random(), ..self }
    }

    /// What the headers of a request say, if they say anything.
    ///
    /// # Errors
    /// There are several `traceparent`s, or one that isn't right.
    pub fn of_headers(headers: &HeaderMap) -> Result<Option<Self>, InvalidContext> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => Self::parse(value.as_bytes()).map(Some).ok_or(InvalidContext),
            (Some(_), Some(_)) => Err(InvalidContext),
        }
    }

    /// Reads a header's value. One of a later version may go on after what we know, but not differ in it.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        if [2, 35, 52].iter().any(|dash| known[*dash] != b'-') {
            return None;
        }
        let version = number(&known[..2])?;
        let (trace, span, flags) = (number(&known[3..35])?, number(&known[36..52])?, number(&known[53..])?);
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        fits.then_some(Self {
            trace: TraceId(NonZeroU128::new(trace)?),
            span: SpanId(NonZeroU64::new(u64::try_from(span).ok()?)?),
            sampled: flags as u8 & SAMPLED != 0,
        })
    }

    /// As a header's value.
    pub fn to_header(self) -> HeaderValue {
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_digits(&mut value[3..35], self.trace.0.get());
        write_digits(&mut value[36..52], self.span.0.get().into());
        value[54] += u8::from(self.sampled);
        HeaderValue::from_bytes(&value).expect("digits are allowed in a header")
    }
}

impl TraceId {
    fn random() -> Self {
        Self(NonZeroU128::new(random(|random| random.u128(..))).unwrap_or(NonZeroU128::MIN))
    }

    /// The lower half, which samplers decide by.
    pub(crate) fn low(self) -> u64 {
        self.0.get() as u64
    }

    /// As bytes, the highest first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// As digits, for those who don't format.
    pub fn to_digits(self) -> [u8; 32] {
        let mut digits = [0; 32];
        write_digits(&mut digits, self.0.get());
        digits
    }
}

impl SpanId {
    fn random() -> Self {
        Self(NonZeroU64::new(random(|random| random.u64(..))).unwrap_or(NonZeroU64::MIN))
    }

    /// As bytes, the highest first.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Draws from the thread's own generator: fast, and nothing that has to be kept secret.
fn random<T>(draw: impl FnOnce(&mut Rng) -> T) -> T {
    thread_local! {
        // The system's randomness, so that no two threads of any two hosts begin alike.
        static RANDOM: RefCell<Rng> = RefCell::new(Rng::with_seed(RandomState::new().hash_one("trace id")));
    }
    RANDOM.with_borrow_mut(draw)
}

/// The number that lower-case hexadecimal digits write; upper-case ones are not allowed.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

fn write_digits(into: &mut [u8], mut number: u128) {
    for digit in into.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn parse(value: &str) -> Option<TraceContext> {
        TraceContext::parse(value.as_bytes())
    }

    #[test]
    fn a_header_is_read_and_written() {
        let value = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let context = parse(&value).expect("it is valid");
        assert_eq!(context.trace.to_string(), TRACE);
        assert_eq!(context.trace.to_digits(), TRACE.as_bytes());
        assert_eq!(context.span.to_string(), "00f067aa0ba902b7");
        assert!(context.sampled);
        assert_eq!(context.to_header(), value);
        let child = context.child();
        assert_eq!((child.trace, child.sampled), (context.trace, true));
        assert_ne!(child.span, context.span);
    }

    #[test]
    fn other_flags_and_later_versions_are_read_as_far_as_they_are_known() {
        for (value, sampled) in [("00-{}-01", true), ("00-{}-02", false), ("00-{}-ff", true), ("cc-{}-01", true)] {
            let value = value.replace("{}", &format!("{TRACE}-00f067aa0ba902b7"));
            assert_eq!(parse(&value).map(|context| context.sampled), Some(sampled), "{value}");
        }
        assert!(parse(&format!("cc-{TRACE}-00f067aa0ba902b7-01-what-comes")).is_some());
    }

    #[test]
    fn what_is_not_valid_is_no_context() {
        let zeros = "0".repeat(32);
        for value in [
            String::new(),
            format!("00-{TRACE}-00f067aa0ba902b7-0"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01.more"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{zeros}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-00f067aa0ba902bg-01"),
            format!("00 {TRACE} 00f067aa0ba902b7 01"),
        ] {
            assert_eq!(parse(&value), None, "{value}");
        }
    }

    #[test]
    fn two_headers_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceContext::of_headers(&headers), Ok(None));
        let one = TraceContext::root(|_| true);
        headers.append(TRACEPARENT, one.to_header());
        headers.append(TRACESTATE, HeaderValue::from_static("a=b"));
        assert_eq!(TraceContext::of_headers(&headers), Ok(Some(one)));
        headers.append(TRACEPARENT, one.to_header());
        assert_eq!(TraceContext::of_headers(&headers), Err(InvalidContext));
        InvalidContext.remove(&mut headers);
        assert!(headers.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let (trace, span) = (NonZeroU128::new(trace).expect("from 1"), NonZeroU64::new(span).expect("from 1"));
            let context = TraceContext { trace: TraceId(trace), span: SpanId(span), sampled };
            prop_assert_eq!(TraceContext::parse(context.to_header().as_bytes()), Some(context));
        }

        /// One byte changed: either it is still a header by the letter of the standard, or it is none.
        #[test]
        fn what_is_not_by_the_letter_is_refused(at in 0..LENGTH, byte: u8) {
            let mut value = TraceContext::root(|_| true).to_header().as_bytes().to_vec();
            value[at] = byte;
            let letter = match at {
                2 | 35 | 52 => byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            };
            prop_assert!(TraceContext::parse(&value).is_none() || letter);
        }

        #[test]
        fn nothing_makes_it_panic(value: Vec<u8>) {
            let _ = TraceContext::parse(&value);
        }
    }
}

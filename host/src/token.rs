//! Bearer tokens: never shown, compared in constant time, read from files or variables.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use subtle::ConstantTimeEq;

/// The longest token accepted, so that it always fits into a request's head.
const LONGEST: usize = 4096;

/// A shared secret. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(Arc<str>);

impl Token {
    /// Takes a token as it was written, without surrounding white space. The error says what is wrong with it, and never
    /// shows it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("it holds no token; write one, for example that of `openssl rand -hex 32`".to_owned());
        }
        if text.len() > LONGEST {
            return Err(format!("the token is too long: at most {LONGEST} characters"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token must be one line of visible ASCII characters without spaces".to_owned());
        }
        Ok(Token(text.into()))
    }

    /// Reads a token from `file`. The error names neither the file nor the token.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("it can't be read: {error}"))?;
        Token::new(&text)
    }

    /// Takes a token from an environment variable. An empty variable is as good as none.
    pub(crate) fn from_variable(value: Option<&str>) -> Result<Option<Self>, String> {
        value.filter(|text| !text.is_empty()).map(Token::new).transpose()
    }

    /// Whether `candidate` is this token, in a time that depends on the candidate's length only.
    pub(crate) fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }

    /// The token itself, to send it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trimmed_compared_and_hidden() {
        let token = Token::new(" s3cret\n").expect("a token");
        assert!(token.matches(b"s3cret"));
        assert!(!token.matches(b"s3cre") && !token.matches(b"") && !token.matches(b"s3cret\n"));
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_no_token_is_refused_without_showing_it() {
        for text in ["", " \n", "two words", "zwölf", "line\nline", &"x".repeat(LONGEST + 1)] {
            let error = Token::new(text).expect_err(text);
            assert!(text.trim().is_empty() || !error.contains(text), "{error}");
        }
        assert_eq!(Token::from_variable(Some("")), Ok(None));
    }
}

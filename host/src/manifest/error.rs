//! What is said about a mistake: where it is, what it is, and what to do.

use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;

/// A mistake in a manifest, or in a flag or variable that belongs to it. Reads `FILE:LINE: what is wrong; the fix`.
#[derive(Debug)]
pub(crate) struct ManifestError {
    place: Place,
    message: String,
}

/// Where something was written.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// On a line of a manifest. Lines count from 1.
    Line {
        /// The file as the user named it.
        file: String,
        /// The line, if it is known.
        line: Option<usize>,
    },
    /// In a flag or an environment variable, by name.
    Setting(String),
}

impl Place {
    /// A mistake at this place.
    pub(crate) fn error(&self, message: impl fmt::Display) -> ManifestError {
        ManifestError { place: self.clone(), message: message.to_string() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line { file, line: Some(line) } => write!(out, "{file}:{line}"),
            Place::Line { file, line: None } => out.write_str(file),
            Place::Setting(name) => out.write_str(name),
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for ManifestError {}

/// The text of a manifest, to find the lines of what was parsed from it.
pub(super) struct Document<'a> {
    /// The file as the user named it.
    pub(super) file: String,
    pub(super) text: &'a str,
}

impl Document<'_> {
    /// The place of a span that the parser reported.
    pub(super) fn place(&self, span: Option<Range<usize>>) -> Place {
        let before =
            |span: Range<usize>| self.text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count();
        Place::Line { file: self.file.clone(), line: span.map(|span| before(span) + 1) }
    }

    /// What the parser says, with the nearest known key for an unknown one.
    pub(super) fn parse_error(&self, error: &toml::de::Error) -> ManifestError {
        let place = self.place(error.span());
        let message = error.message();
        if let Some(missing) = message.strip_prefix("missing field ") {
            let missing = missing.trim_matches('`');
            return place.error(format!("the key \"{missing}\" is missing in this table; add it"));
        }
        let Some(rest) = message.strip_prefix("unknown field ") else {
            return place.error(message.trim_end());
        };
        // serde writes: unknown field `lisen`, expected one of `listen`, `metrics`
        let mut names = rest.split('`').skip(1).step_by(2);
        let unknown = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        match nearest(unknown, known.iter().copied()) {
            Some(known) => place.error(format!("unknown key \"{unknown}\"; did you mean \"{known}\"?")),
            None => place.error(format!("unknown key \"{unknown}\"; possible here: {}", known.join(", "))),
        }
    }
}

/// Why a file that the manifest names can't be read, and what to do about it.
pub(super) fn unreadable(error: &std::io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::PermissionDenied => "let the user that the host runs as read it",
        ErrorKind::IsADirectory => "name a file in it",
        _ => "check the path, which starts from the manifest's folder",
    };
    format!("{error}; {advice}")
}

/// The one of `known` that `typed` most likely stands for.
pub(super) fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase().replace('_', "-");
    known
        .map(|known| (strsim::jaro_winkler(&typed, known), known))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

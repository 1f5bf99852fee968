//! What is wrong with a file, where, and what to do about it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// One mistake in one file. Ordered by file and line, the way people fix them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    pub file: PathBuf,
    /// From 1; 0 when the whole file is meant.
    pub line: u64,
    /// Path of the field, e.g. `spec.rules[0].from`; empty when the whole document is meant.
    pub field: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, " {}:", self.field)?;
        }
        write!(f, " {}", self.message)
    }
}

/// What somebody far away said, for people to read: one line of bearable length, and no more than text (security.md,
/// row 27).
pub(crate) fn printable(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if shown.len() >= most {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

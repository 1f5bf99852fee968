//! A folder of YAML, read into typed documents that remember where they came from.
//!
//! Nothing is ignored: an unknown key, kind or value is a [`Problem`], and one problem anywhere means
//! that nothing of the folder is used. They are reported together, step by step: what a document says is asked
//! once its shape is right, and what documents mean to each other (`resolve`'s business, not decided here) once
//! each of them is.

pub(crate) mod authentication;
mod document;
mod node;
mod policy;
pub(crate) mod revocation;
pub mod schema;
mod shape;
pub mod value;
pub(crate) mod words;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;

pub use self::authentication::{Fetch, JwtRule, RequestAuthentication};
pub use self::document::{Document, Documents, Place};
pub use self::node::Node;
use self::node::Plain;
pub use self::policy::AuthorizationPolicy;
pub(crate) use self::policy::field_in_yaml;
pub use self::revocation::{Revocation, Revoked};
use crate::problem::Problem;

/// Every document of a folder, in the order of file names and then of lines.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    root: PathBuf,
    files: Vec<Arc<Documents>>,
}

impl Loaded {
    /// The folder or file it was read from.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Documents from several places as one whole; `root` names it in problems.
    pub fn join(root: &Path, parts: impl IntoIterator<Item = Loaded>) -> Self {
        Self {
            root: root.into(),
            files: parts.into_iter().flat_map(|part| part.files).collect(),
        }
    }

    /// The documents file by file.
    pub fn files(&self) -> impl Iterator<Item = &Documents> {
        self.files.iter().map(Arc::as_ref)
    }
}

/// Reads every `*.yaml` and `*.yml` below `dir`; names that begin with a dot are skipped. A link to a folder is a problem.
///
/// # Errors
/// Everything wrong with any of the files.
pub fn load_dir(dir: &Path) -> Result<Loaded, Vec<Problem>> {
    Loader::default().load(dir)
}

/// Reads one file's text; `file` only names it in problems.
///
/// # Errors
/// Everything wrong with it.
pub fn load_str(file: &Path, text: &str) -> Result<Loaded, Vec<Problem>> {
    Ok(Loaded {
        root: file.into(),
        files: vec![Arc::new(Documents::parse(file, text)?)],
    })
}

/// The documents of a file as they are written, whatever they mean; empty ones are skipped.
///
/// # Errors
/// The text is not YAML.
pub fn trees(file: &Path, text: &str) -> Result<Vec<Node>, Vec<Problem>> {
    parse(file, text, Plain::Text)
}

/// As [`trees`], of documents that kubectl reads too: what it makes of a value without quotes is what the value is.
pub(crate) fn manifests(file: &Path, text: &str) -> Result<Vec<Node>, Vec<Problem>> {
    parse(file, text, Plain::Kubectl)
}

fn parse(file: &Path, text: &str, plain: Plain) -> Result<Vec<Node>, Vec<Problem>> {
    node::parse(text, plain).map_err(|error| {
        vec![Problem {
            file: file.into(),
            line: error.line,
            field: String::new(),
            message: error.message,
        }]
    })
}

/// Reads documents that are part of something else; `file` only names it in problems.
///
/// # Errors
/// Everything wrong with any of them.
pub fn load_trees(file: &Path, trees: Vec<Node>) -> Result<Loaded, Vec<Problem>> {
    Ok(Loaded {
        root: file.into(),
        files: vec![Arc::new(Documents::read(file, trees)?)],
    })
}

/// Reads a folder again and again, and parses only what changed since.
#[derive(Debug, Default)]
pub struct Loader {
    parsed: HashMap<PathBuf, (digest::Digest, Arc<Documents>)>,
}

impl Loader {
    /// As [`load_dir`].
    ///
    /// # Errors
    /// Everything wrong with any of the files.
    pub fn load(&mut self, dir: &Path) -> Result<Loaded, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut loaded = Loaded {
            root: dir.into(),
            files: Vec::new(),
        };
        let mut parsed = HashMap::new();
        for file in files_below(dir, &mut problems) {
            let text = match std::fs::read_to_string(&file) {
                Ok(text) => text,
                Err(error) => {
                    problems.push(unreadable(&file, &error));
                    continue;
                }
            };
            let digest = digest::digest(&digest::SHA256, text.as_bytes());
            let documents = match self.parsed.remove(&file) {
                Some((known, documents)) if known.as_ref() == digest.as_ref() => Ok(documents),
                _ => Documents::parse(&file, &text).map(Arc::new),
            };
            match documents {
                Ok(documents) => {
                    loaded.files.push(Arc::clone(&documents));
                    parsed.insert(file, (digest, documents));
                }
                Err(found) => problems.extend(found),
            }
        }
        self.parsed = parsed;
        if problems.is_empty() {
            Ok(loaded)
        } else {
            Err(problems)
        }
    }
}

/// Sorted, so that "first by file order" means the same everywhere.
pub(crate) fn files_below(dir: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                problems.push(unreadable(&folder, &error));
                continue;
            }
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => {
                    problems.push(unreadable(&folder, &error));
                    continue;
                }
            };
            // A mounted ConfigMap keeps its versions in dotted folders and links to the current one.
            if path
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
            {
                continue;
            }
            if path.is_dir() {
                // Following it could go round in circles; passing over it could leave a policy out without a word.
                if path.is_symlink() {
                    problems.push(about(
                        &path,
                        "is a link to a folder, which is not followed: put the folder itself here, or links to its files",
                    ));
                } else {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(is_yaml) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn is_yaml(extension: &OsStr) -> bool {
    ["yaml", "yml"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    about(path, format!("cannot be read: {error}"))
}

fn about(path: &Path, message: impl Into<String>) -> Problem {
    Problem {
        file: path.to_path_buf(),
        line: 0,
        field: String::new(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests;

//! Manifests as people keep them: files of documents, of which some are pods or make pods. What has no pods in it is
//! passed through as it stands, byte for byte.

mod order;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};

use self::order::yaml;
use super::{NAMESPACE_LABEL, Outcome, Settings, inject};
use crate::problem::Problem;
use crate::yaml::{Node, manifests};

/// A part of a file, in its order: together they are the whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    /// As it stands in the file, with the `---` before it.
    pub text: &'a str,
    /// None: nothing in it changes.
    pub injected: Option<Injected>,
    /// What has pods and stays as it is, each with its name and the reason.
    pub left: Vec<(String, String)>,
}

/// A document with sidecars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// Kind and name, e.g. `Deployment shop/web`.
    pub name: String,
    /// The line between it and the document before it, if there is one.
    pub separator: String,
    /// The document before, written the same way as after: without comments, and with the keys in their order.
    pub before: String,
    pub after: String,
    pub warnings: Vec<String>,
}

impl Part<'_> {
    /// What stands in its place now.
    pub fn result(&self) -> String {
        match &self.injected {
            Some(injected) => format!("{}{}", injected.separator, injected.after),
            None => self.text.to_owned(),
        }
    }
}

/// Gives every pod and pod template in a file its sidecar, but those that have the label `kith.dev/inject: "false"`: who
/// names a file asks for it.
///
/// # Errors
/// The text is not YAML, or something in it is in the way, of any document. `file` only names it.
pub fn inject_text<'a>(
    file: &Path,
    text: &'a str,
    settings: &Settings,
) -> Result<Vec<Part<'a>>, Vec<Problem>> {
    let mut parts = Vec::new();
    let mut problems = Vec::new();
    let mut lines_before = 0;
    for range in documents(text) {
        let text = &text[range];
        let (separator, document) = split_separator(text);
        match read(file, document) {
            Ok(Some(node)) => match inject_document(&node, separator, settings) {
                Ok((injected, left)) => parts.push(Part {
                    text,
                    injected,
                    left,
                }),
                Err(mistakes) => problems.extend(mistakes.into_iter().map(|(field, message)| {
                    // A separator with nothing but itself is a line of its own.
                    let line = node.line_of(&field) + newlines(separator) + lines_before;
                    problem(file, line, field, message)
                })),
            },
            Ok(None) => parts.push(Part {
                text,
                injected: None,
                left: Vec::new(),
            }),
            Err(found) => problems.extend(found.into_iter().map(|found| Problem {
                line: found.line + newlines(separator) + lines_before,
                ..found
            })),
        }
        lines_before += newlines(text);
    }
    if problems.is_empty() {
        Ok(parts)
    } else {
        problems.sort();
        Err(problems)
    }
}

fn problem(file: &Path, line: u64, field: String, message: String) -> Problem {
    Problem {
        file: file.into(),
        line,
        field,
        message,
    }
}

fn newlines(text: &str) -> u64 {
    text.bytes().map(|byte| u64::from(byte == b'\n')).sum()
}

/// Where each document is, with the `---` before it. At the start of a line it separates documents wherever it is, in
/// block scalars too (YAML 1.2, 9.1.2).
fn documents(text: &str) -> Vec<Range<usize>> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if at > 0 && is_separator(line) {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let ranges = starts.iter().copied().zip(ends);
    ranges.map(|(start, end)| start..end).collect()
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// A document may begin on the separator's line.
fn split_separator(text: &str) -> (&str, &str) {
    let line = text.split_inclusive('\n').next().unwrap_or_default();
    if !is_separator(line) {
        return ("", text);
    }
    let rest = line[3..].trim();
    let length = if rest.is_empty() || rest.starts_with('#') {
        line.len()
    } else {
        3
    };
    text.split_at(length)
}

/// None: nothing but comments or directives.
fn read(file: &Path, text: &str) -> Result<Option<Node>, Vec<Problem>> {
    let says_something = |line: &str| {
        let line = line.trim();
        !(line.is_empty() || line.starts_with('#') || line == "...")
    };
    if !text
        .lines()
        .filter(|line| !line.starts_with('%'))
        .any(says_something)
    {
        return Ok(None);
    }
    let mut nodes = manifests(file, text)?.into_iter();
    let node = nodes.next();
    // One that nobody looks at would have no sidecar.
    match nodes.next() {
        None => Ok(node),
        Some(_) => Err(vec![problem(
            file,
            1,
            String::new(),
            "more than one document, with `...` between them: begin each with `---`".into(),
        )]),
    }
}

type Mistakes = Vec<(String, String)>;
type Left = Vec<(String, String)>;

fn inject_document(
    node: &Node,
    separator: &str,
    settings: &Settings,
) -> Result<(Option<Injected>, Left), Mistakes> {
    let before = node.to_json();
    let mut after = before.clone();
    let mut work = Work {
        settings,
        warnings: Vec::new(),
        left: Vec::new(),
        mistakes: Vec::new(),
    };
    work.object(&mut after, "");
    if !work.mistakes.is_empty() {
        return Err(work.mistakes);
    }
    if after == before {
        return Ok((None, work.left));
    }
    let write = |value: &Value| {
        yaml(value, node)
            .map_err(|error| vec![(String::new(), format!("cannot be written as YAML: {error}"))])
    };
    let separator = match separator {
        "" => String::new(),
        line => format!("{}\n", line.trim_end()),
    };
    let injected = Injected {
        name: display_name(&before),
        separator,
        before: write(&before)?,
        after: write(&after)?,
        warnings: work.warnings,
    };
    Ok((Some(injected), work.left))
}

fn display_name(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default();
    let metadata = &object["metadata"];
    let text = |key: &str| metadata[key].as_str();
    let name = text("name").or(text("generateName")).unwrap_or_default();
    match text("namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}").trim_end().to_owned(),
    }
}

/// Where an object of this kind has its pod, as the keys to it.
fn path_to_pod(version: &str, kind: &str) -> Option<&'static [&'static str]> {
    let path: &[&str] = match (version, kind) {
        ("v1", "Pod") => &[],
        ("v1", "PodTemplate") => &["template"],
        ("batch/v1", "CronJob") => &["spec", "jobTemplate", "spec", "template"],
        ("v1", "ReplicationController")
        | ("batch/v1", "Job")
        | ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") => {
            &["spec", "template"]
        }
        _ => return None,
    };
    Some(path)
}

struct Work<'a> {
    settings: &'a Settings,
    warnings: Vec<String>,
    left: Left,
    mistakes: Mistakes,
}

impl Work<'_> {
    /// `at`: where the object is in the document, with a dot at its end.
    fn object(&mut self, object: &mut Value, at: &str) {
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if kind.ends_with("List")
            && let Some(items) = object.get_mut("items").and_then(Value::as_array_mut)
        {
            for (index, item) in items.iter_mut().enumerate() {
                self.object(item, &format!("{at}items[{index}]."));
            }
            return;
        }
        let Some(path) = path_to_pod(&version, &kind) else {
            return;
        };
        let name = display_name(object);
        let namespace = object["metadata"]["namespace"]
            .as_str()
            .unwrap_or("default")
            .to_owned();
        let mut pod = object;
        let mut at = at.to_owned();
        for key in path {
            let Some(next) = pod.get_mut(key) else {
                let message = format!("required: a {kind} has its pods there");
                self.mistakes.push((format!("{at}{key}"), message));
                return;
            };
            pod = next;
            at = format!("{at}{key}.");
        }
        self.pod(pod, &namespace, &name, &at);
    }

    fn pod(&mut self, pod: &mut Value, namespace: &str, name: &str, at: &str) {
        let labels = BTreeMap::from([(NAMESPACE_LABEL.to_owned(), "enabled".to_owned())]);
        match inject(pod, namespace, &labels, self.settings) {
            Ok(Outcome::Injected {
                pod: injected,
                warnings,
            }) => {
                let warnings = warnings.into_iter();
                self.warnings
                    .extend(warnings.map(|it| format!("{name}: {at}{it}")));
                let (Value::Object(into), Value::Object(from)) = (pod, injected) else {
                    return;
                };
                replace(into, from);
            }
            Ok(Outcome::Unchanged(reason)) => self.left.push((name.to_owned(), reason)),
            Err(refusal) => {
                let problems = refusal.problems.into_iter();
                self.mistakes
                    .extend(problems.map(|it| (format!("{at}{}", it.field), it.message)));
            }
        }
    }
}

/// Only what injection changes in a pod.
fn replace(into: &mut Map<String, Value>, mut from: Map<String, Value>) {
    for key in ["metadata", "spec"] {
        if let Some(value) = from.remove(key) {
            into.insert(key.into(), value);
        }
    }
}

#[cfg(test)]
mod tests;

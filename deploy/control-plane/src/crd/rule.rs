//! Rules in the schema: an expression that has to hold, and what the API server says otherwise.

use schemars::Schema;
use serde_json::{Map, Value};

pub(super) const RULES: &str = "x-kubernetes-validations";

/// One entry of `x-kubernetes-validations`.
pub(super) struct Rule(Map<String, Value>);

impl Rule {
    /// `holds` is an expression in the Common Expression Language on `self`.
    pub(super) fn new(holds: impl Into<String>, message: impl Into<String>) -> Self {
        let entries = [("rule", holds.into()), ("message", message.into())];
        Self(
            entries
                .map(|(key, text)| (key.to_owned(), Value::String(text)))
                .into_iter()
                .collect(),
        )
    }

    /// As the message: the value in quotes, and `words` behind it.
    pub(super) fn quoting(holds: impl Into<String>, value: &str, words: &str) -> Self {
        Self::new(holds, words.trim_start_matches([' ', ':'])).saying(quoted(value, words))
    }

    /// An expression for the message; it costs nothing where the rule holds.
    pub(super) fn saying(mut self, expression: impl Into<String>) -> Self {
        let expression = Value::String(expression.into());
        self.0.insert("messageExpression".into(), expression);
        self
    }

    /// The message is about this field of the object.
    pub(super) fn about(mut self, field: &str) -> Self {
        self.0
            .insert("fieldPath".into(), format!(".{field}").into());
        self
    }
}

/// Adds rules to a schema.
pub(super) fn demand<const N: usize>(schema: &mut Schema, rules: [Rule; N]) {
    let rules = rules.into_iter().map(|rule| Value::Object(rule.0));
    let all = schema.ensure_object().entry(RULES);
    if let Value::Array(all) = all.or_insert_with(|| Value::Array(Vec::new())) {
        all.extend(rules);
    }
}

/// The expression for `value` in quotes, and `words` behind it.
pub(super) fn quoted(value: &str, words: &str) -> String {
    format!("'`' + {value} + {}", literal(&format!("`{words}")))
}

/// A text as the Common Expression Language writes it.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Bounds the length of a string, in characters.
pub(super) fn longest(schema: &mut Schema, characters: u32) {
    schema.insert("maxLength".into(), characters.into());
}

/// Bounds the length of a list.
pub(super) fn most(schema: &mut Schema, items: u32) {
    schema.insert("maxItems".into(), items.into());
}

/// Changes the schema of a list's items.
pub(super) fn each(schema: &mut Schema, change: impl FnOnce(&mut Schema)) {
    if let Some(items) = schema
        .get_mut("items")
        .and_then(|it| <&mut Schema>::try_from(it).ok())
    {
        change(items);
    }
}

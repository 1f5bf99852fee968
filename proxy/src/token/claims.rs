//! Claims as headers for the application.

use serde_json::{Map, Value};

/// A claim as a header value; `None` when there is none, or none that a header can say exactly. Then the application
/// gets no header, never a changed one.
pub(super) fn header_value(claims: &Map<String, Value>, path: &str) -> Option<Vec<u8>> {
    let text = match find(claims, path)? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    // RFC 9110 section 5.5: white space at the ends is not part of a value, control characters never are.
    let exact = !text.is_empty()
        && text.trim_ascii().len() == text.len()
        && !text.bytes().any(|byte| byte.is_ascii_control());
    exact.then(|| text.into_bytes())
}

/// A claim of that very name, since names with dots are usual (`https://example.com/role`), else nested ones.
fn find<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (outer, inner) = path.rsplit_once('.')?;
    find(claims, outer)?.as_object()?.get(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<&str>) {
        let claims = serde_json::json!({
            "name": "José", "level": 3, "ratio": 0.5, "admin": true, "nothing": null, "list": ["a"],
            "a": {"b": {"c": "deep"}, "b.c": "dotted"}, "https://example.com/role": "r",
            "evil": "x\r\nx-admin: 1", "spaced": " x", "tab": "a\tb", "empty": "", "nul": "a\u{0}b",
        });
        let value = header_value(claims.as_object().unwrap(), path);
        assert_eq!(value.as_deref(), expected.map(str::as_bytes), "{path}");
    }

    #[test]
    fn texts_numbers_and_booleans_are_told_and_nothing_else() {
        check("name", Some("José"));
        check("level", Some("3"));
        check("ratio", Some("0.5"));
        check("admin", Some("true"));
        for path in ["nothing", "list", "a", "missing", "a.x", "name.x", "empty"] {
            check(path, None);
        }
    }

    #[test]
    fn nested_claims_and_names_with_dots_are_found() {
        check("a.b.c", Some("deep"));
        check("https://example.com/role", Some("r"));
    }

    #[test]
    fn a_value_that_would_not_arrive_as_it_is_does_not_arrive() {
        for path in ["evil", "spaced", "tab", "nul"] {
            check(path, None);
        }
    }
}

//! JSON in which no name occurs twice: readers disagree on which of two counts, and an attacker
//! would have each see the one that suits (RFC 7515 section 4, RFC 7519 section 4, RFC 8725 section 2.4).

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::jwt::short;

/// A value and nothing after it. Nesting is bounded by serde_json, at 128.
///
/// # Errors
/// It is no JSON, or a name occurs twice in it.
pub fn value(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(bytes).map(|Strict(value)| value)
}

/// An object and nothing after it.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match value(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("is no JSON object".to_owned()),
        Err(problem) => Err(format!(
            "is no proper JSON: {}",
            short(&problem.to_string())
        )),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Strict)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = elements.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((name, Strict(value))) = entries.next_entry::<String, _>()? {
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the name {name:?} twice")));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_serde_json_reads() {
        for text in [
            "{}",
            r#"{"a":[1,-2,0.5,1e3,true,null,"\u00e4\n",{"b":{}}],"c":18446744073709551615}"#,
            " { \"a\" : 1 } ",
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(Value::Object(object(text.as_bytes()).unwrap()), expected);
        }
    }

    #[test]
    fn refuses_names_twice_at_any_depth_and_everything_that_is_no_object() {
        for (text, why) in [
            (r#"{"a":1,"a":1}"#, "the name \"a\" twice"),
            (r#"{"a":1,"\u0061":1}"#, "the name \"a\" twice"),
            (r#"{"x":[{"a":1,"b":2,"a":3}]}"#, "the name \"a\" twice"),
            ("[]", "no JSON object"),
            ("\"a\"", "no JSON object"),
            ("", "EOF"),
            ("{} {}", "trailing characters"),
            ("{}\0", "trailing characters"),
            (r#"{"a":1e400}"#, "out of range"),
            (r#"{"a":NaN}"#, "expected"),
            (r#"{'a':1}"#, "key must be a string"),
            (r#"{"a":"\ud800"}"#, "hex escape"),
        ] {
            let refused = object(text.as_bytes()).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(
            object(deep.as_bytes())
                .unwrap_err()
                .contains("recursion limit")
        );
    }
}

//! `int(…)`, `uint(…)`, `double(…)`, `string(…)`, `bytes(…)`, `bool(…)`: cel-spec langdef, "Type
//! Conversions". What has no value in the other type is an error.

use super::super::error::EvalError;
use super::super::meter::Meter;
use super::super::types::Kind;
use super::super::value::{Shared, Value};
use super::{Evaluated, undefined};

const RANGE: &str = "it is out of range";

/// 2^63 and 2^64: the first doubles that do not fit.
const INT_END: f64 = 9_223_372_036_854_775_808.0;
const UINT_END: f64 = 18_446_744_073_709_551_616.0;

pub(super) fn convert<'v>(to: Kind, value: Value<'v>, meter: &Meter) -> Evaluated<'v> {
    if value.kind() == to {
        return Ok(value);
    }
    if let Value::String(text) = &value {
        meter.spend_bytes(text.len())?;
    }
    let from = value.kind();
    let or_fail = |converted: Option<Value<'v>>, why: &'static str| {
        converted.ok_or(EvalError::Conversion {
            from,
            to: to.as_str(),
            why,
        })
    };
    match (to, &value) {
        (Kind::Int, Value::Uint(value)) => {
            or_fail(i64::try_from(*value).ok().map(Value::Int), RANGE)
        }
        // Towards zero.
        (Kind::Int, Value::Double(value)) => {
            let fits = *value > -INT_END && *value < INT_END;
            or_fail(fits.then_some(Value::Int(*value as i64)), RANGE)
        }
        (Kind::Int, Value::String(text)) => {
            or_fail(text.parse().ok().map(Value::Int), "it is not a decimal int")
        }
        (Kind::Uint, Value::Int(value)) => {
            or_fail(u64::try_from(*value).ok().map(Value::Uint), RANGE)
        }
        (Kind::Uint, Value::Double(value)) => {
            let fits = *value >= 0.0 && *value < UINT_END;
            or_fail(fits.then_some(Value::Uint(*value as u64)), RANGE)
        }
        (Kind::Uint, Value::String(text)) => {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let parsed = if digits { text.parse().ok() } else { None };
            or_fail(parsed.map(Value::Uint), "it is not a decimal uint")
        }
        (Kind::Double, Value::Int(value)) => Ok(Value::Double(*value as f64)),
        (Kind::Double, Value::Uint(value)) => Ok(Value::Double(*value as f64)),
        (Kind::Double, Value::String(text)) => {
            or_fail(text.parse().ok().map(Value::Double), "it is not a double")
        }
        (Kind::String, Value::Bool(value)) => {
            Ok(Value::text(if *value { "true" } else { "false" }))
        }
        (Kind::String, Value::Int(value)) => Ok(Value::owned_text(&value.to_string())),
        (Kind::String, Value::Uint(value)) => Ok(Value::owned_text(&value.to_string())),
        (Kind::String, Value::Double(value)) => Ok(Value::owned_text(&double_text(*value))),
        (Kind::String, Value::Bytes(bytes)) => {
            meter.spend_bytes(bytes.len())?;
            let text = std::str::from_utf8(bytes).ok().map(Value::owned_text);
            or_fail(text, "they are not UTF-8")
        }
        (Kind::Bytes, Value::String(text)) => {
            Ok(Value::Bytes(Shared::Owned(text.as_bytes().into())))
        }
        (Kind::Bool, Value::String(text)) => or_fail(
            match &**text {
                "true" | "True" | "TRUE" | "t" | "1" => Some(Value::Bool(true)),
                "false" | "False" | "FALSE" | "f" | "0" => Some(Value::Bool(false)),
                _ => None,
            },
            "it is neither true nor false",
        ),
        _ => Err(undefined(to.as_str(), &value, None)),
    }
}

/// As cel-go writes it: as short as it can be and still the same number, with an exponent from a million on.
fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let magnitude = value.abs();
    if value == 0.0 || (1e-4..1e6).contains(&magnitude) {
        return value.to_string();
    }
    // The exponent has a sign and two digits at least.
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}

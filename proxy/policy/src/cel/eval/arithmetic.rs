//! Arithmetic without surprises: what does not fit is an error (cel-spec langdef, "Overflow").

use std::rc::Rc;

use super::super::ast::Operator;
use super::super::error::EvalError;
use super::super::meter::Meter;
use super::super::value::{List, Shared, Value};
use super::{Evaluated, undefined};

pub(super) fn negate<'v>(value: &Value<'v>) -> Evaluated<'v> {
    match value {
        Value::Int(value) => value
            .checked_neg()
            .map(Value::Int)
            .ok_or(EvalError::Overflow("-")),
        Value::Double(value) => Ok(Value::Double(-value)),
        other => Err(undefined("-", other, None)),
    }
}

/// `<`, `<=`, `>` or `>=`. A NaN has no place in any order.
pub(super) fn ordered(
    operator: Operator,
    left: &Value<'_>,
    right: &Value<'_>,
    meter: &Meter,
) -> Result<bool, EvalError> {
    let order = match (left, right) {
        (Value::String(one), Value::String(two)) => {
            meter.spend_bytes(one.len().min(two.len()))?;
            // UTF-8 keeps the order of code points.
            one.cmp(two)
        }
        (Value::Bytes(one), Value::Bytes(two)) => {
            meter.spend_bytes(one.len().min(two.len()))?;
            one.cmp(two)
        }
        (Value::Bool(one), Value::Bool(two)) => one.cmp(two),
        _ => match (left.number(), right.number()) {
            (Some(one), Some(two)) => one
                .partial_cmp(&two)
                .ok_or(EvalError::NotANumber(operator.as_str()))?,
            _ => return Err(undefined(operator.as_str(), left, Some(right))),
        },
    };
    Ok(match operator {
        Operator::Less => order.is_lt(),
        Operator::LessOrEqual => order.is_le(),
        Operator::Greater => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// `+`, `-`, `*`, `/` or `%`.
pub(super) fn compute<'v>(
    operator: Operator,
    left: &Value<'v>,
    right: &Value<'v>,
    meter: &Meter,
) -> Evaluated<'v> {
    match (left, right) {
        (Value::Int(one), Value::Int(two)) => {
            if *two == 0 && matches!(operator, Operator::Divide | Operator::Modulo) {
                return Err(EvalError::DivideByZero);
            }
            let computed = match operator {
                Operator::Add => one.checked_add(*two),
                Operator::Subtract => one.checked_sub(*two),
                Operator::Multiply => one.checked_mul(*two),
                Operator::Divide => one.checked_div(*two),
                _ => one.checked_rem(*two),
            };
            computed
                .map(Value::Int)
                .ok_or(EvalError::Overflow(operator.as_str()))
        }
        (Value::Uint(one), Value::Uint(two)) => {
            if *two == 0 && matches!(operator, Operator::Divide | Operator::Modulo) {
                return Err(EvalError::DivideByZero);
            }
            let computed = match operator {
                Operator::Add => one.checked_add(*two),
                Operator::Subtract => one.checked_sub(*two),
                Operator::Multiply => one.checked_mul(*two),
                Operator::Divide => one.checked_div(*two),
                _ => one.checked_rem(*two),
            };
            computed
                .map(Value::Uint)
                .ok_or(EvalError::Overflow(operator.as_str()))
        }
        // IEEE 754: division by zero is infinite.
        (Value::Double(one), Value::Double(two)) => Ok(Value::Double(match operator {
            Operator::Add => one + two,
            Operator::Subtract => one - two,
            Operator::Multiply => one * two,
            Operator::Divide => one / two,
            _ => return Err(undefined(operator.as_str(), left, Some(right))),
        })),
        _ if operator == Operator::Add => join(left, right, meter),
        _ => Err(undefined(operator.as_str(), left, Some(right))),
    }
}

fn join<'v>(left: &Value<'v>, right: &Value<'v>, meter: &Meter) -> Evaluated<'v> {
    match (left, right) {
        (Value::String(one), Value::String(two)) => {
            meter.spend_bytes(one.len().saturating_add(two.len()))?;
            Ok(Value::owned_text(&[&**one, &**two].concat()))
        }
        (Value::Bytes(one), Value::Bytes(two)) => {
            meter.spend_bytes(one.len().saturating_add(two.len()))?;
            let joined: Rc<[u8]> = [&**one, &**two].concat().into();
            Ok(Value::Bytes(Shared::Owned(joined)))
        }
        (Value::List(one), Value::List(two)) => {
            meter.spend(one.len().saturating_add(two.len()) as u64)?;
            Ok(Value::List(List::Owned(
                one.iter().chain(two.iter()).collect(),
            )))
        }
        _ => Err(undefined("+", left, Some(right))),
    }
}

//! Values while an expression is evaluated: borrowed from the program and the request where they can be.

use std::ops::Deref;
use std::rc::Rc;

use serde_json::Value as Json;

use super::constant::Const;
use super::error::EvalError;
use super::meter::Meter;
use super::number::Number;
use super::types::Kind;
use crate::Token;

#[derive(Debug, Clone)]
pub(super) enum Value<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Shared<'v, str>),
    Bytes(Shared<'v, [u8]>),
    List(List<'v>),
    Map(Map<'v>),
    Type(Kind),
}

#[derive(Debug)]
pub(super) enum Shared<'v, T: ?Sized> {
    Borrowed(&'v T),
    Owned(Rc<T>),
}

#[derive(Debug, Clone)]
pub(super) enum List<'v> {
    Json(&'v [Json]),
    Const(&'v [Const]),
    Owned(Rc<[Value<'v>]>),
}

#[derive(Debug, Clone)]
pub(super) enum Map<'v> {
    Json(&'v serde_json::Map<String, Json>),
    /// All claims of a token.
    Claims(&'v Token<'v>),
    Const(&'v [(Const, Const)]),
    Owned(Rc<[(Value<'v>, Value<'v>)]>),
}

impl<'v> Value<'v> {
    pub(super) fn text(text: &'v str) -> Self {
        Self::String(Shared::Borrowed(text))
    }

    pub(super) fn owned_text(text: &str) -> Self {
        Self::String(Shared::Owned(text.into()))
    }

    /// A number without fraction is an int (a uint where it has to be), any other a double. The
    /// numbers of CEL's own JSON are all doubles; here no integer loses its last digits, and as
    /// numbers compare across types, comparisons come out the same.
    pub(super) fn of_json(json: &'v Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => {
                if let Some(value) = number.as_i64() {
                    Self::Int(value)
                } else if let Some(value) = number.as_u64() {
                    Self::Uint(value)
                } else {
                    Self::Double(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Json::String(text) => Self::text(text),
            Json::Array(elements) => Self::List(List::Json(elements)),
            Json::Object(entries) => Self::Map(Map::Json(entries)),
        }
    }

    pub(super) fn of_const(constant: &'v Const) -> Self {
        match constant {
            Const::Null => Self::Null,
            Const::Bool(value) => Self::Bool(*value),
            Const::Int(value) => Self::Int(*value),
            Const::Uint(value) => Self::Uint(*value),
            Const::Double(value) => Self::Double(*value),
            Const::String(text) => Self::text(text),
            Const::Bytes(bytes) => Self::Bytes(Shared::Borrowed(bytes)),
            Const::List(elements) => Self::List(List::Const(elements)),
            Const::Map(entries) => Self::Map(Map::Const(entries)),
            Const::Type(kind) => Self::Type(*kind),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Int,
            Self::Uint(_) => Kind::Uint,
            Self::Double(_) => Kind::Double,
            Self::String(_) => Kind::String,
            Self::Bytes(_) => Kind::Bytes,
            Self::List(_) => Kind::List,
            Self::Map(_) => Kind::Map,
            Self::Type(_) => Kind::Type,
        }
    }

    pub(super) fn number(&self) -> Option<Number> {
        Some(match self {
            Self::Int(value) => Number::Integer(i128::from(*value)),
            Self::Uint(value) => Number::Integer(i128::from(*value)),
            Self::Double(value) => Number::Double(*value),
            _ => return None,
        })
    }

    /// cel-spec langdef, "Equality": numbers by value across their types, NaN never, values of other
    /// types that differ are unequal and no error.
    pub(super) fn equals(&self, other: &Self, meter: &Meter) -> Result<bool, EvalError> {
        Ok(match (self, other) {
            (Self::String(one), Self::String(two)) => {
                meter.spend_bytes(one.len().min(two.len()))?;
                **one == **two
            }
            (Self::Null, Self::Null) => true,
            (Self::Bool(one), Self::Bool(two)) => one == two,
            (Self::Type(one), Self::Type(two)) => one == two,
            (Self::Bytes(one), Self::Bytes(two)) => {
                meter.spend_bytes(one.len().min(two.len()))?;
                **one == **two
            }
            (Self::List(one), Self::List(two)) => meter.nested(|| one.equals(two, meter))?,
            (Self::Map(one), Self::Map(two)) => meter.nested(|| one.equals(two, meter))?,
            _ => match (self.number(), other.number()) {
                (Some(one), Some(two)) => one == two,
                _ => false,
            },
        })
    }
}

impl<'v> List<'v> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Json(elements) => elements.len(),
            Self::Const(elements) => elements.len(),
            Self::Owned(elements) => elements.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Value<'v>> {
        match self {
            Self::Json(elements) => elements.get(index).map(Value::of_json),
            Self::Const(elements) => elements.get(index).map(Value::of_const),
            Self::Owned(elements) => elements.get(index).cloned(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'v>> {
        (0..self.len()).map_while(|index| self.get(index))
    }

    pub(super) fn contains(&self, value: &Value<'v>, meter: &Meter) -> Result<bool, EvalError> {
        for element in self.iter() {
            meter.spend(1)?;
            if element.equals(value, meter)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn equals(&self, other: &Self, meter: &Meter) -> Result<bool, EvalError> {
        if self.len() != other.len() {
            return Ok(false);
        }
        for (one, two) in self.iter().zip(other.iter()) {
            meter.spend(1)?;
            if !one.equals(&two, meter)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<'v> Map<'v> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Json(entries) => entries.len(),
            Self::Claims(token) => token.claims.len(),
            Self::Const(entries) => entries.len(),
            Self::Owned(entries) => entries.len(),
        }
    }

    pub(super) fn get(
        &self,
        key: &Value<'v>,
        meter: &Meter,
    ) -> Result<Option<Value<'v>>, EvalError> {
        let text = match key {
            Value::String(text) => Some(&**text),
            _ => None,
        };
        match self {
            Self::Json(_) | Self::Claims(_) => {
                let Some(name) = text else { return Ok(None) };
                meter.spend_bytes(name.len())?;
                Ok(self.field(name))
            }
            Self::Const(entries) => {
                for (own, value) in *entries {
                    meter.spend(1)?;
                    if Value::of_const(own).equals(key, meter)? {
                        return Ok(Some(Value::of_const(value)));
                    }
                }
                Ok(None)
            }
            Self::Owned(entries) => {
                for (own, value) in entries.iter() {
                    meter.spend(1)?;
                    if own.equals(key, meter)? {
                        return Ok(Some(value.clone()));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Only of JSON.
    fn field(&self, name: &str) -> Option<Value<'v>> {
        match self {
            Self::Json(entries) => entries.get(name).map(Value::of_json),
            // The issuer is the one whose keys verified the token, whatever the claim says: a trust
            // domain's keys must not speak for another issuer.
            Self::Claims(token) if name == "iss" => {
                token.claims.get(name).map(|_| Value::text(token.issuer))
            }
            Self::Claims(token) => token.claims.get(name).map(Value::of_json),
            Self::Const(_) | Self::Owned(_) => None,
        }
    }

    pub(super) fn keys(&self) -> Box<dyn Iterator<Item = Value<'v>> + '_> {
        let text = |key: &'v String| Value::text(key);
        match self {
            Self::Json(entries) => Box::new(entries.keys().map(text)),
            Self::Claims(token) => Box::new(token.claims.keys().map(text)),
            Self::Const(entries) => Box::new(entries.iter().map(|(key, _)| Value::of_const(key))),
            Self::Owned(entries) => Box::new(entries.iter().map(|(key, _)| key.clone())),
        }
    }

    fn equals(&self, other: &Self, meter: &Meter) -> Result<bool, EvalError> {
        if self.len() != other.len() {
            return Ok(false);
        }
        for key in self.keys() {
            meter.spend(1)?;
            let (Some(one), Some(two)) = (self.get(&key, meter)?, other.get(&key, meter)?) else {
                return Ok(false);
            };
            if !one.equals(&two, meter)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<T: ?Sized> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        match self {
            Self::Borrowed(value) => Self::Borrowed(value),
            Self::Owned(value) => Self::Owned(value.clone()),
        }
    }
}

impl<T: ?Sized> Deref for Shared<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Borrowed(value) => value,
            Self::Owned(value) => value,
        }
    }
}

//! The value of a typed program for one connection and request.
//!
//! Recursion is as deep as the expression, which the parser bounds; steps are counted by the meter.

mod arithmetic;
mod convert;
mod macros;

use std::net::IpAddr;
use std::rc::Rc;

use ipnet::IpNet;

use super::ast::Operator;
use super::attribute::Attribute;
use super::error::{EvalError, Kinds, Name};
use super::meter::Meter;
use super::tree::{Expr, Function, TextTest};
use super::types::Kind;
use super::value::{List, Map, Shared, Value};
use super::{Env, is_header_name};

pub(super) struct Evaluator<'v> {
    pub(super) env: &'v Env<'v>,
    pub(super) meter: Meter,
}

/// The variables of the macros around, from the inside out.
#[derive(Clone, Copy)]
pub(super) struct Scope<'s, 'v> {
    value: &'s Value<'v>,
    outer: Option<&'s Scope<'s, 'v>>,
}

type Scopes<'s, 'v> = Option<&'s Scope<'s, 'v>>;
type Evaluated<'v> = Result<Value<'v>, EvalError>;

impl<'v> Evaluator<'v> {
    /// The value of an expression that is a bool.
    pub(super) fn test(&self, expr: &'v Expr, scopes: Scopes<'_, 'v>) -> Result<bool, EvalError> {
        match expr {
            Expr::Not(operand) => {
                self.meter.spend(1)?;
                self.test(operand, scopes).map(|value| !value)
            }
            Expr::And(operands) => self.fold(operands, scopes, false),
            Expr::Or(operands) => self.fold(operands, scopes, true),
            _ => match self.eval(expr, scopes)? {
                Value::Bool(value) => Ok(value),
                other => Err(EvalError::NotBool(other.kind())),
            },
        }
    }

    /// cel-spec langdef, "Logical Operators": one operand that decides makes errors of others
    /// irrelevant, whatever the order.
    fn fold(
        &self,
        operands: &'v [Expr],
        scopes: Scopes<'_, 'v>,
        decides: bool,
    ) -> Result<bool, EvalError> {
        self.meter.spend(1)?;
        let mut error = None;
        for operand in operands {
            match self.test(operand, scopes) {
                Ok(value) if value == decides => return Ok(decides),
                Ok(_) => {}
                Err(first) => error = error.or(Some(first)),
            }
        }
        error.map_or(Ok(!decides), Err)
    }

    fn eval(&self, expr: &'v Expr, scopes: Scopes<'_, 'v>) -> Evaluated<'v> {
        if let Expr::Not(_) | Expr::And(_) | Expr::Or(_) = expr {
            return self.test(expr, scopes).map(Value::Bool);
        }
        self.meter.spend(1)?;
        match expr {
            Expr::Const(constant) => Ok(Value::of_const(constant)),
            Expr::Attribute(attribute) => self.attribute(*attribute),
            Expr::AttributePresent(attribute) => attribute.is_present(self.env).map(Value::Bool),
            Expr::Variable(depth) => Ok(variable(scopes, *depth)),
            Expr::Header(name) => self.header(name, scopes),
            Expr::HeaderPresent(name) => self.header_present(name, scopes).map(Value::Bool),
            Expr::Select(of, field) => {
                let of = self.eval(of, scopes)?;
                self.field(&of, field)?
                    .ok_or_else(|| EvalError::NoSuchKey(Name::of(field)))
            }
            Expr::Has(of, field) => {
                let of = self.eval(of, scopes)?;
                Ok(Value::Bool(self.field(&of, field)?.is_some()))
            }
            Expr::Index(parts) => {
                let [of, index] = &**parts;
                let of = self.eval(of, scopes)?;
                let index = self.eval(index, scopes)?;
                self.element(&of, &index)
            }
            Expr::Negate(operand) => arithmetic::negate(&self.eval(operand, scopes)?),
            Expr::Binary(operator, operands) => {
                let [left, right] = &**operands;
                let left = self.eval(left, scopes)?;
                let right = self.eval(right, scopes)?;
                self.binary(*operator, &left, &right)
            }
            Expr::Choose(parts) => {
                let [condition, yes, no] = &**parts;
                let chosen = if self.test(condition, scopes)? {
                    yes
                } else {
                    no
                };
                self.eval(chosen, scopes)
            }
            Expr::List(elements) => {
                let elements: Result<Rc<[_]>, _> = elements
                    .iter()
                    .map(|element| self.eval(element, scopes))
                    .collect();
                Ok(Value::List(List::Owned(elements?)))
            }
            Expr::Map(entries) => self.map(entries, scopes),
            Expr::Text(test, operands) => {
                let [text, part] = &**operands;
                let text = self.eval(text, scopes)?;
                let part = self.eval(part, scopes)?;
                self.text_test(*test, &text, &part).map(Value::Bool)
            }
            Expr::Call(function, of) => {
                let of = self.eval(of, scopes)?;
                self.call(*function, of)
            }
            Expr::InCidr(text, range) => {
                let text = self.eval(text, scopes)?;
                self.in_cidr(&text, *range).map(Value::Bool)
            }
            Expr::AddressIn(attribute, range) => {
                Ok(Value::Bool(range.contains(&attribute.address(self.env)?)))
            }
            Expr::Macro(parts) => self.expand(parts, scopes),
            // Above.
            Expr::Not(_) | Expr::And(_) | Expr::Or(_) => self.test(expr, scopes).map(Value::Bool),
        }
    }

    fn attribute(&self, attribute: Attribute) -> Evaluated<'v> {
        let value = attribute.read(self.env)?;
        if let Value::List(audiences) = &value {
            self.meter.spend(audiences.len() as u64)?;
        }
        Ok(value)
    }

    fn header(&self, name: &'v Expr, scopes: Scopes<'_, 'v>) -> Evaluated<'v> {
        let request = Attribute::RequestHeaders.request(self.env)?;
        let name = self.header_name(name, scopes)?;
        let (mut count, mut first) = (0_usize, None);
        request.headers.for_each(&name, &mut |value| {
            count += 1;
            if first.is_none() {
                first = Some(std::str::from_utf8(value).map(Rc::<str>::from));
            }
        });
        match (count, first) {
            (1, Some(Ok(value))) => {
                self.meter.spend_bytes(value.len())?;
                Ok(Value::String(Shared::Owned(value)))
            }
            (1, Some(Err(_))) => Err(EvalError::HeaderNotText(Name::of(&name))),
            (0, _) | (_, None) => Err(EvalError::NoSuchKey(Name::of(&name))),
            // security.md row 5: which of them the server takes is unknown.
            _ => Err(EvalError::RepeatedHeader(Name::of(&name))),
        }
    }

    fn header_present(&self, name: &'v Expr, scopes: Scopes<'_, 'v>) -> Result<bool, EvalError> {
        let request = Attribute::RequestHeaders.request(self.env)?;
        let name = self.header_name(name, scopes)?;
        let mut found = false;
        request.headers.for_each(&name, &mut |_| found = true);
        Ok(found)
    }

    fn header_name(
        &self,
        name: &'v Expr,
        scopes: Scopes<'_, 'v>,
    ) -> Result<Shared<'v, str>, EvalError> {
        let name = match self.eval(name, scopes)? {
            Value::String(name) => name,
            other => return Err(undefined("request.headers[]", &other, None)),
        };
        self.meter.spend_bytes(name.len())?;
        if is_header_name(&name) {
            return Ok(name);
        }
        Err(EvalError::HeaderName(Name::of(&name)))
    }

    /// A field of a map; `None` if it has none of this name.
    fn field(&self, of: &Value<'v>, field: &'v str) -> Result<Option<Value<'v>>, EvalError> {
        match of {
            Value::Map(map) => map.get(&Value::text(field), &self.meter),
            other => Err(undefined(".", other, None)),
        }
    }

    fn element(&self, of: &Value<'v>, index: &Value<'v>) -> Evaluated<'v> {
        match (of, index) {
            (Value::List(list), Value::Int(index)) => usize::try_from(*index)
                .ok()
                .and_then(|index| list.get(index))
                .ok_or(EvalError::IndexOutOfRange),
            (Value::List(list), Value::Uint(index)) => usize::try_from(*index)
                .ok()
                .and_then(|index| list.get(index))
                .ok_or(EvalError::IndexOutOfRange),
            (Value::Map(map), key) => match map.get(key, &self.meter)? {
                Some(value) => Ok(value),
                None => Err(EvalError::NoSuchKey(match key {
                    Value::String(name) => Name::of(name),
                    _ => Name::of(key.kind().as_str()),
                })),
            },
            (of, index) => Err(undefined("[]", of, Some(index))),
        }
    }

    fn binary(&self, operator: Operator, left: &Value<'v>, right: &Value<'v>) -> Evaluated<'v> {
        let name = operator.as_str();
        Ok(Value::Bool(match operator {
            Operator::Equal => left.equals(right, &self.meter)?,
            Operator::NotEqual => !left.equals(right, &self.meter)?,
            Operator::In => match right {
                Value::List(list) => list.contains(left, &self.meter)?,
                Value::Map(map) => map.get(left, &self.meter)?.is_some(),
                _ => return Err(undefined(name, left, Some(right))),
            },
            Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual => arithmetic::ordered(operator, left, right, &self.meter)?,
            _ => return arithmetic::compute(operator, left, right, &self.meter),
        }))
    }

    fn map(&self, entries: &'v [(Expr, Expr)], scopes: Scopes<'_, 'v>) -> Evaluated<'v> {
        let mut values: Vec<(Value<'v>, Value<'v>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key = self.eval(key, scopes)?;
            if !matches!(
                key.kind(),
                Kind::Bool | Kind::Int | Kind::Uint | Kind::String
            ) {
                return Err(undefined("{}", &key, None));
            }
            for (earlier, _) in &values {
                self.meter.spend(1)?;
                if earlier.equals(&key, &self.meter)? {
                    return Err(EvalError::RepeatedKey);
                }
            }
            values.push((key, self.eval(value, scopes)?));
        }
        Ok(Value::Map(Map::Owned(values.into())))
    }

    fn text_test(
        &self,
        test: TextTest,
        text: &Value<'v>,
        part: &Value<'v>,
    ) -> Result<bool, EvalError> {
        let (Value::String(text), Value::String(part)) = (text, part) else {
            return Err(undefined(test.as_str(), text, Some(part)));
        };
        match test {
            TextTest::Contains => {
                self.meter
                    .spend_bytes(text.len().saturating_add(part.len()))?;
                Ok(memchr::memmem::find(text.as_bytes(), part.as_bytes()).is_some())
            }
            TextTest::StartsWith => {
                self.meter.spend_bytes(text.len().min(part.len()))?;
                Ok(text.starts_with(&**part))
            }
            TextTest::EndsWith => {
                self.meter.spend_bytes(text.len().min(part.len()))?;
                Ok(text.ends_with(&**part))
            }
        }
    }

    fn call(&self, function: Function, of: Value<'v>) -> Evaluated<'v> {
        match (function, &of) {
            (Function::To(to), _) => convert::convert(to, of, &self.meter),
            (Function::TypeOf, _) => Ok(Value::Type(of.kind())),
            (Function::Size, Value::String(text)) => {
                self.meter.spend_bytes(text.len())?;
                // cel-spec langdef: in code points.
                Ok(size(text.chars().count()))
            }
            (Function::Size, Value::Bytes(bytes)) => Ok(size(bytes.len())),
            (Function::Size, Value::List(list)) => Ok(size(list.len())),
            (Function::Size, Value::Map(map)) => Ok(size(map.len())),
            (Function::LowerAscii, Value::String(text)) => {
                self.change_case(text, u8::is_ascii_uppercase, str::to_ascii_lowercase)
            }
            (Function::UpperAscii, Value::String(text)) => {
                self.change_case(text, u8::is_ascii_lowercase, str::to_ascii_uppercase)
            }
            _ => Err(undefined(function.as_str(), &of, None)),
        }
    }

    fn change_case(
        &self,
        text: &Shared<'v, str>,
        to_change: impl Fn(&u8) -> bool,
        change: impl Fn(&str) -> String,
    ) -> Evaluated<'v> {
        self.meter.spend_bytes(text.len())?;
        Ok(Value::String(if text.as_bytes().iter().any(to_change) {
            Shared::Owned(change(text).into())
        } else {
            text.clone()
        }))
    }

    fn in_cidr(&self, text: &Value<'v>, range: IpNet) -> Result<bool, EvalError> {
        let Value::String(text) = text else {
            return Err(undefined("inCidr", text, None));
        };
        self.meter.spend(3)?;
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(range.contains(&address.to_canonical())),
            Err(_) => Err(EvalError::Conversion {
                from: Kind::String,
                to: "IP address",
                why: "it is not written as one",
            }),
        }
    }
}

fn variable<'v>(scopes: Scopes<'_, 'v>, depth: usize) -> Value<'v> {
    let mut scope = scopes;
    for _ in 0..depth {
        scope = scope.and_then(|scope| scope.outer);
    }
    // The checker has resolved it: it is there.
    scope.map_or(Value::Null, |scope| scope.value.clone())
}

fn size(length: usize) -> Value<'static> {
    Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
}

fn undefined(operation: &'static str, left: &Value<'_>, right: Option<&Value<'_>>) -> EvalError {
    EvalError::NoSuchOverload {
        operation,
        operands: Kinds(left.kind(), right.map(Value::kind)),
    }
}

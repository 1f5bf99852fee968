//! Operators: which types they are defined for.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::ast::{Ast, Operator};
use super::super::attribute::Attribute;
use super::super::bound::Bound;
use super::super::constant::Const;
use super::super::error::Fault;
use super::super::meter::steps;
use super::super::tree::Expr;
use super::super::types::{Kind, Type};
use super::{Checked, Checker, total};

impl Checker {
    pub(super) fn not(&mut self, at: usize, operand: &Ast) -> Result<Checked, Fault> {
        let operand = self.check(operand)?;
        if !operand.kind.may_be(Kind::Bool) {
            let kind = operand.kind;
            return Err(Fault::new(at, format!("`!` is of a bool, this is {kind}")));
        }
        Ok(Checked {
            expr: Expr::Not(Box::new(operand.expr)),
            kind: Type::BOOL,
            cost: total(&[operand.cost]),
            bound: Bound::default(),
        })
    }

    pub(super) fn negate(&mut self, at: usize, operand: &Ast) -> Result<Checked, Fault> {
        let operand = self.check(operand)?;
        let kind = match operand.kind.kind() {
            Some(Kind::Int | Kind::Double) | None => operand.kind,
            Some(kind) => {
                return Err(Fault::new(
                    at,
                    format!("`-` is of an int or a double, this is {kind}"),
                ));
            }
        };
        Ok(Checked {
            expr: Expr::Negate(Box::new(operand.expr)),
            kind,
            cost: total(&[operand.cost]),
            bound: Bound::default(),
        })
    }

    pub(super) fn logical(
        &mut self,
        symbol: &str,
        operands: &[Ast],
        expr: impl FnOnce(Box<[Expr]>) -> Expr,
    ) -> Result<Checked, Fault> {
        let mut exprs = Vec::with_capacity(operands.len());
        let mut cost = 1_u64;
        for operand in operands {
            let what = format!("what `{symbol}` joins");
            let checked = self.check_bool(operand, &what)?;
            cost = cost.saturating_add(checked.cost);
            exprs.push(checked.expr);
        }
        Ok(Checked {
            expr: expr(exprs.into()),
            kind: Type::BOOL,
            cost,
            bound: Bound::default(),
        })
    }

    pub(super) fn choose(
        &mut self,
        at: usize,
        condition: &Ast,
        yes: &Ast,
        no: &Ast,
    ) -> Result<Checked, Fault> {
        let condition = self.check_bool(condition, "what stands before `?`")?;
        let (yes, no) = (self.check(yes)?, self.check(no)?);
        if !yes.kind.comparable(&no.kind) {
            return Err(Fault::new(
                at,
                format!(
                    "both choices have one type, these are {} and {}",
                    yes.kind, no.kind
                ),
            ));
        }
        Ok(Checked {
            kind: yes.kind.join(&no.kind),
            cost: total(&[condition.cost, yes.cost.max(no.cost)]),
            bound: yes.bound.or(no.bound),
            expr: Expr::Choose(Box::new([condition.expr, yes.expr, no.expr])),
        })
    }

    pub(super) fn binary(
        &mut self,
        at: usize,
        operator: Operator,
        left: &Ast,
        right: &Ast,
    ) -> Result<Checked, Fault> {
        if operator == Operator::In && self.is_headers(right) {
            let name = self.check(left)?;
            return self.header_present(left.at, name);
        }
        let places = [left.at, right.at];
        let (left, right) = (self.check(left)?, self.check(right)?);
        let (kind, own_cost, bound) = match operator {
            Operator::Equal | Operator::NotEqual => {
                if !left.kind.comparable(&right.kind) {
                    return Err(never_equal(at, operator, &left.kind, &right.kind));
                }
                if let Some(checked) = address_is(operator, &left, &right, places)? {
                    return Ok(checked);
                }
                let cost = left.bound.equality(&left.kind, right.bound, &right.kind);
                (Type::BOOL, cost, Bound::default())
            }
            Operator::In => {
                check_membership(at, &left, &right, places[1])?;
                let cost = right.bound.membership(&right.kind, left.bound, &left.kind);
                (Type::BOOL, cost, Bound::default())
            }
            Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual => {
                if !ordered(&left.kind, &right.kind) {
                    return Err(undefined(at, operator, &left.kind, &right.kind));
                }
                let cost = steps(left.bound.text.min(right.bound.text));
                (Type::BOOL, cost, Bound::default())
            }
            _ => {
                let kind = arithmetic(operator, &left.kind, &right.kind)
                    .ok_or_else(|| undefined(at, operator, &left.kind, &right.kind))?;
                let bound = match operator {
                    Operator::Add => left.bound.and(right.bound, &kind),
                    _ => Bound::default(),
                };
                (kind, bound.items.saturating_add(steps(bound.text)), bound)
            }
        };
        Ok(Checked {
            kind,
            cost: total(&[left.cost, right.cost, own_cost]),
            bound,
            expr: Expr::Binary(operator, Box::new([left.expr, right.expr])),
        })
    }
}

fn undefined(at: usize, operator: Operator, left: &Type, right: &Type) -> Fault {
    let operator = operator.as_str();
    let hint = match (left.kind(), right.kind()) {
        (Some(one), Some(two)) if one != two && one.is_number() && two.is_number() => {
            format!(": convert one, as in `{one}(…)`")
        }
        (Some(Kind::String), Some(two)) if two.is_number() => {
            ": convert it, `string(…)`".to_owned()
        }
        _ => String::new(),
    };
    Fault::new(
        at,
        format!("`{operator}` is not defined for {left} and {right}{hint}"),
    )
}

fn never_equal(at: usize, operator: Operator, left: &Type, right: &Type) -> Fault {
    let operator = operator.as_str();
    Fault::new(
        at,
        format!("`{operator}` compares {left} with {right}, which are never equal"),
    )
}

/// Numbers are ordered across their types.
fn ordered(left: &Type, right: &Type) -> bool {
    let has_order =
        |kind: Kind| kind.is_number() || matches!(kind, Kind::Bool | Kind::String | Kind::Bytes);
    match (left.kind(), right.kind()) {
        (None, None) => true,
        (Some(kind), None) | (None, Some(kind)) => has_order(kind),
        (Some(one), Some(two)) => {
            has_order(one) && (one == two || (one.is_number() && two.is_number()))
        }
    }
}

fn arithmetic(operator: Operator, left: &Type, right: &Type) -> Option<Type> {
    let defined = |kind: Kind| match operator {
        Operator::Add => {
            kind.is_number() || matches!(kind, Kind::String | Kind::Bytes | Kind::List)
        }
        Operator::Modulo => matches!(kind, Kind::Int | Kind::Uint),
        _ => kind.is_number(),
    };
    match (left, right) {
        (Type::Dyn, Type::Dyn) => Some(Type::Dyn),
        (Type::Dyn, known) | (known, Type::Dyn) => match known {
            Type::List(_) if defined(Kind::List) => Some(Type::list(Type::Dyn)),
            _ => known
                .kind()
                .filter(|kind| defined(*kind))
                .map(|_| known.clone()),
        },
        (Type::List(_), Type::List(_)) if defined(Kind::List) && left.comparable(right) => {
            Some(left.clone().join(right))
        }
        (Type::Plain(one), Type::Plain(two)) if one == two && defined(*one) => Some(left.clone()),
        _ => None,
    }
}

fn check_membership(
    at: usize,
    left: &Checked,
    right: &Checked,
    right_at: usize,
) -> Result<(), Fault> {
    let of = match &right.kind {
        Type::List(element) => element,
        Type::Map(key, _) => key,
        Type::Dyn => return Ok(()),
        Type::Plain(kind) => {
            let hint = match kind {
                Kind::String => ": a part of a text is `.contains(…)`",
                _ => "",
            };
            return Err(Fault::new(
                right_at,
                format!("`in` looks in a list or a map, this is {kind}{hint}"),
            ));
        }
    };
    if !of.comparable(&left.kind) {
        return Err(never_equal(at, Operator::In, &left.kind, of));
    }
    if let (Some(_), Expr::Const(Const::List(elements))) = (address_of(left), &right.expr) {
        for element in elements {
            if let Const::String(text) = element {
                parse_address(right_at, text)?;
            }
        }
    }
    Ok(())
}

fn address_of(checked: &Checked) -> Option<Attribute> {
    match checked.expr {
        Expr::Attribute(attribute) if attribute.is_address() => Some(attribute),
        _ => None,
    }
}

/// An address compared with one that is written there: as addresses, and only if it is one.
fn address_is(
    operator: Operator,
    left: &Checked,
    right: &Checked,
    places: [usize; 2],
) -> Result<Option<Checked>, Fault> {
    let (attribute, text, at) = match (address_of(left), address_of(right)) {
        (Some(attribute), _) => (attribute, right.literal_text(), places[1]),
        (_, Some(attribute)) => (attribute, left.literal_text(), places[0]),
        _ => return Ok(None),
    };
    let Some(text) = text else { return Ok(None) };
    let is = Expr::AddressIn(attribute, IpNet::from(parse_address(at, text)?));
    let (expr, cost) = match operator {
        Operator::NotEqual => (Expr::Not(Box::new(is)), 2),
        _ => (is, 1),
    };
    Ok(Some(Checked {
        expr,
        kind: Type::BOOL,
        cost,
        bound: Bound::default(),
    }))
}

/// An address in the one spelling that addresses are compared in.
fn parse_address(at: usize, text: &str) -> Result<IpAddr, Fault> {
    let address: IpAddr = text.parse().map_err(|_| {
        Fault::new(
            at,
            format!("{text:?} is not an IP address; a range is `.inCidr(\"10.0.0.0/8\")`"),
        )
    })?;
    let normal = address.to_canonical().to_string();
    if normal == text {
        return Ok(address);
    }
    Err(Fault::new(
        at,
        format!("this address is written {normal:?}, or it would never be equal"),
    ))
}

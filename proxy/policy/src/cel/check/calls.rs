//! Functions: which there are, and what they take.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::ast::{Ast, Node};
use super::super::bound::Bound;
use super::super::error::Fault;
use super::super::meter::steps;
use super::super::tree::{Expr, Function, MacroKind, TextTest};
use super::super::types::{Kind, Type};
use super::{Checked, Checker, names, total};

/// Of a number as text.
const NUMBER_TEXT: u64 = 32;

impl Checker {
    pub(super) fn call(
        &mut self,
        at: usize,
        receiver: Option<&Ast>,
        name: &str,
        arguments: &[Ast],
    ) -> Result<Checked, Fault> {
        match (receiver, name) {
            (None, "has") => self.has(at, arguments),
            (Some(range), _) if MacroKind::named(name).is_some() => {
                let kind = MacroKind::named(name).unwrap_or(MacroKind::All);
                self.expand(at, kind, range, arguments)
            }
            (Some(receiver), "size") => {
                no_arguments(at, name, arguments)?;
                self.size(at, receiver)
            }
            (None, "size") => self.size(at, one_argument(at, name, arguments)?),
            (Some(text), "contains") => self.text_test(at, TextTest::Contains, text, arguments),
            (Some(text), "startsWith") => self.text_test(at, TextTest::StartsWith, text, arguments),
            (Some(text), "endsWith") => self.text_test(at, TextTest::EndsWith, text, arguments),
            (Some(text), "lowerAscii") => {
                no_arguments(at, name, arguments)?;
                self.change_case(Function::LowerAscii, text)
            }
            (Some(text), "upperAscii") => {
                no_arguments(at, name, arguments)?;
                self.change_case(Function::UpperAscii, text)
            }
            (Some(address), "inCidr") => self.in_cidr(at, address, arguments),
            (None, "dyn") => {
                let checked = self.check(one_argument(at, name, arguments)?)?;
                Ok(Checked {
                    kind: Type::Dyn,
                    ..checked
                })
            }
            (None, "type") => {
                let of = self.check(one_argument(at, name, arguments)?)?;
                Ok(function(
                    Function::TypeOf,
                    of,
                    Type::Plain(Kind::Type),
                    Bound::default(),
                    0,
                ))
            }
            (None, _) if conversion(name).is_some() => {
                let to = conversion(name).unwrap_or(Kind::String);
                let argument = one_argument(at, name, arguments)?;
                self.convert(at, to, argument)
            }
            _ => Err(misplaced(at, receiver, name)),
        }
    }

    fn size(&mut self, at: usize, of: &Ast) -> Result<Checked, Fault> {
        let of = self.check(of)?;
        match of.kind.kind() {
            Some(Kind::String | Kind::Bytes | Kind::List | Kind::Map) | None => {}
            Some(kind) => return Err(Fault::new(at, format!("{kind} has no size"))),
        }
        let cost = steps(of.bound.text);
        Ok(function(
            Function::Size,
            of,
            Type::INT,
            Bound::default(),
            cost,
        ))
    }

    fn text(&mut self, ast: &Ast, what: &str) -> Result<Checked, Fault> {
        let checked = self.check(ast)?;
        if checked.kind.may_be(Kind::String) {
            return Ok(checked);
        }
        let kind = &checked.kind;
        let hint = match kind {
            Type::List(_) => ": an element of a list is found with `in` or exists()",
            _ => "",
        };
        Err(Fault::new(
            ast.at,
            format!("{what} is a string, this is {kind}{hint}"),
        ))
    }

    fn text_test(
        &mut self,
        at: usize,
        test: TextTest,
        text: &Ast,
        arguments: &[Ast],
    ) -> Result<Checked, Fault> {
        let name = test.as_str();
        let argument = one_argument(at, name, arguments)?;
        let text = self.text(text, &format!("what stands before .{name}()"))?;
        let part = self.text(argument, &format!("what .{name}() looks for"))?;
        let own_cost = match test {
            TextTest::Contains => steps(text.bound.text.saturating_add(part.bound.text)),
            TextTest::StartsWith | TextTest::EndsWith => {
                steps(text.bound.text.min(part.bound.text))
            }
        };
        Ok(Checked {
            cost: total(&[text.cost, part.cost, own_cost]),
            kind: Type::BOOL,
            bound: Bound::default(),
            expr: Expr::Text(test, Box::new([text.expr, part.expr])),
        })
    }

    fn change_case(&mut self, to: Function, text: &Ast) -> Result<Checked, Fault> {
        let text = self.text(text, &format!("what stands before .{}()", to.as_str()))?;
        let bound = Bound::text(text.bound.text);
        Ok(function(to, text, Type::STRING, bound, steps(bound.text)))
    }

    /// The range is written there, so that it is checked here.
    fn in_cidr(&mut self, at: usize, of: &Ast, arguments: &[Ast]) -> Result<Checked, Fault> {
        let argument = one_argument(at, "inCidr", arguments)?;
        let of = self.text(of, "what stands before .inCidr()")?;
        let range = self.check(argument)?;
        let Some(range) = range.literal_text() else {
            return Err(Fault::new(
                argument.at,
                "inCidr() takes an address range as text, as in `.inCidr(\"10.0.0.0/8\")`",
            ));
        };
        let range = parse_range(argument.at, range)?;
        let cost = total(&[of.cost, 3]);
        let expr = match of.expr {
            Expr::Attribute(attribute) if attribute.is_address() => {
                Expr::AddressIn(attribute, range)
            }
            text => Expr::InCidr(Box::new(text), range),
        };
        Ok(Checked {
            expr,
            kind: Type::BOOL,
            cost,
            bound: Bound::default(),
        })
    }

    /// cel-spec langdef, "Type Conversions"; without timestamps and durations.
    fn convert(&mut self, at: usize, to: Kind, of: &Ast) -> Result<Checked, Fault> {
        let of = self.check(of)?;
        let from: &[Kind] = match to {
            Kind::Int | Kind::Uint | Kind::Double => {
                &[Kind::Int, Kind::Uint, Kind::Double, Kind::String]
            }
            Kind::String => &[
                Kind::String,
                Kind::Bool,
                Kind::Int,
                Kind::Uint,
                Kind::Double,
                Kind::Bytes,
            ],
            Kind::Bytes => &[Kind::Bytes, Kind::String],
            _ => &[Kind::Bool, Kind::String],
        };
        if !from.iter().any(|kind| of.kind.may_be(*kind)) {
            return Err(Fault::new(
                at,
                format!("{to}() is not defined for {}", of.kind),
            ));
        }
        let text = of.bound.text;
        let bound = match to {
            Kind::String | Kind::Bytes => Bound::text(text.max(NUMBER_TEXT)),
            _ => Bound::default(),
        };
        let cost = steps(text.max(NUMBER_TEXT));
        Ok(function(Function::To(to), of, Type::Plain(to), bound, cost))
    }
}

fn function(function: Function, of: Checked, kind: Type, bound: Bound, own_cost: u64) -> Checked {
    Checked {
        cost: total(&[of.cost, own_cost]),
        expr: Expr::Call(function, Box::new(of.expr)),
        kind,
        bound,
    }
}

fn conversion(name: &str) -> Option<Kind> {
    Kind::named(name).filter(|kind| {
        matches!(
            kind,
            Kind::Int | Kind::Uint | Kind::Double | Kind::String | Kind::Bytes | Kind::Bool
        )
    })
}

fn one_argument<'a>(at: usize, name: &str, arguments: &'a [Ast]) -> Result<&'a Ast, Fault> {
    match arguments {
        [argument] => Ok(argument),
        _ => Err(Fault::new(
            at,
            format!("{name}() takes one argument, here are {}", arguments.len()),
        )),
    }
}

fn no_arguments(at: usize, name: &str, arguments: &[Ast]) -> Result<(), Fault> {
    if arguments.is_empty() {
        return Ok(());
    }
    Err(Fault::new(at, format!(".{name}() takes no argument")))
}

/// A function that there is, but called the other way; or none.
fn misplaced(at: usize, receiver: Option<&Ast>, name: &str) -> Fault {
    let is_method = matches!(
        name,
        "contains" | "startsWith" | "endsWith" | "lowerAscii" | "upperAscii" | "inCidr"
    ) || MacroKind::named(name).is_some();
    let is_function = matches!(name, "has" | "dyn" | "type") || conversion(name).is_some();
    match receiver {
        None if is_method => Fault::new(
            at,
            format!("`{name}` stands behind what it is asked of: `x.{name}(…)`"),
        ),
        Some(_) if is_function => Fault::new(
            at,
            format!("`{name}` stands in front of what it is asked of: `{name}(x)`"),
        ),
        Some(Ast {
            node: Node::Name(package),
            ..
        }) if matches!(&**package, "math" | "strings" | "sets" | "optional" | "cel") => {
            Fault::new(at, format!("the extension `{package}` is not supported"))
        }
        _ => names::unknown_function(at, name),
    }
}

/// An address range in canonical form (security.md row 18).
fn parse_range(at: usize, text: &str) -> Result<IpNet, Fault> {
    let refused = |message: String| Fault::new(at, message);
    let Ok(range) = text.parse::<IpNet>() else {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Err(refused(format!(
                "{text:?} is one address: compare it with `==`, or write \"{address}/{}\"",
                IpNet::from(address).prefix_len()
            )));
        }
        return Err(refused(format!(
            "{text:?} is not an address range such as \"10.0.0.0/8\""
        )));
    };
    if range.trunc() != range {
        return Err(refused(format!(
            "{text:?} has bits behind its prefix: write \"{}\"",
            range.trunc()
        )));
    }
    if let IpNet::V6(six) = range
        && six.network().to_ipv4_mapped().is_some()
        && range.prefix_len() >= 96
    {
        return Err(refused(
            "IPv4-mapped addresses are IPv4 here: write the range as IPv4".to_owned(),
        ));
    }
    Ok(range)
}

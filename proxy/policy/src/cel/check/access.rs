//! Names, fields and indices: attributes, headers, claims, variables.

use super::super::ast::{Ast, Node};
use super::super::attribute::Attribute;
use super::super::bound::Bound;
use super::super::constant::Const;
use super::super::error::Fault;
use super::super::tree::Expr;
use super::super::types::{Kind, Type};
use super::{Checked, Checker, names, total};

impl Checker {
    /// A name, or a field behind something.
    pub(super) fn member(&mut self, ast: &Ast) -> Result<Checked, Fault> {
        if let Node::Name(name) = &ast.node {
            if let Some((depth, variable)) = self.variable(name) {
                return Ok(Checked {
                    expr: Expr::Variable(depth),
                    kind: variable.kind.clone(),
                    cost: 1,
                    bound: variable.bound,
                });
            }
            // cel-spec langdef, "Type names": a type is a value.
            if let Some(kind) = Kind::named(name) {
                return Ok(Checked::constant(
                    Const::Type(kind),
                    Type::Plain(Kind::Type),
                ));
            }
        }
        if let Some((at, path)) = self.dotted(ast) {
            if let Some(attribute) = Attribute::named(&path) {
                return self.attribute(at, attribute);
            }
            if !begins_with_attribute(&path) {
                return Err(names::unknown(at, &path));
            }
        }
        match &ast.node {
            Node::Select(of, field) => self.select(ast.at, of, field),
            _ => Err(Fault::new(ast.at, "this is not a value")),
        }
    }

    fn attribute(&mut self, at: usize, attribute: Attribute) -> Result<Checked, Fault> {
        if attribute == Attribute::RequestHeaders {
            return Err(Fault::new(
                at,
                "headers are read by name: `request.headers[\"x-id\"]`, `\"x-id\" in request.headers`",
            ));
        }
        self.uses(attribute);
        let bound = Bound::of_attribute(attribute);
        Ok(Checked {
            expr: Expr::Attribute(attribute),
            kind: attribute.value_type(),
            cost: reading(attribute),
            bound,
        })
    }

    /// `a.b.c` as one text, and where it begins, unless `a` is a variable.
    fn dotted(&self, ast: &Ast) -> Option<(usize, String)> {
        match &ast.node {
            Node::Name(name) if self.variable(name).is_none() => {
                Some((ast.at, name.clone().into()))
            }
            Node::Select(of, field) => {
                let (at, mut path) = self.dotted(of)?;
                path.push('.');
                path.push_str(field);
                Some((at, path))
            }
            _ => None,
        }
    }

    pub(super) fn attribute_of(&self, ast: &Ast) -> Option<Attribute> {
        Attribute::named(&self.dotted(ast)?.1)
    }

    pub(super) fn is_headers(&self, ast: &Ast) -> bool {
        self.attribute_of(ast) == Some(Attribute::RequestHeaders)
    }

    fn select(&mut self, at: usize, of: &Ast, field: &str) -> Result<Checked, Fault> {
        if self.is_headers(of) {
            let name = Checked::constant(Const::String(field.into()), Type::STRING);
            return self.header(at, name);
        }
        let of = self.check(of)?;
        let kind = field_type(at, &of.kind, field)?;
        let key = Bound::text(field.len() as u64);
        Ok(Checked {
            kind,
            cost: total(&[of.cost, of.bound.lookup(key)]),
            bound: of.bound,
            expr: Expr::Select(Box::new(of.expr), field.into()),
        })
    }

    pub(super) fn index(&mut self, at: usize, of: &Ast, index: &Ast) -> Result<Checked, Fault> {
        if self.is_headers(of) {
            let name = self.check_key(index)?;
            return self.header(index.at, name);
        }
        let of = self.check(of)?;
        let key = self.check_key(index)?;
        let kind = match &of.kind {
            Type::List(element) if [Kind::Int, Kind::Uint].iter().any(|k| key.kind.may_be(*k)) => {
                (**element).clone()
            }
            Type::List(_) => {
                return Err(Fault::new(
                    index.at,
                    format!("the index of a list is an int, this is {}", key.kind),
                ));
            }
            Type::Map(own, value) if own.comparable(&key.kind) => (**value).clone(),
            Type::Map(own, _) => {
                return Err(Fault::new(
                    index.at,
                    format!("the keys of this map are {own}, this is {}", key.kind),
                ));
            }
            Type::Dyn => Type::Dyn,
            Type::Plain(kind) => {
                return Err(Fault::new(at, format!("{kind} has no elements")));
            }
        };
        Ok(Checked {
            kind,
            cost: total(&[of.cost, key.cost, of.bound.lookup(key.bound)]),
            bound: of.bound,
            expr: Expr::Index(Box::new([of.expr, key.expr])),
        })
    }

    /// `when` writes `request.headers[x-id]`; here the name is text.
    fn check_key(&mut self, index: &Ast) -> Result<Checked, Fault> {
        self.check(index).map_err(|fault| match &index.node {
            Node::Name(name) if fault.message.starts_with("unknown name") => Fault::new(
                fault.at,
                format!("unknown name `{name}`: text stands in quotes, \"{name}\""),
            ),
            _ => fault,
        })
    }

    fn header(&mut self, at: usize, name: Checked) -> Result<Checked, Fault> {
        let (name, cost) = self.header_name(at, name)?;
        let bound = Bound::header();
        Ok(Checked {
            expr: Expr::Header(Box::new(name)),
            kind: Type::STRING,
            cost,
            bound,
        })
    }

    pub(super) fn header_present(&mut self, at: usize, name: Checked) -> Result<Checked, Fault> {
        let (name, cost) = self.header_name(at, name)?;
        Ok(Checked {
            expr: Expr::HeaderPresent(Box::new(name)),
            kind: Type::BOOL,
            cost,
            bound: Bound::default(),
        })
    }

    /// The cost includes reading the header.
    fn header_name(&mut self, at: usize, name: Checked) -> Result<(Expr, u64), Fault> {
        if !name.kind.may_be(Kind::String) {
            return Err(Fault::new(
                at,
                format!("the name of a header is a string, this is {}", name.kind),
            ));
        }
        if let Some(text) = name.literal_text() {
            check_header_name(at, text)?;
        }
        self.uses(Attribute::RequestHeaders);
        let reading = Bound::header().lookup(Bound::header());
        Ok((name.expr, total(&[name.cost, reading, 1])))
    }

    /// `has(e.f)`: is there a field, where `e` can be read.
    pub(super) fn has(&mut self, at: usize, arguments: &[Ast]) -> Result<Checked, Fault> {
        let [argument] = arguments else {
            return Err(Fault::new(at, "has() takes one field, as in `has(a.b)`"));
        };
        if let Some(attribute) = self.attribute_of(argument) {
            self.uses(attribute);
            return Ok(Checked {
                expr: Expr::AttributePresent(attribute),
                kind: Type::BOOL,
                cost: reading(attribute),
                bound: Bound::default(),
            });
        }
        let Node::Select(of, field) = &argument.node else {
            return Err(Fault::new(
                argument.at,
                "has() takes a field, as in `has(a.b)`; for a key write `\"b\" in a`",
            ));
        };
        if self.is_headers(of) {
            let name = Checked::constant(Const::String(field.clone()), Type::STRING);
            return self.header_present(argument.at, name);
        }
        if let Some((at, path)) = self.dotted(argument)
            && !begins_with_attribute(&path)
        {
            return Err(names::unknown(at, &path));
        }
        let of = self.check(of)?;
        field_type(argument.at, &of.kind, field)?;
        let key = Bound::text(field.len() as u64);
        Ok(Checked {
            kind: Type::BOOL,
            cost: total(&[of.cost, of.bound.lookup(key)]),
            bound: Bound::default(),
            expr: Expr::Has(Box::new(of.expr), field.clone()),
        })
    }
}

/// Audiences are looked at one by one.
fn reading(attribute: Attribute) -> u64 {
    match attribute {
        Attribute::AuthAudiences => total(&[Bound::of_attribute(attribute).items]),
        _ => 1,
    }
}

fn begins_with_attribute(path: &str) -> bool {
    Attribute::ALL.into_iter().any(|attribute| {
        path.strip_prefix(attribute.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

fn field_type(at: usize, of: &Type, field: &str) -> Result<Type, Fault> {
    match of {
        Type::Dyn => Ok(Type::Dyn),
        Type::Map(key, value) if key.may_be(Kind::String) => Ok((**value).clone()),
        other => Err(Fault::new(at, format!("{other} has no field `{field}`"))),
    }
}

/// RFC 9110 section 5.1: a token; lower case, as the engine keeps them.
fn check_header_name(at: usize, name: &str) -> Result<(), Fault> {
    let instead = match name {
        "host" | ":authority" => Some("request.host"),
        ":method" => Some("request.method"),
        ":path" => Some("request.path"),
        _ => None,
    };
    if let Some(instead) = instead {
        return Err(Fault::new(at, format!("`{name}` is read as `{instead}`")));
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(Fault::new(
            at,
            format!(
                "names of headers are lower case: \"{}\"",
                name.to_ascii_lowercase()
            ),
        ));
    }
    if super::super::is_header_name(name) {
        return Ok(());
    }
    Err(Fault::new(
        at,
        format!("{name:?} is not the name of a header"),
    ))
}

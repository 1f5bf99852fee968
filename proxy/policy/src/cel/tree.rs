//! The typed program: names resolved, macros expanded, every call a function that exists.

use ipnet::IpNet;

use super::ast::Operator;
use super::attribute::Attribute;
use super::constant::Const;
use super::types::Kind;

#[derive(Debug)]
pub(super) enum Expr {
    Const(Const),
    Attribute(Attribute),
    /// `has()` of an attribute.
    AttributePresent(Attribute),
    /// The variable of a macro around it: 0 is the innermost.
    Variable(usize),
    /// `request.headers[name]`
    Header(Box<Expr>),
    /// `name in request.headers`
    HeaderPresent(Box<Expr>),
    /// `map.field`
    Select(Box<Expr>, Box<str>),
    /// `has(map.field)`
    Has(Box<Expr>, Box<str>),
    Index(Box<[Expr; 2]>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary(Operator, Box<[Expr; 2]>),
    And(Box<[Expr]>),
    Or(Box<[Expr]>),
    Choose(Box<[Expr; 3]>),
    List(Box<[Expr]>),
    Map(Box<[(Expr, Expr)]>),
    Text(TextTest, Box<[Expr; 2]>),
    Call(Function, Box<Expr>),
    /// An address as text.
    InCidr(Box<Expr>, IpNet),
    /// An address attribute, without making it text first.
    AddressIn(Attribute, IpNet),
    Macro(Box<Macro>),
}

/// A test of one string by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

impl TextTest {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Contains => "contains",
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
        }
    }
}

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    LowerAscii,
    UpperAscii,
    /// `int(…)`, `string(…)`, …
    To(Kind),
    TypeOf,
}

impl Function {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::LowerAscii => "lowerAscii",
            Self::UpperAscii => "upperAscii",
            Self::To(kind) => kind.as_str(),
            Self::TypeOf => "type",
        }
    }
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) kind: MacroKind,
    pub(super) range: Expr,
    /// What is asked of each element; for `map` without a filter: none.
    pub(super) predicate: Option<Expr>,
    /// Of `map`.
    pub(super) transform: Option<Expr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MacroKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

impl MacroKind {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "all" => Self::All,
            "exists" => Self::Exists,
            "exists_one" | "existsOne" => Self::ExistsOne,
            "filter" => Self::Filter,
            "map" => Self::Map,
            _ => return None,
        })
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Exists => "exists",
            Self::ExistsOne => "exists_one",
            Self::Filter => "filter",
            Self::Map => "map",
        }
    }
}

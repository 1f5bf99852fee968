//! Types: of values, and of expressions before there are values.

use std::fmt;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    List,
    Map,
    Type,
}

impl Kind {
    /// Its name in an expression.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::List => "list",
            Self::Map => "map",
            Self::Type => "type",
        }
    }

    pub(super) const ALL: [Self; 10] = [
        Self::Null,
        Self::Bool,
        Self::Int,
        Self::Uint,
        Self::Double,
        Self::String,
        Self::Bytes,
        Self::List,
        Self::Map,
        Self::Type,
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The type of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    /// Known only when it is evaluated.
    Dyn,
    /// Neither list nor map.
    Plain(Kind),
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
}

impl Type {
    pub(super) const BOOL: Self = Self::Plain(Kind::Bool);
    pub(super) const INT: Self = Self::Plain(Kind::Int);
    pub(super) const STRING: Self = Self::Plain(Kind::String);

    pub(super) fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    pub(super) fn map(keys: Self, values: Self) -> Self {
        Self::Map(Box::new(keys), Box::new(values))
    }

    /// `None` is known only when it is evaluated.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Dyn => None,
            Self::Plain(kind) => Some(*kind),
            Self::List(_) => Some(Kind::List),
            Self::Map(..) => Some(Kind::Map),
        }
    }

    pub(super) fn may_be(&self, kind: Kind) -> bool {
        self.kind().is_none_or(|own| own == kind)
    }

    /// Can a value of one type equal a value of the other? Numbers compare across their types.
    pub(super) fn comparable(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::Plain(one), Self::Plain(two)) => {
                one == two || (one.is_number() && two.is_number())
            }
            (Self::List(one), Self::List(two)) => one.comparable(two),
            (Self::Map(key, value), Self::Map(other_key, other_value)) => {
                key.comparable(other_key) && value.comparable(other_value)
            }
            _ => false,
        }
    }

    /// What both are: their common type, else `dyn`.
    pub(super) fn join(self, other: &Self) -> Self {
        match (self, other) {
            (one, two) if one == *two => one,
            (Self::List(one), Self::List(two)) => Self::list(one.join(two)),
            (Self::Map(key, value), Self::Map(other_key, other_value)) => {
                Self::map(key.join(other_key), value.join(other_value))
            }
            _ => Self::Dyn,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Plain(kind) => write!(f, "{kind}"),
            Self::List(element) => write!(f, "list({element})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
        }
    }
}

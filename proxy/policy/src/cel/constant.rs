//! Values that are written in the expression.

use super::types::{Kind, Type};

/// A value that the program owns. Never nested deeper than the expression was.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Const {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Box<str>),
    Bytes(Box<[u8]>),
    List(Box<[Const]>),
    Map(Box<[(Const, Const)]>),
    Type(Kind),
}

impl Const {
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

    /// The type of a constant that is neither list nor map: those are typed from their elements.
    pub(super) fn plain_type(&self) -> Type {
        Type::Plain(self.kind())
    }
}

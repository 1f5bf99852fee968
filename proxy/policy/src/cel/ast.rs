//! An expression as it was written: names not yet resolved, macros not yet told from functions.

use super::constant::Const;

#[derive(Debug)]
pub(super) struct Ast {
    /// Where it is in the source, in bytes: an operator for operations, else its first character.
    pub(super) at: usize,
    /// Of the tree below and including this node; never more than `MAX_DEPTH`.
    pub(super) depth: usize,
    pub(super) node: Node,
}

#[derive(Debug)]
pub(super) enum Node {
    Literal(Const),
    Name(Box<str>),
    Select(Box<Ast>, Box<str>),
    Index(Box<Ast>, Box<Ast>),
    Call {
        receiver: Option<Box<Ast>>,
        function: Box<str>,
        arguments: Vec<Ast>,
    },
    List(Vec<Ast>),
    Map(Vec<(Ast, Ast)>),
    Not(Box<Ast>),
    Negate(Box<Ast>),
    Binary(Operator, Box<Ast>, Box<Ast>),
    /// `&&`, of two and more: a chain is one node, so that long ones don't nest.
    And(Vec<Ast>),
    /// `||`, of two and more.
    Or(Vec<Ast>),
    Choose(Box<Ast>, Box<Ast>, Box<Ast>),
}

/// A binary operator other than `&&` and `||`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Operator {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
        }
    }
}

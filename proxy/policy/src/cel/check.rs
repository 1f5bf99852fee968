//! The tree to a typed program: cel-spec langdef, "Gradual Type Checking".
//!
//! What can be known to fail is refused here; `dyn`, the type of a claim, is left to the evaluation.

mod access;
mod calls;
mod macros;
mod names;
mod operators;

use super::ast::{Ast, Node};
use super::attribute::Attribute;
use super::bound::Bound;
use super::constant::Const;
use super::error::Fault;
use super::meter::MAX_COST;
use super::tree::Expr;
use super::types::{Kind, Type};

/// A typed program and what is known about it.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) expr: Expr,
    pub(super) cost: u64,
    pub(super) uses: Uses,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Uses {
    pub(super) request: bool,
    pub(super) remote: bool,
    pub(super) identity: bool,
    pub(super) token: bool,
}

pub(super) fn check(ast: &Ast) -> Result<Program, Fault> {
    let mut checker = Checker::default();
    let checked = checker.check(ast)?;
    match checked.kind.kind() {
        Some(Kind::Bool) => {}
        None => {
            return Err(Fault::new(
                ast.at,
                "a condition is a bool, and this is one only perhaps: compare it, as in `… == true`",
            ));
        }
        Some(_) => {
            return Err(Fault::new(
                ast.at,
                format!(
                    "a condition is a bool, this is {}: compare it with something",
                    checked.kind
                ),
            ));
        }
    }
    if checked.cost > MAX_COST {
        return Err(too_costly(ast.at, checked.cost));
    }
    Ok(Program {
        expr: checked.expr,
        cost: checked.cost,
        uses: checker.uses,
    })
}

fn too_costly(at: usize, cost: u64) -> Fault {
    Fault::new(
        at,
        format!(
            "this may take {cost} steps, and {MAX_COST} are allowed: going through a claim inside another multiplies them"
        ),
    )
}

#[derive(Default)]
struct Checker {
    /// The variables of the macros around, the innermost last.
    variables: Vec<Variable>,
    uses: Uses,
}

struct Variable {
    name: Box<str>,
    kind: Type,
    bound: Bound,
}

/// A typed expression.
struct Checked {
    expr: Expr,
    kind: Type,
    /// What evaluating it costs at most.
    cost: u64,
    bound: Bound,
}

impl Checked {
    fn constant(constant: Const, kind: Type) -> Self {
        Self {
            bound: Bound::of_const(&constant),
            expr: Expr::Const(constant),
            kind,
            cost: 1,
        }
    }

    /// The text that is written there, if it is.
    fn literal_text(&self) -> Option<&str> {
        match &self.expr {
            Expr::Const(Const::String(text)) => Some(text),
            _ => None,
        }
    }
}

/// The costs of parts and of the operation itself.
fn total(parts: &[u64]) -> u64 {
    parts.iter().fold(1, |sum, cost| sum.saturating_add(*cost))
}

impl Checker {
    fn check(&mut self, ast: &Ast) -> Result<Checked, Fault> {
        match &ast.node {
            Node::Literal(constant) => {
                Ok(Checked::constant(constant.clone(), constant.plain_type()))
            }
            Node::Name(_) | Node::Select(..) => self.member(ast),
            Node::Index(of, index) => self.index(ast.at, of, index),
            Node::Call {
                receiver,
                function,
                arguments,
            } => self.call(ast.at, receiver.as_deref(), function, arguments),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Not(operand) => self.not(ast.at, operand),
            Node::Negate(operand) => self.negate(ast.at, operand),
            Node::Binary(operator, left, right) => self.binary(ast.at, *operator, left, right),
            Node::And(operands) => self.logical("&&", operands, Expr::And),
            Node::Or(operands) => self.logical("||", operands, Expr::Or),
            Node::Choose(condition, yes, no) => self.choose(ast.at, condition, yes, no),
        }
    }

    /// What must be a bool, as far as can be known.
    fn check_bool(&mut self, ast: &Ast, what: &str) -> Result<Checked, Fault> {
        let checked = self.check(ast)?;
        if checked.kind.may_be(Kind::Bool) {
            return Ok(checked);
        }
        Err(Fault::new(
            ast.at,
            format!("{what} is a bool, this is {}", checked.kind),
        ))
    }

    /// How deep in the macros around it a variable is, the innermost first.
    fn variable(&self, name: &str) -> Option<(usize, &Variable)> {
        let mut inside_out = self.variables.iter().rev().enumerate();
        inside_out.find(|(_, variable)| *variable.name == *name)
    }

    fn uses(&mut self, attribute: Attribute) {
        self.uses.request |= attribute.is_request();
        self.uses.token |= attribute.is_token();
        self.uses.identity |= attribute.is_identity();
        self.uses.remote |= attribute == Attribute::RemoteIp;
    }

    fn list(&mut self, elements: &[Ast]) -> Result<Checked, Fault> {
        let elements = self.check_all(elements)?;
        let kind = joined(elements.iter().map(|element| &element.kind));
        let bound = Bound::container(elements.iter().map(|element| element.bound));
        let cost = total(&elements.iter().map(|e| e.cost).collect::<Vec<_>>());
        let (expr, cost) = match constants(elements) {
            Ok(constants) => (Expr::Const(Const::List(constants)), 1),
            Err(exprs) => (Expr::List(exprs), cost),
        };
        Ok(Checked {
            expr,
            kind: Type::list(kind),
            cost,
            bound,
        })
    }

    fn map(&mut self, entries: &[(Ast, Ast)]) -> Result<Checked, Fault> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            let checked = self.check(key)?;
            // A constant is known even where its type is `dyn`.
            let kind = match &checked.expr {
                Expr::Const(constant) if checked.kind == Type::Dyn => constant.plain_type(),
                _ => checked.kind.clone(),
            };
            let allowed = [Kind::Bool, Kind::Int, Kind::Uint, Kind::String];
            if !allowed.iter().any(|allowed| kind.may_be(*allowed)) {
                return Err(Fault::new(
                    key.at,
                    format!("the key of a map is a string, int, uint or bool, this is {kind}"),
                ));
            }
            let repeated = keys
                .iter()
                .any(|earlier: &Checked| same_key(&earlier.expr, &checked.expr));
            if repeated {
                return Err(Fault::new(key.at, "the map has this key already"));
            }
            keys.push(checked);
            values.push(self.check(value)?);
        }
        let kind = Type::map(
            joined(keys.iter().map(|key| &key.kind)),
            joined(values.iter().map(|value| &value.kind)),
        );
        let bound = Bound::map(
            entries.len(),
            keys.iter().chain(&values).map(|part| part.bound),
        );
        let mut cost = total(
            &keys
                .iter()
                .chain(&values)
                .map(|part| part.cost)
                .collect::<Vec<_>>(),
        );
        // A key that is computed is compared with all before it.
        let comparisons = bound.lookup(bound).saturating_mul(entries.len() as u64);
        cost = cost.saturating_add(comparisons);
        let (expr, cost) = match (constants(keys), constants(values)) {
            (Ok(keys), Ok(values)) => {
                let entries = keys.into_iter().zip(values).collect();
                (Expr::Const(Const::Map(entries)), 1)
            }
            (keys, values) => {
                let exprs = |parts: Result<Box<[Const]>, Box<[Expr]>>| match parts {
                    Ok(constants) => constants.into_iter().map(Expr::Const).collect(),
                    Err(exprs) => exprs,
                };
                let entries = exprs(keys).into_iter().zip(exprs(values)).collect();
                (Expr::Map(entries), cost)
            }
        };
        Ok(Checked {
            expr,
            kind,
            cost,
            bound,
        })
    }

    fn check_all(&mut self, asts: &[Ast]) -> Result<Vec<Checked>, Fault> {
        asts.iter().map(|ast| self.check(ast)).collect()
    }
}

fn joined<'t>(mut kinds: impl Iterator<Item = &'t Type>) -> Type {
    let Some(first) = kinds.next() else {
        return Type::Dyn;
    };
    kinds.fold(first.clone(), Type::join)
}

/// Are both the same, or at least equal as numbers?
fn same_key(one: &Expr, two: &Expr) -> bool {
    let (Expr::Const(one), Expr::Const(two)) = (one, two) else {
        return false;
    };
    match (one, two) {
        (Const::Int(int), Const::Uint(uint)) | (Const::Uint(uint), Const::Int(int)) => {
            u64::try_from(*int) == Ok(*uint)
        }
        _ => one == two,
    }
}

/// All of them as constants, or all as expressions.
fn constants(parts: Vec<Checked>) -> Result<Box<[Const]>, Box<[Expr]>> {
    if parts.iter().all(|part| matches!(part.expr, Expr::Const(_))) {
        let constant = |part: Checked| match part.expr {
            Expr::Const(constant) => Some(constant),
            _ => None,
        };
        return Ok(parts.into_iter().filter_map(constant).collect());
    }
    Err(parts.into_iter().map(|part| part.expr).collect())
}

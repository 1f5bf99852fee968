//! Macros over the elements of a list or the keys of a map: cel-spec langdef, "Macros".

use super::super::ast::{Ast, Node};
use super::super::attribute::Attribute;
use super::super::bound::Bound;
use super::super::error::Fault;
use super::super::meter::MAX_COST;
use super::super::tree::{Expr, Macro, MacroKind};
use super::super::types::{Kind, Type};
use super::{Checked, Checker, Variable, too_costly, total};

/// What going to the next element costs.
const STEP: u64 = 2;

impl Checker {
    pub(super) fn expand(
        &mut self,
        at: usize,
        kind: MacroKind,
        range: &Ast,
        arguments: &[Ast],
    ) -> Result<Checked, Fault> {
        let (variable, predicate, transform) = match (kind, arguments) {
            (MacroKind::Map, [variable, transform]) => (variable, None, Some(transform)),
            (MacroKind::Map, [variable, predicate, transform]) => {
                (variable, Some(predicate), Some(transform))
            }
            (
                MacroKind::All | MacroKind::Exists | MacroKind::ExistsOne | MacroKind::Filter,
                [variable, predicate],
            ) => (variable, Some(predicate), None),
            _ => {
                let name = kind.as_str();
                return Err(Fault::new(
                    at,
                    format!(".{name}() takes a variable and an expression: `list.{name}(x, …)`"),
                ));
            }
        };
        let name = variable_name(variable)?;
        let range_at = range.at;
        let range = self.check(range)?;
        let element = match &range.kind {
            Type::List(element) => (**element).clone(),
            Type::Map(key, _) => (**key).clone(),
            Type::Dyn => Type::Dyn,
            Type::Plain(other) => {
                return Err(Fault::new(
                    range_at,
                    format!(
                        ".{}() goes through a list or a map, this is {other}",
                        kind.as_str()
                    ),
                ));
            }
        };
        self.variables.push(Variable {
            name,
            kind: element,
            bound: range.bound,
        });
        let body = self.body(kind, predicate, transform);
        self.variables.pop();
        let (predicate, transform) = body?;

        let part = |checked: &Option<Checked>| checked.as_ref().map_or(0, |c| c.cost);
        let each = total(&[STEP, part(&predicate), part(&transform)]);
        let cost = total(&[range.cost, range.bound.items.saturating_mul(each)]);
        if cost > MAX_COST {
            return Err(too_costly(at, cost));
        }
        let (result, bound) = match (kind, &transform) {
            (MacroKind::Map, Some(transform)) => (
                Type::list(transform.kind.clone()),
                range.bound.of_each(transform.bound),
            ),
            (MacroKind::Filter, _) => match range.kind {
                Type::List(_) => (range.kind.clone(), range.bound),
                Type::Map(ref key, _) => (Type::list((**key).clone()), range.bound),
                _ => (Type::list(Type::Dyn), range.bound),
            },
            _ => (Type::BOOL, Bound::default()),
        };
        Ok(Checked {
            expr: Expr::Macro(Box::new(Macro {
                kind,
                range: range.expr,
                predicate: predicate.map(|checked| checked.expr),
                transform: transform.map(|checked| checked.expr),
            })),
            kind: result,
            cost,
            bound,
        })
    }

    fn body(
        &mut self,
        kind: MacroKind,
        predicate: Option<&Ast>,
        transform: Option<&Ast>,
    ) -> Result<(Option<Checked>, Option<Checked>), Fault> {
        let predicate = match predicate {
            Some(ast) => {
                let what = format!("what .{}() asks of each element", kind.as_str());
                Some(self.check_bool(ast, &what)?)
            }
            None => None,
        };
        let transform = transform.map(|ast| self.check(ast)).transpose()?;
        Ok((predicate, transform))
    }
}

fn variable_name(ast: &Ast) -> Result<Box<str>, Fault> {
    let Node::Name(name) = &ast.node else {
        return Err(Fault::new(
            ast.at,
            "expected the name of a variable, as in `list.exists(x, x == 1)`",
        ));
    };
    let is_root = Attribute::ALL
        .into_iter()
        .any(|attribute| attribute.as_str().split('.').next() == Some(name));
    if is_root || Kind::named(name).is_some() {
        return Err(Fault::new(
            ast.at,
            format!("`{name}` has a meaning already: choose another name for the variable"),
        ));
    }
    Ok(name.clone())
}

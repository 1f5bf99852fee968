//! all, exists, exists_one, filter and map.

use std::rc::Rc;

use super::super::error::EvalError;
use super::super::tree::{Expr, Macro, MacroKind};
use super::super::value::{List, Value};
use super::{Evaluated, Evaluator, Scope, Scopes, undefined};

impl<'v> Evaluator<'v> {
    pub(super) fn expand(&self, parts: &'v Macro, scopes: Scopes<'_, 'v>) -> Evaluated<'v> {
        let range = self.eval(&parts.range, scopes)?;
        match &range {
            Value::List(list) => self.go_through(parts, list.iter(), scopes),
            Value::Map(map) => self.go_through(parts, map.keys(), scopes),
            other => Err(undefined(parts.kind.as_str(), other, None)),
        }
    }

    fn go_through(
        &self,
        parts: &'v Macro,
        mut elements: impl Iterator<Item = Value<'v>>,
        scopes: Scopes<'_, 'v>,
    ) -> Evaluated<'v> {
        match parts.kind {
            MacroKind::All => self.absorb(parts, elements, scopes, false),
            MacroKind::Exists => self.absorb(parts, elements, scopes, true),
            MacroKind::ExistsOne => {
                let count = elements.try_fold(0_u64, |count, element| {
                    Ok(count + u64::from(self.holds(parts, &element, scopes)?))
                })?;
                Ok(Value::Bool(count == 1))
            }
            MacroKind::Filter | MacroKind::Map => {
                let mut chosen = Vec::new();
                for element in elements {
                    if !self.holds(parts, &element, scopes)? {
                        continue;
                    }
                    chosen.push(match &parts.transform {
                        Some(transform) => self.eval_with(transform, &element, scopes)?,
                        None => element,
                    });
                }
                Ok(Value::List(List::Owned(Rc::from(chosen))))
            }
        }
    }

    /// As `&&` and `||` over all elements: one that decides makes errors of others irrelevant.
    fn absorb(
        &self,
        parts: &'v Macro,
        elements: impl Iterator<Item = Value<'v>>,
        scopes: Scopes<'_, 'v>,
        decides: bool,
    ) -> Evaluated<'v> {
        let mut error = None;
        for element in elements {
            match self.holds(parts, &element, scopes) {
                Ok(value) if value == decides => return Ok(Value::Bool(decides)),
                Ok(_) => {}
                // Whoever is out of steps has no more to find out.
                Err(EvalError::Cost(limit)) => return Err(EvalError::Cost(limit)),
                Err(first) => error = error.or(Some(first)),
            }
        }
        error.map_or(Ok(Value::Bool(!decides)), Err)
    }

    /// Without a predicate every element is meant.
    fn holds(
        &self,
        parts: &'v Macro,
        element: &Value<'v>,
        scopes: Scopes<'_, 'v>,
    ) -> Result<bool, EvalError> {
        self.meter.spend(2)?;
        let Some(predicate) = &parts.predicate else {
            return Ok(true);
        };
        let scope = Scope {
            value: element,
            outer: scopes,
        };
        self.test(predicate, Some(&scope))
    }

    fn eval_with(
        &self,
        expr: &'v Expr,
        element: &Value<'v>,
        scopes: Scopes<'_, 'v>,
    ) -> Evaluated<'v> {
        let scope = Scope {
            value: element,
            outer: scopes,
        };
        self.eval(expr, Some(&scope))
    }
}

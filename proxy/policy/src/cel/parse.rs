//! Tokens to a tree: cel-spec langdef, "Syntax", by operator precedence.
//!
//! Nesting is bounded twice: by how deep this parser recurses, and by how deep the tree gets.

use super::ast::{Ast, Node, Operator};
use super::constant::Const;
use super::error::Fault;
use super::lex::{Token, tokens};

/// How deep an expression nests, in parentheses, brackets, operators and calls.
pub(super) const MAX_DEPTH: usize = 32;

/// cel-spec langdef: may not be names, so that they can be keywords one day.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(super) fn parse(source: &str) -> Result<Ast, Fault> {
    let mut parser = Parser {
        tokens: tokens(source)?,
        next: 0,
        nesting: 0,
    };
    let ast = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(ast),
        _ => Err(parser.unexpected("an operator, or the end")),
    }
}

struct Parser {
    /// Never empty: the last is `End`.
    tokens: Vec<(usize, Token)>,
    next: usize,
    nesting: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens
            .get(self.next)
            .map_or(&Token::End, |(_, token)| token)
    }

    fn at(&self) -> usize {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens
            .get(self.next.min(last))
            .map_or(0, |(at, _)| *at)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn takes(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), Fault> {
        if self.takes(symbol) {
            return Ok(());
        }
        Err(self.unexpected(&format!("`{symbol}`")))
    }

    fn unexpected(&self, expected: &str) -> Fault {
        let found = match self.peek() {
            Token::Identifier(name) => format!("`{name}`"),
            Token::QuotedField(name) => format!("`` `{name}` ``"),
            Token::Int(_) | Token::Uint(_) | Token::Double(_) => "a number".to_owned(),
            Token::String(_) => "a string".to_owned(),
            Token::Bytes(_) => "bytes".to_owned(),
            Token::Symbol(symbol) => format!("`{symbol}`"),
            Token::End => "the end".to_owned(),
        };
        Fault::new(self.at(), format!("expected {expected}, found {found}"))
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.nesting == MAX_DEPTH {
            return Err(too_deep(self.at()));
        }
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    /// `Expr = ConditionalOr ["?" ConditionalOr ":" Expr]`
    fn expression(&mut self) -> Result<Ast, Fault> {
        self.deeper(|parser| {
            let condition = parser.or()?;
            let at = parser.at();
            if !parser.takes("?") {
                return Ok(condition);
            }
            let yes = parser.or()?;
            parser.expect(":")?;
            let no = parser.expression()?;
            let depth = condition.depth.max(yes.depth).max(no.depth);
            let node = Node::Choose(Box::new(condition), Box::new(yes), Box::new(no));
            above(at, depth, node)
        })
    }

    fn or(&mut self) -> Result<Ast, Fault> {
        self.chain("||", Self::and, Node::Or)
    }

    fn and(&mut self) -> Result<Ast, Fault> {
        self.chain("&&", |parser| parser.binary(0), Node::And)
    }

    fn chain(
        &mut self,
        symbol: &str,
        operand: impl Fn(&mut Self) -> Result<Ast, Fault>,
        node: impl FnOnce(Vec<Ast>) -> Node,
    ) -> Result<Ast, Fault> {
        let first = operand(self)?;
        let at = self.at();
        let mut operands = vec![first];
        while self.takes(symbol) {
            operands.push(operand(self)?);
        }
        if operands.len() == 1
            && let Some(only) = operands.pop()
        {
            return Ok(only);
        }
        let depth = deepest(&operands);
        above(at, depth, node(operands))
    }

    /// Relations bind loosest, then sums, then products; all of them to the left.
    fn binary(&mut self, loosest: u8) -> Result<Ast, Fault> {
        let mut left = self.unary()?;
        while let Some((operator, binding)) = operator(self.peek())
            && binding >= loosest
        {
            let at = self.at();
            self.next += 1;
            let right = self.binary(binding + 1)?;
            let depth = left.depth.max(right.depth);
            let node = Node::Binary(operator, Box::new(left), Box::new(right));
            left = above(at, depth, node)?;
        }
        Ok(left)
    }

    /// `!` and `-`, any number of either.
    fn unary(&mut self) -> Result<Ast, Fault> {
        let at = self.at();
        if self.takes("!") {
            let operand = self.deeper(Self::unary)?;
            let depth = operand.depth;
            return above(at, depth, Node::Not(Box::new(operand)));
        }
        if self.takes("-") {
            // The sign belongs to the number: there is no other way to write the least int.
            if let Token::Int(magnitude) = *self.peek() {
                let value = i64::try_from(-i128::from(magnitude))
                    .map_err(|_| Fault::new(at, "the number does not fit in an int"))?;
                self.next += 1;
                return self.members(leaf(at, Node::Literal(Const::Int(value))));
            }
            let operand = self.deeper(Self::unary)?;
            let depth = operand.depth;
            return above(at, depth, Node::Negate(Box::new(operand)));
        }
        let primary = self.primary()?;
        self.members(primary)
    }

    /// `.field`, `.call(…)` and `[index]` behind `ast`.
    fn members(&mut self, mut ast: Ast) -> Result<Ast, Fault> {
        loop {
            let at = self.at();
            if self.takes(".") {
                let at = self.at();
                let field = match self.take() {
                    // Reserved words may be fields: `source.namespace`.
                    Token::Identifier(name) if !is_keyword(&name) => name,
                    Token::QuotedField(name) => {
                        let depth = ast.depth;
                        ast = above(at, depth, Node::Select(Box::new(ast), name))?;
                        continue;
                    }
                    _ => {
                        self.next -= 1;
                        return Err(self.unexpected("the name of a field or function"));
                    }
                };
                let depth = ast.depth;
                ast = if self.takes("(") {
                    let arguments = self.list(")")?;
                    let depth = depth.max(deepest(&arguments));
                    let node = Node::Call {
                        receiver: Some(Box::new(ast)),
                        function: field,
                        arguments,
                    };
                    above(at, depth, node)?
                } else {
                    above(at, depth, Node::Select(Box::new(ast), field))?
                };
            } else if self.takes("[") {
                let index = self.expression()?;
                self.expect("]")?;
                let depth = ast.depth.max(index.depth);
                ast = above(at, depth, Node::Index(Box::new(ast), Box::new(index)))?;
            } else if matches!(self.peek(), Token::Symbol("{")) {
                return Err(Fault::new(
                    at,
                    "messages cannot be made here; a map is `{\"key\": value}`",
                ));
            } else {
                return Ok(ast);
            }
        }
    }

    fn primary(&mut self) -> Result<Ast, Fault> {
        let at = self.at();
        let literal = |value| Ok(leaf(at, Node::Literal(value)));
        match self.take() {
            Token::Int(value) => match i64::try_from(value) {
                Ok(value) => literal(Const::Int(value)),
                Err(_) => Err(Fault::new(
                    at,
                    "the number does not fit in an int; an unsigned one ends with `u`",
                )),
            },
            Token::Uint(value) => literal(Const::Uint(value)),
            Token::Double(value) => literal(Const::Double(value)),
            Token::String(value) => literal(Const::String(value)),
            Token::Bytes(value) => literal(Const::Bytes(value)),
            Token::Identifier(name) => self.name(at, name),
            Token::Symbol("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => {
                let elements = self.list("]")?;
                above(at, deepest(&elements), Node::List(elements))
            }
            Token::Symbol("{") => self.map(at),
            Token::Symbol(".") => Err(Fault::new(
                at,
                "names do not start with a dot: there are no packages here",
            )),
            Token::QuotedField(_) => Err(Fault::new(
                at,
                "back quotes are for fields, behind a dot; text stands in quotes",
            )),
            Token::Symbol(_) | Token::End => {
                self.next -= 1;
                Err(self.unexpected("a value"))
            }
        }
    }

    fn name(&mut self, at: usize, name: Box<str>) -> Result<Ast, Fault> {
        match &*name {
            "true" => return Ok(leaf(at, Node::Literal(Const::Bool(true)))),
            "false" => return Ok(leaf(at, Node::Literal(Const::Bool(false)))),
            "null" => return Ok(leaf(at, Node::Literal(Const::Null))),
            "in" => return Err(Fault::new(at, "expected a value in front of `in`")),
            word if RESERVED.contains(&word) => {
                return Err(Fault::new(
                    at,
                    format!("`{word}` is a reserved word of CEL, not a name"),
                ));
            }
            _ => {}
        }
        if !self.takes("(") {
            return Ok(leaf(at, Node::Name(name)));
        }
        let arguments = self.list(")")?;
        let depth = deepest(&arguments);
        let node = Node::Call {
            receiver: None,
            function: name,
            arguments,
        };
        above(at, depth, node)
    }

    /// Expressions between commas up to `close`.
    fn list(&mut self, close: &'static str) -> Result<Vec<Ast>, Fault> {
        let mut elements = Vec::new();
        while !self.takes(close) {
            elements.push(self.expression()?);
            if !self.takes(",") {
                self.expect(close)?;
                break;
            }
            // A comma may stand behind the last element, but not in a call.
            if close == ")" && matches!(self.peek(), Token::Symbol(")")) {
                return Err(self.unexpected("a value"));
            }
        }
        Ok(elements)
    }

    fn map(&mut self, at: usize) -> Result<Ast, Fault> {
        let mut entries = Vec::new();
        let mut depth = 0;
        while !self.takes("}") {
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            depth = depth.max(key.depth).max(value.depth);
            entries.push((key, value));
            if !self.takes(",") {
                self.expect("}")?;
                break;
            }
        }
        above(at, depth, Node::Map(entries))
    }
}

fn operator(token: &Token) -> Option<(Operator, u8)> {
    Some(match token {
        Token::Symbol("==") => (Operator::Equal, 0),
        Token::Symbol("!=") => (Operator::NotEqual, 0),
        Token::Symbol("<") => (Operator::Less, 0),
        Token::Symbol("<=") => (Operator::LessOrEqual, 0),
        Token::Symbol(">") => (Operator::Greater, 0),
        Token::Symbol(">=") => (Operator::GreaterOrEqual, 0),
        Token::Identifier(name) if &**name == "in" => (Operator::In, 0),
        Token::Symbol("+") => (Operator::Add, 1),
        Token::Symbol("-") => (Operator::Subtract, 1),
        Token::Symbol("*") => (Operator::Multiply, 2),
        Token::Symbol("/") => (Operator::Divide, 2),
        Token::Symbol("%") => (Operator::Modulo, 2),
        _ => return None,
    })
}

fn is_keyword(name: &str) -> bool {
    matches!(name, "true" | "false" | "null" | "in")
}

fn leaf(at: usize, node: Node) -> Ast {
    Ast { at, depth: 1, node }
}

fn deepest(children: &[Ast]) -> usize {
    children.iter().map(|child| child.depth).max().unwrap_or(0)
}

fn above(at: usize, deepest: usize, node: Node) -> Result<Ast, Fault> {
    if deepest >= MAX_DEPTH {
        return Err(too_deep(at));
    }
    Ok(Ast {
        at,
        depth: deepest + 1,
        node,
    })
}

fn too_deep(at: usize) -> Fault {
    Fault::new(
        at,
        format!("nested deeper than {MAX_DEPTH} levels: split it into several conditions"),
    )
}

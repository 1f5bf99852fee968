//! Any text compiles or is refused; any program has a value or an error; and what it says is what a
//! naive reading of the same tree says.

use proptest::prelude::*;

use super::Case;
use crate::cel::Program;
use crate::cel::eval::Evaluator;
use crate::cel::meter::Meter;

/// Compiles and, if it can, evaluates in every situation.
fn survives(source: &str) {
    let Ok(program) = Program::compile(source) else {
        return;
    };
    for case in [
        Case::default(),
        Case {
            token: None,
            peer: None,
            sni: None,
            ..Case::default()
        },
        Case {
            is_http: false,
            ..Case::default()
        },
    ] {
        case.with(|env| {
            let evaluator = Evaluator {
                env,
                meter: Meter::new(),
            };
            let _ = program.evaluate(&evaluator);
            assert!(
                evaluator.meter.spent() <= program.cost(),
                "{source}: {} of {}",
                evaluator.meter.spent(),
                program.cost()
            );
        });
    }
}

/// Pieces that make expressions more often than letters do.
const PIECES: [&str; 72] = [
    "source.principal",
    "source.ip",
    "remote.ip",
    "destination.port",
    "connection.sni",
    "request.method",
    "request.host",
    "request.path",
    "request.headers",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.claims",
    "request.auth.claims.groups",
    "request.auth.claims.level",
    "request.auth.claims.address",
    ".groups",
    ".level",
    ".x",
    "['x-id']",
    "[0]",
    "[-1]",
    "x",
    "y",
    "1",
    "-1",
    "2u",
    "1.5",
    "9223372036854775807",
    "'a'",
    "b'a'",
    "'x-id'",
    "true",
    "false",
    "null",
    "[1, 2]",
    "['a', 'b']",
    "{'a': 1}",
    "[]",
    "{}",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    " == ",
    " != ",
    " < ",
    " >= ",
    " in ",
    " + ",
    " - ",
    " * ",
    " / ",
    " % ",
    " && ",
    " || ",
    "!",
    "-",
    "size(",
    "has(",
    "dyn(",
    "int(",
    "string(",
    ".exists(x, ",
    ".all(y, ",
    ".map(x, ",
    ".contains(",
    "type(",
];

/// An expression over ints or bools, and how it is written.
#[derive(Debug, Clone)]
enum Tree {
    Int(i64),
    Port,
    Level,
    Bool(bool),
    Missing,
    Unary(&'static str, Box<Tree>),
    Binary(&'static str, Box<Tree>, Box<Tree>),
    Choose(Box<Tree>, Box<Tree>, Box<Tree>),
    In(Box<Tree>, Vec<Tree>),
    /// `[…].macro(v, v < bound)`
    Macro(&'static str, Vec<Tree>, Box<Tree>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Oracle {
    Int(i64),
    Bool(bool),
}

impl Tree {
    fn text(&self) -> String {
        let list = |elements: &[Tree]| {
            let texts: Vec<String> = elements.iter().map(Self::text).collect();
            texts.join(", ")
        };
        match self {
            Self::Int(value) => value.to_string(),
            Self::Port => "destination.port".to_owned(),
            Self::Level => "request.auth.claims.level".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Missing => "(request.auth.claims.missing == 1)".to_owned(),
            Self::Unary(operator, of) => format!("{operator}({})", of.text()),
            Self::Binary(operator, one, two) => {
                format!("({} {operator} {})", one.text(), two.text())
            }
            Self::Choose(condition, yes, no) => {
                format!("({} ? {} : {})", condition.text(), yes.text(), no.text())
            }
            Self::In(one, elements) => format!("({} in [{}])", one.text(), list(elements)),
            Self::Macro(name, elements, bound) => {
                format!("[{}].{name}(v, v < {})", list(elements), bound.text())
            }
        }
    }

    /// `None` is an error.
    fn oracle(&self) -> Option<Oracle> {
        Some(match self {
            Self::Int(value) => Oracle::Int(*value),
            Self::Port => Oracle::Int(8080),
            Self::Level => Oracle::Int(3),
            Self::Bool(value) => Oracle::Bool(*value),
            Self::Missing => return None,
            Self::Unary("!", of) => Oracle::Bool(!of.bool()?),
            Self::Unary(_, of) => Oracle::Int(of.int()?.checked_neg()?),
            Self::Binary("&&", one, two) => match (one.bool(), two.bool()) {
                (Some(false), _) | (_, Some(false)) => Oracle::Bool(false),
                (one, two) => Oracle::Bool(one? && two?),
            },
            Self::Binary("||", one, two) => match (one.bool(), two.bool()) {
                (Some(true), _) | (_, Some(true)) => Oracle::Bool(true),
                (one, two) => Oracle::Bool(one? || two?),
            },
            Self::Binary("==", one, two) => Oracle::Bool(one.oracle()? == two.oracle()?),
            Self::Binary("!=", one, two) => Oracle::Bool(one.oracle()? != two.oracle()?),
            Self::Binary(operator, one, two) => {
                let (one, two) = (one.int()?, two.int()?);
                match *operator {
                    "<" => Oracle::Bool(one < two),
                    "<=" => Oracle::Bool(one <= two),
                    ">" => Oracle::Bool(one > two),
                    ">=" => Oracle::Bool(one >= two),
                    "+" => Oracle::Int(one.checked_add(two)?),
                    "-" => Oracle::Int(one.checked_sub(two)?),
                    "*" => Oracle::Int(one.checked_mul(two)?),
                    "/" => Oracle::Int(one.checked_div(two)?),
                    _ => Oracle::Int(one.checked_rem(two)?),
                }
            }
            Self::Choose(condition, yes, no) => {
                if condition.bool()? {
                    yes.oracle()?
                } else {
                    no.oracle()?
                }
            }
            Self::In(one, elements) => {
                let one = one.oracle()?;
                let elements: Option<Vec<Oracle>> = elements.iter().map(Self::oracle).collect();
                Oracle::Bool(elements?.contains(&one))
            }
            Self::Macro(name, elements, bound) => {
                let elements: Option<Vec<Option<i64>>> = elements
                    .iter()
                    .map(|element| element.int().map(Some))
                    .collect();
                let holds: Vec<Option<bool>> = elements?
                    .into_iter()
                    .map(|element| Some(element? < bound.int()?))
                    .collect();
                let errors = holds.iter().any(Option::is_none);
                Oracle::Bool(match *name {
                    "all" if holds.contains(&Some(false)) => false,
                    "exists" if holds.contains(&Some(true)) => true,
                    _ if errors => return None,
                    "all" => true,
                    "exists" => false,
                    _ => holds.iter().filter(|held| **held == Some(true)).count() == 1,
                })
            }
        })
    }

    fn int(&self) -> Option<i64> {
        match self.oracle()? {
            Oracle::Int(value) => Some(value),
            Oracle::Bool(_) => None,
        }
    }

    fn bool(&self) -> Option<bool> {
        match self.oracle()? {
            Oracle::Bool(value) => Some(value),
            Oracle::Int(_) => None,
        }
    }
}

fn integers(depth: u32) -> BoxedStrategy<Tree> {
    let leaf = prop_oneof![
        4 => (-3_i64..4).prop_map(Tree::Int),
        1 => prop_oneof![Just(i64::MAX), Just(i64::MIN), Just(i64::MIN + 1)].prop_map(Tree::Int),
        1 => Just(Tree::Port),
        1 => Just(Tree::Level),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let operator = prop::sample::select(vec!["+", "-", "*", "/", "%"]);
    prop_oneof![
        2 => leaf,
        3 => (operator, integers(depth - 1), integers(depth - 1))
            .prop_map(|(operator, one, two)| Tree::Binary(operator, one.into(), two.into())),
        1 => integers(depth - 1).prop_map(|of| Tree::Unary("-", of.into())),
        1 => (bools(depth - 1), integers(depth - 1), integers(depth - 1))
            .prop_map(|(condition, yes, no)| Tree::Choose(condition.into(), yes.into(), no.into())),
    ]
    .boxed()
}

fn bools(depth: u32) -> BoxedStrategy<Tree> {
    let leaf = prop_oneof![3 => any::<bool>().prop_map(Tree::Bool), 1 => Just(Tree::Missing)];
    if depth == 0 {
        return leaf.boxed();
    }
    let compare = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let logic = prop::sample::select(vec!["&&", "||", "==", "!="]);
    let name = prop::sample::select(vec!["all", "exists", "exists_one"]);
    let some = |depth| prop::collection::vec(integers(depth), 0..4);
    prop_oneof![
        1 => leaf,
        2 => (compare, integers(depth - 1), integers(depth - 1))
            .prop_map(|(operator, one, two)| Tree::Binary(operator, one.into(), two.into())),
        3 => (logic, bools(depth - 1), bools(depth - 1))
            .prop_map(|(operator, one, two)| Tree::Binary(operator, one.into(), two.into())),
        1 => bools(depth - 1).prop_map(|of| Tree::Unary("!", of.into())),
        1 => (bools(depth - 1), bools(depth - 1), bools(depth - 1))
            .prop_map(|(condition, yes, no)| Tree::Choose(condition.into(), yes.into(), no.into())),
        1 => (integers(depth - 1), some(depth - 1))
            .prop_map(|(one, elements)| Tree::In(one.into(), elements)),
        1 => (name, some(depth - 1), integers(depth - 1))
            .prop_map(|(name, elements, bound)| Tree::Macro(name, elements, bound.into())),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_is_survived(source in "\\PC{0,120}") {
        survives(&source);
    }

    #[test]
    fn any_characters_of_the_language_are_survived(source in "[a-z0-9\"'\\\\`.()\\[\\]{}?:!<>=&|+*/%, \n-]{0,80}") {
        survives(&source);
    }

    #[test]
    fn any_sequence_of_pieces_is_survived(pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..24)) {
        survives(&pieces.concat());
    }

    #[test]
    fn says_what_a_naive_reading_says(tree in bools(4)) {
        let source = tree.text();
        let program = match Program::compile(&source) {
            Ok(program) => program,
            Err(error) => {
                // Nothing but size may stand in the way.
                let limit = ["longer than", "nested deeper", "steps"];
                prop_assert!(limit.iter().any(|limit| error.message.contains(limit)), "{source}\n{error}");
                return Ok(());
            }
        };
        let got = Case::default().with(|env| program.eval(env));
        prop_assert_eq!(got.clone().ok(), tree.bool(), "{}\n{:?}", source, got);
        survives(&source);
    }
}

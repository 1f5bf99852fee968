//! Everything is bounded: text, nesting, cost.

use serde_json::{Map, json};

use super::{Case, Sent, check};
use crate::cel::eval::Evaluator;
use crate::cel::meter::{MAX_COST, Meter};
use crate::cel::{CelError, MAX_SOURCE, Program};

fn compile(source: &str) -> Result<Program, CelError> {
    Program::compile(source)
}

#[track_caller]
fn refused(source: &str, expected: &str) {
    let error = compile(source).unwrap_err();
    assert!(error.message.contains(expected), "{error}");
}

#[test]
fn an_expression_is_short() {
    let longest = format!("true{}", " ".repeat(MAX_SOURCE - 4));
    assert!(compile(&longest).is_ok());
    refused(&format!("{longest} "), "longer than 4096 bytes");
    refused(&"é".repeat(MAX_SOURCE), "longer than 4096 bytes");
}

#[test]
fn nesting_is_bounded_whatever_nests() {
    for (open, inner, close) in [
        ("(", "true", ")"),
        ("!", "true", ""),
        ("!(", "true", ")"),
        ("-", "x", " == 1"),
        ("[", "1", "]"),
        ("{1: ", "1", "}"),
        ("dyn(", "1", ")"),
        ("true ? true : ", "true", ""),
        ("1 + (", "1", ")"),
        ("[1].exists(x, ", "true", ")"),
        ("[1][", "0", "]"),
        ("", "'a'", ".lowerAscii()"),
        ("", "dyn(1)", ".a"),
        ("", "dyn(1)", "[0]"),
        ("", "1", " + 1"),
        ("", "1", " == 1"),
    ] {
        for levels in [33, 200, 4000 / (open.len() + close.len())] {
            let source = format!("{}{inner}{}", open.repeat(levels), close.repeat(levels));
            if source.len() <= MAX_SOURCE {
                refused(&source, "nested deeper than 32 levels");
            }
        }
    }
}

#[test]
fn what_a_person_writes_fits() {
    check(&format!("{}true{}", "(".repeat(30), ")".repeat(30)), "true");
    check(&format!("true{}", " && true".repeat(500)), "true");
    check(&format!("false{}", " || false".repeat(400)), "false");
    check(&format!("1{} == 30", " + 1".repeat(29)), "true");
    let groups: Vec<String> = (0..80).map(|n| format!("'g{n}'")).collect();
    check(
        &format!(
            "request.auth.claims.groups.exists(g, g in [{}])",
            groups.join(",")
        ),
        "false",
    );
}

/// The deepest that compiles needs little of a stack, even without optimisation.
#[test]
fn recursion_is_as_deep_as_the_expression() {
    let work = || {
        for (open, inner, close, levels) in [
            ("(", "true", ")", 31),
            ("!", "true", "", 31),
            ("[1].exists(x, ", "true", ")", 30),
            ("[1].map(x, ", "1", ")", 29),
            ("[", "1", "]", 30),
            ("true ? (", "true", ") : false", 15),
        ] {
            let mut source = format!("{}{inner}{}", open.repeat(levels), close.repeat(levels));
            if !matches!(inner, "true") {
                source += " != []";
            }
            match compile(&source) {
                Ok(program) => drop(Case::default().with(|env| program.eval(env))),
                Err(error) => panic!("{source}\n{error}"),
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(512 * 1024);
    thread.spawn(work).unwrap().join().unwrap();
}

#[test]
fn cost_is_bounded_on_load() {
    refused(
        "request.auth.claims.a.exists(x, request.auth.claims.b.exists(y, x == y))",
        "going through a claim inside another",
    );
    refused(
        "request.auth.claims.a.map(x, [x, x]).map(y, y.map(z, y)) == []",
        "steps",
    );
    let all = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]";
    let nested = format!(
        "{all}.all(a, {all}.all(b, {all}.all(c, {all}.all(d, {all}.all(e, a + b + c + d + e >= 0)))))"
    );
    refused(&nested, "steps");
    for fits in [
        "request.auth.claims.groups.exists(g, g.contains('admin') || g == 'root')",
        "['a', 'b'].exists(p, request.auth.claims.groups.exists(g, g.startsWith(p)))",
        "request.auth.claims.a == request.auth.claims.b",
        "request.auth.claims.a.all(x, x in ['a', 'b', 'c', 'd', 'e'])",
        "request.auth.claims.roles.filter(r, r.endsWith('@shop')).size() > 2",
    ] {
        let program = compile(fits).unwrap();
        assert!(program.cost() <= MAX_COST, "{fits}");
    }
}

/// Larger than assumed: 1,000 × 1,000 characters, in a claim and in a header.
#[test]
fn cost_is_bounded_again_while_evaluating() {
    let long = "a".repeat(1_000);
    let mut claims = Map::new();
    claims.insert("list".to_owned(), json!(vec![long.clone(); 1_000]));
    claims.insert("many".to_owned(), json!(vec![1; 200_000]));
    claims.insert(
        "deep".to_owned(),
        (0..500).fold(json!(1), |inner, _| json!([inner])),
    );
    let case = Case {
        token: Some(("i", "s", claims)),
        headers: Sent(vec![(
            "x-long",
            Box::leak(long.into_boxed_str()).as_bytes(),
        )]),
        ..Case::default()
    };
    let over = "more than the 100000 steps";
    case.check("request.auth.claims.many.all(x, x == 1)", over);
    case.check("2 in request.auth.claims.many", over);
    case.check("request.auth.claims.many == request.auth.claims.many", over);
    case.check("request.auth.claims.many.map(x, x).size() == 1", over);
    case.check("request.auth.claims.many.exists(x, 1 / 0 == x)", over);
    case.check(
        "(request.auth.claims.many + request.auth.claims.many).size() == 1",
        over,
    );
    case.check(
        "request.auth.claims.list.all(x, x.contains('b') || x.contains('a'))",
        over,
    );
    case.check(
        "request.auth.claims.list.map(x, x + 'a' + 'b').size() == 1",
        over,
    );
    // It is an error like any other: what decides without it, decides.
    case.check("request.auth.claims.many.all(x, x == 1) || true", over);
    case.check("true || request.auth.claims.many.all(x, x == 1)", "true");
    case.check(
        "request.auth.claims.deep == request.auth.claims.deep",
        "a value is nested too deep",
    );
}

/// With inputs of the assumed sizes an evaluation stays within the static bound.
#[test]
fn the_static_bound_holds() {
    let case = Case::default();
    for source in [
        "true",
        "source.principal == 'spiffe://a/b'",
        "request.headers['x-id'] == '42' && 'x-id' in request.headers",
        "request.auth.claims.groups.exists(g, g == 'staff')",
        "request.auth.claims.groups.map(g, g + '!').filter(g, g.size() > 5) == ['admin!', 'staff!']",
        "'admin' in request.auth.claims.groups",
        "request.auth.claims.address == {'city': dyn('Bern'), 'lines': ['a', 'b']}",
        "{'a': request.path, 'b': request.host}.exists(k, k == 'c')",
        "{'a': request.path, 'b': request.host}['b'] == 'c'",
        "source.ip.inCidr('10.0.0.0/8') && request.path.inCidr('10.0.0.0/8')",
        "has(request.auth.claims.groups) && has(request.auth.audiences)",
        "int(request.headers['x-id']) + 1 == 43",
        "[1, 2, 3].exists_one(x, x == request.auth.claims.level)",
        "[[1], [2]] == [[1], [2]] && {'a': [1]} == {'a': [1]}",
        "[1] + [2, 3] == [1, 2, 3]",
        "string(bytes(request.path)).upperAscii().size() < 3",
        "(request.method == 'GET' ? source.ip : remote.ip) != '10.0.0.1'",
    ] {
        let program = Program::compile(source).unwrap();
        case.with(|env| {
            let evaluator = Evaluator {
                env,
                meter: Meter::new(),
            };
            let _ = program.evaluate(&evaluator);
            let spent = evaluator.meter.spent();
            assert!(
                spent > 0 && spent <= program.cost(),
                "{source}: {spent} of {}",
                program.cost()
            );
        });
    }
}

#[test]
fn programs_are_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug>(_: &T) {}
    let program = Program::compile("true").unwrap();
    shared(&program);
    assert_eq!(format!("{program:?}"), "Program(\"true\")");
    assert_eq!(program.source(), "true");
}

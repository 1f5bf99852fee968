//! What does not compile, and what people are told.

use crate::cel::Program;

#[track_caller]
fn refused(source: &str, expected: &str) {
    match Program::compile(source) {
        Ok(_) => panic!("{source}\ncompiles"),
        Err(error) => assert_eq!(error.to_string(), expected, "{source}"),
    }
}

/// The message alone, of an error anywhere.
#[track_caller]
fn says(source: &str, expected: &str) {
    match Program::compile(source) {
        Ok(_) => panic!("{source}\ncompiles"),
        Err(error) => assert!(
            error.message.contains(expected),
            "{source}\n{}\n{expected}",
            error.message
        ),
    }
}

#[test]
fn errors_have_a_place() {
    refused("1 ==", "line 1, column 5: expected a value, found the end");
    refused(
        "'ä' == 'ö' && # ",
        "line 1, column 15: '#' has no meaning here: text stands in quotes",
    );
    refused(
        "request.method == 'GET'\n  && request.pth == '/'",
        "line 2, column 6: unknown name `request.pth`: did you mean `request.path`?",
    );
    refused(" \n ", "line 1, column 1: the expression is empty");
}

#[test]
fn names_that_nothing_has_are_told_with_those_that_are_near() {
    says(
        "source.principle == 'a'",
        "did you mean `source.principal`?",
    );
    says(
        "source.service_account == 'a'",
        "did you mean `source.serviceAccount`?",
    );
    says(
        "source.trustdomain == 'a'",
        "did you mean `source.trustDomain`?",
    );
    says(
        "request.header['a'] == 'a'",
        "did you mean `request.headers`?",
    );
    says(
        "request.auth.claim.groups == 'a'",
        "did you mean `request.auth.claims`?",
    );
    says(
        "request.auth == 'a'",
        "`request.auth` is not a value by itself; there is `request.auth.principal`, ",
    );
    says("has(request)", "has() takes a field");
    says(
        "has(request.auth)",
        "`request.auth` is not a value by itself",
    );
    says(
        "has(request.auth.calims)",
        "did you mean `request.auth.claims`?",
    );
    says(
        "source.certificate == 'a'",
        "unknown name `source.certificate`: there is `source.principal`, ",
    );
    says("foo == 'a'", "attributes begin with `source.`, `remote.`");
    says(
        "request.headers[xid] == 'a'",
        "text stands in quotes, \"xid\"",
    );
    says("now > 1", "there is no clock");
    says(&format!("{} == 1", "a".repeat(4000)), "unknown name");
}

#[test]
fn functions_that_there_are_not() {
    says(
        "request.path.matches('^/a')",
        "no regular expression is built from policy text",
    );
    says("matches(request.path, '^/a')", "no regular expression");
    says(
        "timestamp('2020-01-01T00:00:00Z') == 1",
        "does not depend on the time",
    );
    says("duration('1s') == 1", "does not depend on the time");
    says("request.path.startswith('/')", "did you mean `startsWith`?");
    says(
        "request.path.split('/') == []",
        "unknown function `split`: there is `has`, `size`",
    );
    says(
        "startsWith(request.path, '/')",
        "`startsWith` stands behind what it is asked of",
    );
    says(
        "[1].dyn() == 1",
        "`dyn` stands in front of what it is asked of",
    );
    says(
        "math.greatest(1, 2) == 2",
        "the extension `math` is not supported",
    );
    says(
        "size('a', 'b') == 1",
        "size() takes one argument, here are 2",
    );
    says("'a'.size(1) == 1", ".size() takes no argument");
    says(
        "'a'.contains() == 1",
        "contains() takes one argument, here are 0",
    );
}

#[test]
fn types_are_checked() {
    says("1", "a condition is a bool, this is int");
    says("[true]", "a condition is a bool, this is list(bool)");
    says(
        "request.auth.claims.admin",
        "this is one only perhaps: compare it",
    );
    says(
        "destination.port == '8080'",
        "`==` compares int with string, which are never equal",
    );
    says("source.ip in [1]", "`in` compares string with int");
    says("1 in {'a': 1}", "`in` compares int with string");
    says(
        "'a' in request.path",
        "`in` looks in a list or a map, this is string: a part of a text is `.contains(…)`",
    );
    says(
        "request.auth.audiences == 'a'",
        "`==` compares list(string) with string",
    );
    says(
        "request.auth.audiences.contains('a')",
        "an element of a list is found with `in`",
    );
    says(
        "request.path + 1 == ''",
        "`+` is not defined for string and int: convert it, `string(…)`",
    );
    says(
        "1 + 1.0 == 2.0",
        "`+` is not defined for int and double: convert one, as in `int(…)`",
    );
    says(
        "1.0 % 1.0 == 0.0",
        "`%` is not defined for double and double",
    );
    says("-1u == 1u", "`-` is of an int or a double, this is uint");
    says(
        "-'a' == 'a'",
        "`-` is of an int or a double, this is string",
    );
    says("!1", "`!` is of a bool, this is int");
    says("1 && true", "what `&&` joins is a bool, this is int");
    says("'a' || true", "what `||` joins is a bool, this is string");
    says(
        "1 ? true : false",
        "what stands before `?` is a bool, this is int",
    );
    says(
        "(true ? 1 : 'a') == 1",
        "both choices have one type, these are int and string",
    );
    says("'a' < 1", "`<` is not defined for string and int");
    says(
        "[1] < [2]",
        "`<` is not defined for list(int) and list(int)",
    );
    says("null == 1", "`==` compares null_type with int");
    says(
        "[1]['a'] == 1",
        "the index of a list is an int, this is string",
    );
    says(
        "{'a': 1}[1] == 1",
        "the keys of this map are string, this is int",
    );
    says("'a'[0] == 'a'", "string has no elements");
    says("source.principal.path == '/'", "string has no field `path`");
    says("{1: 2}.a == 2", "map(int, int) has no field `a`");
    says("size(1) == 1", "int has no size");
    says("int([]) == 1", "int() is not defined for list(dyn)");
    says("bool(1)", "bool() is not defined for int");
    says("1.all(x, true)", "");
    says(
        "'a'.all(x, true)",
        ".all() goes through a list or a map, this is string",
    );
    says(
        "[1].all(x, x)",
        "what .all() asks of each element is a bool, this is int",
    );
    says(
        "{[1]: 2} == {}",
        "the key of a map is a string, int, uint or bool, this is list(int)",
    );
    says("{1.5: 2} == {}", "this is double");
    says("{'a': 1, 'a': 2} == {}", "the map has this key already");
    says("{1: 1, 1u: 2} == {}", "the map has this key already");
}

#[test]
fn macros_take_a_new_name() {
    says("[1].all(1, true)", "expected the name of a variable");
    says("[1].all(a.b, true)", "expected the name of a variable");
    says("[1].all(source, true)", "`source` has a meaning already");
    says("[1].all(int, true)", "`int` has a meaning already");
    says("[1].all(x)", ".all() takes a variable and an expression");
    says(
        "[1].all(i, x, true)",
        ".all() takes a variable and an expression",
    );
    says("[1].all(x, true) && x == 1", "unknown name `x`");
    says("x.all(x, true)", "unknown name `x`");
    says("has({'a': 1}['a'])", "has() takes a field");
    says("has('a')", "has() takes a field");
    says("has(source.ip, source.ip)", "has() takes one field");
}

#[test]
fn headers_are_named_as_they_are_kept() {
    says(
        "request.headers['X-Id'] == ''",
        "names of headers are lower case: \"x-id\"",
    );
    says(
        "'X-Id' in request.headers",
        "names of headers are lower case",
    );
    says(
        "has(request.headers.Accept)",
        "names of headers are lower case: \"accept\"",
    );
    says(
        "request.headers['host'] == ''",
        "`host` is read as `request.host`",
    );
    says(
        "request.headers[':path'] == ''",
        "`:path` is read as `request.path`",
    );
    says(
        "request.headers['a b'] == ''",
        "\"a b\" is not the name of a header",
    );
    says("request.headers[''] == ''", "is not the name of a header");
    says(
        "request.headers[1] == ''",
        "the name of a header is a string, this is int",
    );
    says("request.headers.size() == 1", "headers are read by name");
    says("request.headers == {}", "headers are read by name");
    says("request.headers.all(h, true)", "headers are read by name");
}

#[test]
fn addresses_are_written_as_they_compare() {
    says(
        "source.ip == 'localhost'",
        "\"localhost\" is not an IP address",
    );
    says("source.ip == '10.0.0.0/8'", "a range is `.inCidr(");
    says(
        "source.ip == '2001:DB8::1'",
        "this address is written \"2001:db8::1\"",
    );
    says(
        "'::ffff:10.0.0.1' != source.ip",
        "this address is written \"10.0.0.1\"",
    );
    says(
        "source.ip in ['10.0.0.1', '10.0.0.01']",
        "is not an IP address",
    );
    says("source.ip.inCidr('10.0.0.0/33')", "is not an address range");
    says(
        "source.ip.inCidr('10.0.0.1')",
        "compare it with `==`, or write \"10.0.0.1/32\"",
    );
    says("source.ip.inCidr('10.0.0.1/8')", "write \"10.0.0.0/8\"");
    says(
        "source.ip.inCidr('::ffff:10.0.0.0/104')",
        "write the range as IPv4",
    );
    says(
        "source.ip.inCidr(request.path)",
        "inCidr() takes an address range as text",
    );
    says("1.inCidr('10.0.0.0/8')", "");
}

#[test]
fn what_is_not_grammar() {
    for (source, expected) in [
        ("true = false", "equality is `==`"),
        ("true & false", "and is `&&`"),
        ("true | false", "or is `||`"),
        (
            "true and false",
            "expected an operator, or the end, found `and`",
        ),
        ("'a", "the closing ' is missing"),
        ("'a\n'", "the closing ' is missing on this line"),
        ("'''a", "the closing ''' is missing"),
        (r"'\d'", "no such escape: write `\\\\` for a backslash"),
        (r"'\x1'", "this escape has 2 digits"),
        (r"'\u+123'", "this escape has 4 digits"),
        (r"'\uD800'", "not a Unicode character"),
        (r"'\U00110000'", "not a Unicode character"),
        (r"b'\u0041'", "bytes have no `\\u`"),
        (r"'\400'", "no such escape"),
        ("0X1F == 31", "this follows a number without a space"),
        ("1x == 1", "this follows a number without a space"),
        ("1.5u == 1", "this follows a number without a space"),
        ("18446744073709551616u == 1u", "does not fit in 64 bits"),
        ("9223372036854775808 == 1", "does not fit in an int"),
        ("-9223372036854775809 == 1", "does not fit in an int"),
        ("1e999 == 1.0", "does not fit in a double"),
        ("(true", "expected `)`, found the end"),
        ("[1 2] == []", "expected `]`, found a number"),
        ("{'a' 1} == {}", "expected `:`, found a number"),
        ("size(1,) == 1", "expected a value, found `)`"),
        ("true ? false", "expected `:`, found the end"),
        ("a.1 == 1", ""),
        (
            "source.'ip' == ''",
            "expected the name of a field or function, found a string",
        ),
        (
            "source.in == ''",
            "expected the name of a field or function, found `in`",
        ),
        (".source.ip == ''", "names do not start with a dot"),
        ("`a` == ''", "back quotes are for fields"),
        (
            "source.`a",
            "between back quotes stands the name of a field",
        ),
        ("Point{x: 1} == 1", "messages cannot be made here"),
        ("for == 1", "`for` is a reserved word"),
        ("in [1]", "expected a value in front of `in`"),
        (
            "true true",
            "expected an operator, or the end, found `true`",
        ),
        ("source.ip == \"10.0.0.1\" \u{201c}", "has no meaning here"),
    ] {
        says(source, expected);
    }
}

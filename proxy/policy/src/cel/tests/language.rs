//! Facts of the cel-spec's langdef, each in an expression. What compiles in cel-go too has the same
//! value there, but that cel-go rounds where an integer is compared with a double beyond 2^53, and
//! takes `has(x.f)` of what is no map for false.

use super::{check, check_all};

#[test]
fn literals() {
    check_all(
        "true",
        &[
            "0x1F == 31",
            "0xfFu == 255u",
            "-0x10 == -16",
            "-9223372036854775808 < -9223372036854775807",
            "18446744073709551615u > 0u",
            "1e3 == 1000.0",
            "1.5E-1 == 0.15",
            ".5 == 0.5",
            "1 - -1 == 2",
            "- 1 == -1",
            "--1 == 1",
            "!!true",
            r#""a" == 'a'"#,
            r#""""a"b""" == "a\"b""#,
            "'''a\nb''' == 'a\\nb'",
            r#"r"\n" == "\\n""#,
            r#"R'\' == "\\""#,
            r#""\a\b\f\n\r\t\v\\\?\"\'\`" == "\x07\X08\u000c\U0000000a\015\011\013\x5c\x3f\x22\x27\x60""#,
            r#""\xff" == "ÿ""#,
            r#""ÿ".size() == 1"#,
            r#"b"\xff".size() == 1"#,
            r#"b"ÿ".size() == 2"#,
            r#"b"ÿ" == b"\303\277""#,
            r#"b'a' != b'b'"#,
            r#"Br"\n".size() == 2"#,
            r#""a // b" == "a /" + "/ b" // a comment"#,
            "null == null",
            "[] == []",
            "[1, 2,] == [1, 2]",
            "{} == {}",
            "{'a': 1,} == {'a': 1}",
            "{'a': 1, 'b': 2} == {'b': 2, 'a': 1}",
            "{1: 'a', 2u: 'b', true: 'c', 'x': 'd'}[true] == 'c'",
        ],
    );
}

#[test]
fn operators_bind_as_in_the_grammar() {
    check_all(
        "true",
        &[
            "1 + 2 * 3 == 7",
            "(1 + 2) * 3 == 9",
            "10 - 3 - 2 == 5",
            "100 / 10 / 5 == 2",
            "7 % 4 * 2 == 6",
            "-2 * -3 == 6",
            "true || false && false",
            "!(true && false)",
            "1 < 2 == true",
            "2 in [1, 2] && !(3 in [1, 2])",
            "1 + 1 in [2]",
            "true ? false || true : false",
            "false ? false : true ? true : false",
            "(false ? 1 : 2) == 2",
            "[1, 2][0] + [[3]][0][0] == 4",
            "-[1][0] == -1",
        ],
    );
}

#[test]
fn integers_do_not_wrap() {
    check("9223372036854775807 + 1 == 0", "`+` overflows");
    check("-9223372036854775808 - 1 == 0", "`-` overflows");
    check("9223372036854775807 * 2 == 0", "`*` overflows");
    check("-(-9223372036854775808) == 0", "`-` overflows");
    check("-9223372036854775808 / -1 == 0", "`/` overflows");
    check("-9223372036854775808 % -1 == 0", "`%` overflows");
    check("18446744073709551615u + 1u == 0u", "`+` overflows");
    check("0u - 1u == 0u", "`-` overflows");
    check("1 / 0 == 0", "division by zero");
    check("1 % 0 == 0", "division by zero");
    check("1u / 0u == 0u", "division by zero");
    check_all(
        "true",
        &[
            "7 / 2 == 3 && -7 / 2 == -3",
            "7 % 2 == 1 && -7 % 2 == -1",
            "1.0 / 0.0 > 1.0e300",
            "-1.0 / 0.0 < -1.0e300",
            "0.1 + 0.2 != 0.3",
        ],
    );
}

#[test]
fn numbers_compare_across_their_types() {
    check_all(
        "true",
        &[
            // cel-go wants dyn() on one side of equalities across types.
            "1 == 1.0",
            "1u == 1",
            "1 in [1.0]",
            "dyn(1) == 1u",
            "dyn(1.0) == 1",
            "1 < 1.5 && 1.5 < 2u && -1 < 0u",
            "9007199254740993 > 9007199254740992.0",
            "9223372036854775807 < 9223372036854775808.0",
            "18446744073709551615u < 18446744073709551616.0",
            "-1 < 18446744073709551615u",
            "-1.5 < -1 && -1 < -0.5",
            "double('NaN') != double('NaN')",
            "double('Infinity') > 18446744073709551615u",
            "double('-inf') < -9223372036854775808",
            "0.0 == -0.0",
        ],
    );
    check("double('NaN') < 1.0", "`<` of a NaN");
    check("1u >= double('NaN')", "`>=` of a NaN");
}

#[test]
fn equality_of_values_of_other_types_is_false_and_no_error() {
    check_all(
        "false",
        &[
            "dyn(1) == '1'",
            "dyn([1]) == 1",
            "dyn(null) == false",
            "[dyn(1)] == ['1']",
            "dyn({'a': 1}) == {'a': '1'}",
            "{'a': 1} == {'b': 1}",
            "[1, 2] == [2, 1]",
            "[1] == [1, 2]",
            "dyn('a') in [1, 2]",
            "dyn(1) in {'a': 1}",
        ],
    );
    check_all("true", &["dyn(1) != '1'", "[[1], [2.0]] == [[1.0], [2]]"]);
}

#[test]
fn order_is_of_bools_numbers_strings_and_bytes() {
    check_all(
        "true",
        &[
            "false < true",
            "'a' < 'b' && 'a' < 'aa' && 'Z' < 'a' && 'z' < 'ä'",
            "b'a' < b'b'",
            "'a' <= 'a' && 'b' >= 'a' && 'b' > 'a'",
        ],
    );
    check(
        "dyn([1]) < dyn([2])",
        "`<` is not defined for list and list",
    );
    check("dyn('1') < 2", "`<` is not defined for string and int");
    check("dyn(null) <= dyn(null)", "`<=` is not defined");
}

#[test]
fn logic_absorbs_errors_in_any_order() {
    check_all(
        "false",
        &[
            "false && 1/0 == 1",
            "1/0 == 1 && false",
            "1/0 == 1 && 1/0 == 2 && false",
        ],
    );
    check_all(
        "true",
        &[
            "true || 1/0 == 1",
            "1/0 == 1 || true",
            "1/0 == 1 || 1/0 == 2 || true",
        ],
    );
    for undecided in [
        "true && 1/0 == 1",
        "1/0 == 1 && true",
        "false || 1/0 == 1",
        "1/0 == 1 || false",
        "!(1/0 == 1)",
        "1/0 == 1 ? true : true",
    ] {
        check(undecided, "division by zero");
    }
    check_all(
        "true",
        &[
            "true ? true : 1/0 == 1",
            "false ? 1/0 == 1 : true",
            "(1/0 == 1 && false) == false",
        ],
    );
    // What is not a bool is an error too, and absorbed like one.
    check_all("true", &["dyn(1) || true", "!(dyn('a') && false)"]);
    check("dyn(1) && true", "a condition is a bool, this is int");
    check("!dyn(1)", "a condition is a bool, this is int");
    // The first error is the one that is told.
    check("1/0 == 1 || [1][2] == 1", "division by zero");
}

#[test]
fn macros_over_lists_and_maps() {
    check_all(
        "true",
        &[
            "[1, 2, 3].all(x, x > 0)",
            "![1, 2, 3].all(x, x > 1)",
            "[].all(x, false)",
            "[1, 2, 3].exists(x, x == 2)",
            "![].exists(x, true)",
            "[1, 2, 2].exists_one(x, x == 1)",
            "![1, 2, 2].exists_one(x, x == 2)",
            "[1, 2, 3].filter(x, x > 1) == [2, 3]",
            "[1, 2, 3].map(x, x * 2) == [2, 4, 6]",
            "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
            "{'a': 1, 'b': 2}.all(k, k < 'c')",
            "{'a': 1, 'b': 2}.exists(k, k == 'b')",
            "{'a': 1}.map(k, k + k) == ['aa']",
            "{'a': 1, 'b': 2}.filter(k, k == 'a') == ['a']",
            "[[1], [2, 3]].exists(l, l.exists(x, x == 3) && size(l) == 2)",
            "[1].exists(x, [2].exists(y, x + y == 3))",
            "[1].exists(x, [2].exists(x, x == 2))",
            "[1].exists(x, [2].map(x, x + 1) == [3] && x == 1)",
            "[1, 2].map(x, [x, -x]) == [[1, -1], [2, -2]]",
            "[1, 2].map(x, {'n': x})[1].n == 2",
        ],
    );
}

#[test]
fn all_and_exists_absorb_errors_and_the_others_do_not() {
    check_all(
        "true",
        &[
            "[0, 1].exists(x, 1 / x == 1)",
            "[1, 0].exists(x, 1 / x == 1)",
            "![0, 2].all(x, 1 / x == 1)",
            "[dyn('a'), 1].exists(x, x + 1 == 2)",
        ],
    );
    check("[0, 1].all(x, 1 / x == 1)", "division by zero");
    check("[0, 2].exists(x, 1 / x == 1)", "division by zero");
    check("[0, 1].exists_one(x, 1 / x == 1)", "division by zero");
    check("[0, 1].filter(x, 1 / x == 1) == [1]", "division by zero");
    check("[0, 1].map(x, 1 / x) == [1]", "division by zero");
    check("dyn(1).all(x, true)", "`all` is not defined for int");
}

#[test]
fn fields_and_indices() {
    check_all(
        "true",
        &[
            "{'a': 1}.a == 1",
            "{'a': 1}['a'] == 1",
            "{'a-b': 1}.`a-b` == 1",
            "has({'a': 1}.a) && !has({'a': 1}.b)",
            "'a' in {'a': 1} && !('b' in {'a': 1})",
            "{1: 'x'}[1u] == 'x'",
            "dyn({1: 'x'})[1.0] == 'x'",
            "1u in {1: 'x'}",
            "[1, 2][1u] == 2",
            "{'a': {'b': [0, 7]}}.a.b[1] == 7",
            "{'a': size('xy')}.a == 2",
        ],
    );
    check("{'a': 1}.b == 1", "no such key: \"b\"");
    check("{'a': 1}['b'] == 1", "no such key: \"b\"");
    check("[1][1] == 1", "the index is out of range");
    check("[1][-1] == 1", "the index is out of range");
    check(
        "[1][18446744073709551615u] == 1",
        "the index is out of range",
    );
    check(
        "dyn('a')[0] == 'a'",
        "`[]` is not defined for string and int",
    );
    check("dyn(1).a == 1", "`.` is not defined for int");
    check("has(dyn(1).a)", "`.` is not defined for int");
    check("1 in dyn(1)", "`in` is not defined for int and int");
    check(
        "{'a': 1, (request.method == 'GET' ? 'a' : 'b'): 2}.a == 1",
        "a map has the same key twice",
    );
    check(
        "{(request.method == 'GET' ? dyn(1.5) : dyn(1)): 2} == {}",
        "`{}` is not defined for double",
    );
}

#[test]
fn strings_and_lists() {
    check_all(
        "true",
        &[
            "'a' + 'b' == 'ab'",
            "b'a' + b'b' == b'ab'",
            "[1] + [2] == [1, 2]",
            "[1] + [dyn('a')] == [dyn(1), 'a']",
            "size('äöü') == 3 && 'äöü'.size() == 3",
            "size([1, 2]) == 2 && size({'a': 1}) == 1 && size(b'ab') == 2 && size('') == 0",
            "'abc'.contains('b') && 'abc'.contains('') && !'abc'.contains('ac')",
            "'abc'.startsWith('ab') && !'abc'.startsWith('b') && ''.startsWith('')",
            "'abc'.endsWith('bc') && !'abc'.endsWith('b')",
            "'ÄbC'.lowerAscii() == 'Äbc' && 'äbC'.upperAscii() == 'äBC'",
            "'abc'.lowerAscii() == 'abc'",
            "'10.1.2.3'.inCidr('10.0.0.0/8') && !'11.1.2.3'.inCidr('10.0.0.0/8')",
            "'::ffff:10.1.2.3'.inCidr('10.0.0.0/8')",
            "'2001:db8::1'.inCidr('2001:db8::/32')",
        ],
    );
    check(
        "dyn(1).contains('a')",
        "`contains` is not defined for int and string",
    );
    check(
        "'a'.contains(dyn(1))",
        "`contains` is not defined for string and int",
    );
    check("size(dyn(1)) == 1", "`size` is not defined for int");
    check(
        "dyn(1) + 'a' == ''",
        "`+` is not defined for int and string",
    );
    check(
        "'nowhere'.inCidr('10.0.0.0/8')",
        "string has no value as IP address: it is not written as one",
    );
    check("-dyn('a') == 1", "`-` is not defined for string");
    check("dyn(1u) - 1 == 0", "`-` is not defined for uint and int");
    check("dyn(1.5) % 1 == 0", "`%` is not defined for double and int");
}

#[test]
fn conversions() {
    check_all(
        "true",
        &[
            "int(1) == 1 && int(1u) == 1 && int(1.9) == 1 && int(-1.9) == -1 && int('-12') == -12",
            "uint(1) == 1u && uint(1u) == 1u && uint(1.9) == 1u && uint('12') == 12u",
            "double(1) == 1.0 && double(1u) == 1.0 && double('1.5e2') == 150.0",
            "string('a') == 'a' && string(1) == '1' && string(1u) == '1' && string(true) == 'true'",
            "string(1.5) == '1.5' && string(2.0) == '2' && string(-0.25) == '-0.25'",
            "string(1e21) == '1e+21' && string(1e-5) == '1e-05' && string(999999.5) == '999999.5' && string(1e6) == '1e+06'",
            "string(0.0001) == '0.0001' && string(1.0/0.0) == '+Inf' && string(0.0/0.0) == 'NaN'",
            "string(b'a') == 'a' && bytes('ä') == b'\\303\\244' && bytes(b'a') == b'a'",
            "bool(true) && bool('true') && bool('1') && !bool('False') && !bool('f')",
            "type(1) == int && type(1u) == uint && type(1.0) == double && type('') == string",
            "type(true) == bool && type(b'') == bytes && type([]) == list && type({}) == map",
            "type(null) == null_type && type(int) == type && type(type(1)) == type",
            "type(1) != type(1u)",
        ],
    );
    for (source, error) in [
        (
            "int(9223372036854775808u) == 0",
            "uint has no value as int: it is out of range",
        ),
        (
            "int(9223372036854775807.0) == 0",
            "double has no value as int",
        ),
        (
            "int(-9223372036854775808.0) == 0",
            "double has no value as int",
        ),
        ("int(0.0/0.0) == 0", "double has no value as int"),
        (
            "int('1.5') == 0",
            "string has no value as int: it is not a decimal int",
        ),
        ("int('') == 0", "string has no value as int"),
        ("int(' 1') == 0", "string has no value as int"),
        ("uint(-1) == 0u", "int has no value as uint"),
        ("uint(-0.5) == 0u", "double has no value as uint"),
        (
            "uint(18446744073709551616.0) == 0u",
            "double has no value as uint",
        ),
        ("uint('-1') == 0u", "string has no value as uint"),
        ("uint('+1') == 0u", "string has no value as uint"),
        ("uint('') == 0u", "string has no value as uint"),
        ("double('1,5') == 0.0", "string has no value as double"),
        (
            "bool('yes')",
            "string has no value as bool: it is neither true nor false",
        ),
        (
            "string(b'\\xff') == ''",
            "bytes has no value as string: they are not UTF-8",
        ),
        ("string(dyn([])) == ''", "`string` is not defined for list"),
        ("int(dyn(true)) == 1", "`int` is not defined for bool"),
        ("bool(dyn(1))", "`bool` is not defined for int"),
    ] {
        check(source, error);
    }
}

//! What a token says, before anybody believes it.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_certs::jwt::{Jwt, MAX_TOKEN_BYTES};
use serde_json::{Value, json};

fn encode(text: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn token(header: &[u8], claims: &[u8]) -> String {
    format!("{}.{}.c2ln", encode(header), encode(claims))
}

fn with_claims(claims: &str) -> Result<Jwt, String> {
    let token = token(br#"{"alg":"ES256"}"#, claims.as_bytes());
    Jwt::parse(&token).map_err(|e| e.to_string())
}

#[test]
fn reads_the_registered_claims() {
    let read = with_claims(
        r#"{"iss":"https://issuer.example","sub":"alice","aud":["orders","payments"],"exp":1700000000,
            "nbf":1699999999.5,"iat":0,"jti":"7","scope":"a b","deep":{"list":[1,{"x":null}]}}"#,
    )
    .unwrap();
    let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs_f64(seconds));
    assert_eq!(read.issuer(), Some("https://issuer.example"));
    assert_eq!((read.subject(), read.jti()), (Some("alice"), Some("7")));
    assert_eq!(read.audiences().collect::<Vec<_>>(), ["orders", "payments"]);
    assert_eq!(
        (read.exp(), read.nbf()),
        (at(1_700_000_000.0), at(1_699_999_999.5))
    );
    assert_eq!(read.iat(), at(0.0));
    assert_eq!(read.claims()["deep"]["list"][1], json!({"x": null}));
    assert_eq!((read.kid(), read.typ()), (None, None));

    let empty = with_claims("{}").unwrap();
    assert_eq!((empty.issuer(), empty.exp()), (None, None));
    assert_eq!(empty.audiences().count(), 0);
    let one = with_claims(r#"{"aud":"orders"}"#).unwrap();
    assert_eq!(one.audiences().collect::<Vec<_>>(), ["orders"]);
}

#[test]
fn refuses_registered_claims_of_the_wrong_type() {
    for (claims, part) in [
        (r#"{"iss":7}"#, "`iss` is no string"),
        (r#"{"iss":["a"]}"#, "`iss` is no string"),
        (r#"{"sub":null}"#, "`sub` is no string"),
        (r#"{"jti":1}"#, "`jti` is no string"),
        (r#"{"aud":1}"#, "`aud` is neither"),
        (r#"{"aud":null}"#, "`aud` is neither"),
        (r#"{"aud":{"a":"b"}}"#, "`aud` is neither"),
        (r#"{"aud":["a",1]}"#, "`aud` is neither"),
        (r#"{"exp":"1700000000"}"#, "`exp` is no number"),
        (r#"{"exp":null}"#, "`exp` is no number"),
        (r#"{"exp":[1700000000]}"#, "`exp` is no number"),
        (r#"{"exp":true}"#, "`exp` is no number"),
        (r#"{"exp":-1}"#, "`exp` is before 1970"),
        (r#"{"exp":-0.5}"#, "`exp` is before 1970"),
        (r#"{"exp":253402300800}"#, "`exp` is before 1970 or after"),
        (r#"{"exp":18446744073709551615}"#, "or after the year 9999"),
        (r#"{"exp":18446744073709551616}"#, "or after the year 9999"),
        (r#"{"exp":1e308}"#, "or after the year 9999"),
        (r#"{"exp":1e400}"#, "out of range"),
        (r#"{"nbf":-9223372036854775808}"#, "`nbf` is before 1970"),
        (r#"{"iat":"x"}"#, "`iat` is no number"),
    ] {
        let refused = with_claims(claims).unwrap_err();
        assert!(refused.contains(part), "{claims}: {refused}");
    }
    let huge = format!("{{\"exp\":{}}}", "9".repeat(5000));
    assert!(with_claims(&huge).unwrap_err().contains("out of range"));
    assert!(with_claims(r#"{"exp":253402300799}"#).is_ok());
}

#[test]
fn refuses_what_is_no_compact_signed_jwt() {
    let header = br#"{"alg":"ES256"}"#;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(3000), "]".repeat(3000));
    let good = token(header, b"{}");
    let json_serialization =
        json!({"payload": encode(b"{}"), "protected": encode(header), "signature": "c2ln"});
    for (case, token, part) in [
        ("nothing", String::new(), "three parts"),
        ("one part", "abc".to_owned(), "three parts"),
        ("two parts", "abc.def".to_owned(), "three parts"),
        ("four parts", format!("{good}.c2ln"), "three parts"),
        ("JWE", "a.b.c.d.e".to_owned(), "encrypted"),
        ("dots", "..".to_owned(), "header"),
        ("JSON", json_serialization.to_string(), "three parts"),
        (
            "header padded",
            good.replacen('.', "=.", 1),
            "header is no base64url",
        ),
        (
            "claims padded",
            format!("{}.e30=.c2ln", encode(header)),
            "claims is no base64url",
        ),
        (
            "signature padded",
            format!("{}.e30.c2lnYQ==", encode(header)),
            "signature is no base64url",
        ),
        (
            "standard alphabet",
            format!("{}.e30.+/+/", encode(header)),
            "signature is no base64url",
        ),
        (
            "loose bits",
            format!("{}.e31.c2ln", encode(header)),
            "claims is no base64url",
        ),
        (
            "line break",
            format!("{}.\n.c2ln", encode(header)),
            "claims is no base64url",
        ),
        (
            "claims a string",
            token(header, b"\"{}\""),
            "claims is no JSON object",
        ),
        (
            "claims a list",
            token(header, b"[]"),
            "claims is no JSON object",
        ),
        (
            "claims empty",
            token(header, b""),
            "claims is no proper JSON",
        ),
        ("claims twice", token(header, b"{}{}"), "trailing"),
        (
            "a claim twice",
            token(header, br#"{"sub":"a","sub":"b"}"#),
            "\"sub\" twice",
        ),
        (
            "a claim twice below",
            token(header, br#"{"a":{"b":1,"b":2}}"#),
            "\"b\" twice",
        ),
        (
            "no UTF-8",
            token(header, b"{\"sub\":\"\xff\"}"),
            "claims is no proper JSON",
        ),
        ("deep", token(header, deep.as_bytes()), "recursion limit"),
        (
            "header a list",
            token(b"[]", b"{}"),
            "header is no JSON object",
        ),
        ("no alg", token(b"{}", b"{}"), "no `alg`"),
        (
            "alg a number",
            token(br#"{"alg":256}"#, b"{}"),
            "`alg` that is no string",
        ),
        (
            "alg a list",
            token(br#"{"alg":["ES256"]}"#, b"{}"),
            "`alg` that is no string",
        ),
        (
            "alg twice",
            token(br#"{"alg":"ES256","alg":"none"}"#, b"{}"),
            "\"alg\" twice",
        ),
        (
            "kid a number",
            token(br#"{"alg":"ES256","kid":1}"#, b"{}"),
            "`kid` that is no string",
        ),
        (
            "typ a number",
            token(br#"{"alg":"ES256","typ":1}"#, b"{}"),
            "`typ` that is no string",
        ),
        (
            "too long",
            "a".repeat(MAX_TOKEN_BYTES + 1),
            "longer than 16384",
        ),
    ] {
        let refused = Jwt::parse(&token).map(|_| ()).unwrap_err();
        assert_eq!(refused.reason().as_str(), "token-malformed", "{case}");
        let text = refused.to_string();
        assert!(text.contains(part), "{case}: {text}");
    }
    let longest = MAX_TOKEN_BYTES - good.len() - 1;
    let padded = format!("{{\"a\":\"{}\"}}", "a".repeat(longest / 4 * 3 - 16));
    assert!(Jwt::parse(&token(header, padded.as_bytes())).is_ok());
}

#[test]
fn errors_and_debug_give_away_nothing_of_the_token() {
    let secret = "c2VjcmV0c2VjcmV0";
    let header = br#"{"alg":"ES256","kid":"a"}"#;
    let token = format!(
        "{}.{}.{secret}",
        encode(header),
        encode(br#"{"sub":"hidden"}"#)
    );
    let read = Jwt::parse(&token).unwrap();
    let shown = format!("{read:?}");
    assert!(
        !shown.contains("hidden") && !shown.contains(secret),
        "{shown}"
    );
    let long = json!({"alg": "x".repeat(5000)}).to_string();
    let refused = Jwt::parse(&self::token(long.as_bytes(), b"{}")).unwrap_err();
    assert!(refused.to_string().len() < 300);
}

#[test]
fn reads_what_a_token_is_bound_to() {
    let bound = |cnf: Value| {
        with_claims(&json!({"cnf": cnf}).to_string())
            .unwrap()
            .certificate_thumbprint()
    };
    let thumbprint = [7_u8; 32];
    assert_eq!(
        bound(json!({"x5t#S256": encode(&thumbprint)})).unwrap(),
        Some(thumbprint)
    );
    assert_eq!(
        with_claims("{}").unwrap().certificate_thumbprint().unwrap(),
        None
    );
    // Bound to something that we can't compare isn't unbound.
    for cnf in [
        json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
        json!({}),
        json!(null),
        json!("AA"),
        json!({"x5t#S256": encode(&[7; 31])}),
        json!({"x5t#S256": format!("{}=", encode(&thumbprint))}),
        json!({"x5t#S256": 7}),
    ] {
        let refused = bound(cnf.clone()).unwrap_err().to_string();
        assert!(refused.contains("`cnf`"), "{cnf}: {refused}");
    }
}

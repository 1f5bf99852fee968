use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_certs::jwt::Jwks;
use serde_json::{Value, json};

use super::rules::{ClaimHeader, IssuerKeys, Rule, Trust};
use super::*;

const IDP: &str = "https://idp.example";

/// Signs tokens with ES256.
pub(crate) struct Issuer(EcdsaKeyPair);

impl Issuer {
    pub(crate) fn new() -> Self {
        Issuer(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn jwks(&self) -> String {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": x, "y": y}]}).to_string()
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "ES256", "kid": "k"});
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self
            .0
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Seconds since 1970, from now.
fn at(seconds: i64) -> i64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_secs()).unwrap() + seconds
}

pub(crate) fn claims() -> Value {
    json!({"iss": IDP, "sub": "ann", "aud": ["orders", "other"], "exp": at(600), "jti": "7", "level": 3})
}

fn with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn header(name: &str, prefix: &str) -> Location {
    Location::Header {
        name: name.into(),
        prefix: prefix.into(),
    }
}

fn rule(issuer: &Issuer) -> Rule {
    let document = issuer.jwks();
    Rule {
        trust: Trust::Issuer {
            issuer: IDP.into(),
            keys: IssuerKeys {
                keys: Some(Jwks::parse(document.as_bytes()).unwrap()),
                document,
            },
        },
        audiences: vec!["orders".into()],
        locations: vec![
            header("authorization", "Bearer "),
            Location::Param("access_token".into()),
        ],
        forward: false,
        payload_header: None,
        claim_headers: vec![ClaimHeader {
            header: "x-user".into(),
            claim: "sub".into(),
        }],
        skew: Duration::ZERO,
        bound: false,
    }
}

pub(crate) fn rules(issuer: &Issuer) -> Arc<Rules> {
    of([rule(issuer)])
}

fn of(rules: impl Into<Vec<Rule>>) -> Arc<Rules> {
    Arc::new(Rules::new(rules.into()).unwrap())
}

pub(crate) fn verified(token: &str, rules: &Rules) -> Rc<Verified> {
    match verify::verify(token, rules, None) {
        Ok(verified) => Rc::new(verified),
        Err(refused) => panic!("{}", refused.why),
    }
}

/// Headers in order, as on the wire.
#[derive(Default)]
struct Wire<'a>(Vec<(&'a str, &'a str)>);

impl<'a> AllHeaders<'a> for Wire<'a> {
    fn each(&self, visit: &mut dyn FnMut(&'a str, &'a [u8])) {
        self.0
            .iter()
            .for_each(|(name, value)| visit(name, value.as_bytes()));
    }
}

impl Headers for Wire<'_> {
    fn for_each(&self, wanted: &str, visit: &mut dyn FnMut(&[u8])) {
        self.each(&mut |name, value| {
            if name.eq_ignore_ascii_case(wanted) {
                visit(value);
            }
        });
    }
}

/// One request after another, as a worker has them.
struct Bench {
    rules: Arc<Rules>,
    cache: Cache,
    thumbprint: Option<[u8; 32]>,
    revoked: bool,
    ahead: Duration,
}

impl Bench {
    fn new(rules: impl Into<Vec<Rule>>) -> Self {
        Bench {
            rules: of(rules),
            cache: Cache::default(),
            thumbprint: None,
            revoked: false,
            ahead: Duration::ZERO,
        }
    }

    fn ask(
        &self,
        headers: &[(&str, &str)],
        query: Option<&str>,
    ) -> Result<Examined, (&'static str, String)> {
        let revoked = self.revoked;
        let circumstances = Circumstances {
            now: SystemTime::now() + self.ahead,
            own: None,
            thumbprint: self.thumbprint.as_ref(),
            revoked: &|_, _| revoked,
        };
        let wire = Wire(headers.to_vec());
        examined(&self.rules, &self.cache, &circumstances, &wire, query)
            .map_err(|refused| (refused.reason.as_str(), refused.why))
    }

    fn bearer(&self, token: &str) -> Result<Examined, (&'static str, String)> {
        self.ask(&[("Authorization", &format!("Bearer {token}"))], None)
    }

    #[track_caller]
    fn refuses(&self, token: &str, reason: &str) {
        match self.bearer(token) {
            Ok(_) => panic!("accepted"),
            Err((said, why)) => assert_eq!(said, reason, "{why}"),
        }
    }
}

#[test]
fn row_16_a_request_has_no_token_a_good_one_or_a_bad_one() {
    let issuer = Issuer::new();
    let bench = Bench::new([rule(&issuer)]);
    let none = bench.ask(&[("accept", "*/*")], Some("a=b")).ok().unwrap();
    assert!(none.policy_token().is_none() && none.ends().is_none());

    let good = bench.bearer(&issuer.sign(&claims())).ok().unwrap();
    let token = good.policy_token().unwrap();
    assert_eq!((token.issuer, token.subject), (IDP, "ann"));
    assert_eq!(token.claims["level"], 3);

    bench.refuses("a.b.c", "token-malformed");
    bench.refuses(&Issuer::new().sign(&claims()), "token-untrusted");
}

#[test]
fn each_way_to_be_bad_has_its_reason() {
    let issuer = Issuer::new();
    let bench = Bench::new([rule(&issuer)]);
    for (changes, reason) in [
        (json!({"iss": "https://other"}), "token-untrusted"),
        (json!({"iss": null}), "token-untrusted"),
        (json!({"aud": "elsewhere"}), "token-audience"),
        (json!({"aud": null}), "token-audience"),
        (json!({"aud": []}), "token-audience"),
        (json!({"aud": 7}), "token-malformed"),
        (json!({"exp": at(0)}), "token-expired"),
        (json!({"exp": 0}), "token-expired"),
        (json!({"exp": null}), "token-malformed"),
        (json!({"exp": "soon"}), "token-malformed"),
        (json!({"nbf": at(30)}), "token-untrusted"),
        (json!({"iat": at(90)}), "token-untrusted"),
        (
            json!({"cnf": {"x5t#S256": URL_SAFE_NO_PAD.encode([7; 32])}}),
            "token-unbound",
        ),
        (json!({"cnf": {"jkt": "x"}}), "token-unbound"),
        (json!({"cnf": 7}), "token-unbound"),
    ] {
        bench.refuses(&issuer.sign(&with(&changes)), reason);
    }
    let mut damaged = issuer.sign(&claims());
    damaged.replace_range(damaged.len() - 6.., "AAAAAA");
    bench.refuses(&damaged, "token-untrusted");
}

#[test]
fn times_are_tolerated_as_far_as_the_rule_says() {
    let issuer = Issuer::new();
    let bench = Bench::new([Rule {
        skew: Duration::from_secs(60),
        ..rule(&issuer)
    }]);
    let late = bench.bearer(&issuer.sign(&with(&json!({"exp": at(-30), "nbf": at(30)}))));
    let ends = late.ok().unwrap().ends().unwrap();
    assert!(ends > SystemTime::now() + Duration::from_secs(25));
    bench.refuses(
        &issuer.sign(&with(&json!({"exp": at(-61)}))),
        "token-expired",
    );
    bench.refuses(
        &issuer.sign(&with(&json!({"nbf": at(70)}))),
        "token-untrusted",
    );
    // A clock that is a little ahead makes no bad tokens, whatever the rule tolerates.
    let strict = Bench::new([rule(&issuer)]);
    assert!(
        strict
            .bearer(&issuer.sign(&with(&json!({"iat": at(30)}))))
            .is_ok()
    );
}

#[test]
fn a_bound_token_is_good_for_the_certificate_it_is_bound_to() {
    let issuer = Issuer::new();
    let mut bench = Bench::new([Rule {
        bound: true,
        ..rule(&issuer)
    }]);
    let thumbprint = URL_SAFE_NO_PAD.encode([7; 32]);
    let token = issuer.sign(&with(&json!({"cnf": {"x5t#S256": thumbprint}})));
    bench.refuses(&token, "token-unbound");
    bench.thumbprint = Some([7; 32]);
    assert!(bench.bearer(&token).is_ok());
    bench.refuses(&issuer.sign(&claims()), "token-unbound");
    // Cached, and yet asked of each connection.
    bench.thumbprint = Some([8; 32]);
    bench.refuses(&token, "token-unbound");
}

#[test]
fn what_may_change_is_asked_of_a_cached_token_too() {
    let issuer = Issuer::new();
    let mut bench = Bench::new([rule(&issuer)]);
    let token = issuer.sign(&claims());
    assert!(bench.bearer(&token).is_ok());
    bench.revoked = true;
    bench.refuses(&token, "token-revoked");
    bench.revoked = false;
    bench.ahead = Duration::from_secs(601);
    bench.refuses(&token, "token-expired");
    bench.ahead = Duration::ZERO;
    assert!(bench.bearer(&token).is_ok());

    // The same rule in a new revision, then another audience, other keys, no rule.
    bench.rules = of([rule(&issuer)]);
    assert!(bench.bearer(&token).is_ok());
    bench.rules = of([Rule {
        audiences: vec!["x".into()],
        ..rule(&issuer)
    }]);
    bench.refuses(&token, "token-audience");
    bench.rules = of([rule(&Issuer::new())]);
    bench.refuses(&token, "token-untrusted");
    let mut rule = rule(&issuer);
    rule.trust = Trust::TrustDomain {
        name: "example.org".into(),
        issuer: "spiffe://example.org".into(),
    };
    bench.rules = of([rule]);
    bench.refuses(&token, "token-untrusted");
}

#[test]
fn row_16_without_keys_no_token_is_trusted() {
    let issuer = Issuer::new();
    let mut rule = rule(&issuer);
    rule.trust = Trust::Issuer {
        issuer: IDP.into(),
        keys: IssuerKeys {
            document: String::new(),
            keys: None,
        },
    };
    let bench = Bench::new([rule]);
    bench.refuses(&issuer.sign(&claims()), "token-untrusted");
}

#[test]
fn no_spelling_of_the_scheme_goes_by_unverified() {
    let issuer = Issuer::new();
    let bench = Bench::new([rule(&issuer)]);
    let token = issuer.sign(&claims());
    for scheme in ["Bearer ", "bearer ", "BEARER\t", "Bearer   "] {
        let value = format!("{scheme}{token}");
        let examined = bench.ask(&[("AUTHORIZATION", &value)], None).ok().unwrap();
        assert!(examined.policy_token().is_some(), "{scheme:?}");
    }
    for value in ["Basic YTpi", "", "Bearerx a", "Negotiate x", "Be"] {
        let examined = bench.ask(&[("authorization", value)], None).ok().unwrap();
        assert!(examined.policy_token().is_none(), "{value}");
        assert!(!examined.removed().any(|name| name == "authorization"));
    }
    let two = format!("Bearer {token}, Bearer {token}");
    for value in ["Bearer", "Bearer ", "bearer\t", "Bearer x", &two] {
        let refused = bench.ask(&[("authorization", value)], None);
        assert_eq!(refused.err().unwrap().0, "token-malformed", "{value}");
    }
}

#[test]
fn more_than_one_token_is_refused_and_the_same_one_twice_is_not() {
    let issuer = Issuer::new();
    let bench = Bench::new([rule(&issuer)]);
    let (one, other) = (issuer.sign(&claims()), issuer.sign(&claims()));
    let (header, query) = (format!("Bearer {one}"), format!("a=b&access_token={other}"));
    let (reason, why) = bench
        .ask(&[("authorization", &header)], Some(&query))
        .err()
        .unwrap();
    assert_eq!(reason, "token-malformed");
    assert_eq!(
        why,
        "header authorization and query parameter access_token hold different tokens"
    );
    let same = format!("access%5Ftoken={one}");
    let examined = bench.ask(&[("authorization", &header)], Some(&same));
    let examined = examined.ok().unwrap();
    assert_eq!(examined.query(Some(&same)), None);
    assert!(examined.removed().any(|name| name == "authorization"));

    let twice = [("authorization", "Basic x"), ("Authorization", &*header)];
    assert_eq!(bench.ask(&twice, None).err().unwrap().0, "token-malformed");
    let twice = format!("access_token={one}&access_token={one}");
    assert_eq!(
        bench.ask(&[], Some(&twice)).err().unwrap().0,
        "token-malformed"
    );
}

#[test]
fn a_token_that_only_some_applications_would_find_is_refused() {
    let issuer = Issuer::new();
    let mut own = rule(&issuer);
    own.locations = vec![Location::Param("t".into()), Location::Cookie("jwt".into())];
    let bench = Bench::new([own]);
    let (good, other) = (issuer.sign(&claims()), issuer.sign(&claims()));
    for (query, cookie) in [
        (format!("a=1;t={other}"), String::new()),
        (format!("a=1;t={other}&t={good}"), String::new()),
        (format!("t={good};t={other}"), String::new()),
        (format!("a;b;%74={other}&t={good}"), String::new()),
        (format!("t={good}"), format!("a=1 jwt={other}")),
        (format!("t={good}"), format!("a=1, jwt={other}")),
        (format!("t={good}"), format!("a=\"1\"jwt={other}")),
        (String::new(), format!("a=1\tjwt={other}; jwt={good}")),
    ] {
        let refused = bench.ask(&[("cookie", &cookie)], Some(&query)).err();
        assert_eq!(
            refused.map(|(reason, _)| reason),
            Some("token-malformed"),
            "{query} {cookie}"
        );
    }
    let query = format!("a=1;b=t&c;tt=2&t={good}");
    let cookie = "a=1 b=jwt, c; d=\"jwt\"";
    assert!(bench.ask(&[("cookie", cookie)], Some(&query)).is_ok());
}

#[test]
fn a_token_counts_only_where_its_rule_expects_it() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let mut second = rule(&other);
    second.locations = vec![header("x-jwt", "")];
    if let Trust::Issuer { issuer, .. } = &mut second.trust {
        *issuer = "https://second".into();
    }
    let bench = Bench::new([rule(&issuer), second]);
    let token = other.sign(&with(&json!({"iss": "https://second"})));
    assert!(bench.ask(&[("x-jwt", &token)], None).is_ok());
    assert!(bench.ask(&[("X_JWT", &token)], None).is_ok());
    bench.refuses(&token, "token-untrusted");
    let first = issuer.sign(&claims());
    let refused = bench.ask(&[("x-jwt", &first)], None);
    assert_eq!(refused.err().unwrap().0, "token-untrusted");
}

#[test]
fn the_application_sees_the_token_only_when_it_is_to() {
    let issuer = Issuer::new();
    let mut own = rule(&issuer);
    own.locations = vec![
        header("x-jwt", ""),
        Location::Param("t".into()),
        Location::Cookie("jwt".into()),
    ];
    let token = issuer.sign(&claims());
    let cookie = format!("a=1; jwt=\"{token}\";b=2");
    let query = format!("a=1&t={token}");
    let headers = [("cookie", &*cookie), ("x-jwt", &token), ("Cookie", "c=3")];
    let bench = Bench::new([own]);
    let examined = bench.ask(&headers, Some(&query)).ok().unwrap();
    assert_eq!(examined.query(Some(&query)).as_deref(), Some("a=1"));
    let wire = Wire(headers.to_vec());
    assert_eq!(examined.cookies(&wire).unwrap(), b"a=1; b=2; c=3");
    let shown = Shown {
        received: &wire,
        examined: &examined,
    };
    let mut seen = HashMap::new();
    for name in ["cookie", "x-jwt", "x-user"] {
        shown.for_each(name, &mut |value| {
            seen.insert(name, String::from_utf8(value.to_vec()).unwrap());
        });
    }
    let expected = [("cookie", "a=1; b=2; c=3"), ("x-user", "ann")];
    assert_eq!(
        seen,
        expected.map(|(name, value)| (name, value.into())).into()
    );

    let mut forwarded = rule(&issuer);
    forwarded.forward = true;
    let bench = Bench::new([forwarded]);
    let query = format!("access_token={token}");
    let examined = bench.ask(&[], Some(&query)).ok().unwrap();
    assert_eq!(examined.query(Some(&query)).as_deref(), Some(&*query));
    assert_eq!(examined.removed().collect::<Vec<_>>(), ["x-user"]);
}

#[test]
fn row_17_only_the_token_says_what_a_claim_header_says() {
    let issuer = Issuer::new();
    let mut own = rule(&issuer);
    own.payload_header = Some("x_payload".into());
    own.claim_headers.push(ClaimHeader {
        header: "x-none".into(),
        claim: "none".into(),
    });
    let bench = Bench::new([own]);
    let token = issuer.sign(&claims());
    let bearer = format!("Bearer {token}");
    let spoofed = [("x-user", "root"), ("X_User", "root"), ("x-none", "root")];
    for headers in [
        spoofed.to_vec(),
        [&spoofed[..], &[("authorization", &*bearer)]].concat(),
    ] {
        let examined = bench.ask(&headers, None).ok().unwrap();
        let removed: Vec<&str> = examined.removed().collect();
        for name in ["x-payload", "x-user", "x-none"] {
            assert!(removed.contains(&name));
        }
        let wire = Wire(headers);
        let shown = Shown {
            received: &wire,
            examined: &examined,
        };
        for name in ["x-user", "x_user", "x-none"] {
            shown.for_each(name, &mut |value| assert_eq!(value, b"ann"));
        }
    }
    let examined = bench.bearer(&token).ok().unwrap();
    let payload = token.split('.').nth(1).unwrap();
    assert_eq!(
        examined.set(),
        [
            ("x_payload".to_owned(), payload.as_bytes().to_vec()),
            ("x-user".to_owned(), b"ann".to_vec()),
        ]
    );
}

#[test]
fn what_is_proved_is_written_down_and_nothing_else() {
    let issuer = Issuer::new();
    let rules = rules(&issuer);
    let token = issuer.sign(&with(&json!({"aud": "elsewhere"})));
    let known = verified(&token, &rules);
    let user = known.end_user();
    assert_eq!((&*user.issuer, &*user.subject), (IDP, "ann"));
    assert!(user.expires.is_some());
    for (forged, has_digest) in [(Issuer::new().sign(&claims()), true), ("x".into(), true)] {
        let refused = verify::verify(&forged, &rules, None).err().unwrap();
        assert!(
            !refused.why.contains(&*forged) || forged.len() < 9,
            "{}",
            refused.why
        );
        let user = refused.end_user;
        assert_eq!(user.is_some(), has_digest);
        let user = user.unwrap();
        assert_eq!(
            (&*user.issuer, &*user.subject, user.expires),
            ("", "", None)
        );
    }
}

/// `cargo test --release -p kith-proxy token -- --ignored --nocapture` prints it.
#[test]
#[ignore = "a measurement"]
fn measures_a_cached_token() {
    let issuer = Issuer::new();
    let bench = Bench::new([rule(&issuer)]);
    let token = issuer.sign(&with(&json!({"filler": "x".repeat(600)})));
    let bearer = format!("Bearer {token}");
    let headers = [
        ("host", "orders.shop"),
        ("user-agent", "curl/8"),
        ("accept", "*/*"),
        ("x-request-id", "01a208a6-2d6f-7ed6-b434-ca433d569e18"),
        (
            "traceparent",
            "00-bd381dea0ff660689ec3e81baaca783e-32d0f3332ac7a787-01",
        ),
        ("content-type", "application/json"),
        ("authorization", &*bearer),
    ];
    let wire = Wire(headers.to_vec());
    let once = |now| {
        let circumstances = Circumstances {
            now,
            own: None,
            thumbprint: None,
            revoked: &|_, _| false,
        };
        examined(
            &bench.rules,
            &bench.cache,
            &circumstances,
            &wire,
            Some("a=b"),
        )
        .is_ok()
    };
    let started = Instant::now();
    assert!(once(SystemTime::now()));
    println!(
        "first use of {} bytes: {:?}",
        token.len(),
        started.elapsed()
    );
    let rounds = 1_000_000;
    let started = Instant::now();
    for _ in 0..rounds {
        assert!(std::hint::black_box(once(SystemTime::now())));
    }
    println!("cached: {:?} each", started.elapsed() / rounds);
}

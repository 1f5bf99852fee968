//! What a port of a Service says that it speaks: by `appProtocol`, else by the first word of its name.

use crate::yaml::schema::Protocol;

/// None: nothing is said, so the sidecar looks at the first bytes.
pub(super) fn declared(app_protocol: Option<&str>, name: Option<&str>) -> Option<Protocol> {
    // A value that is not known here means something else than the name does: no guess by name then.
    match app_protocol.filter(|given| !given.is_empty()) {
        Some(given) => by_app_protocol(&given.to_ascii_lowercase()),
        None => by_name(&name?.to_ascii_lowercase()),
    }
}

/// Kubernetes' own values (the reference of Service, "Application protocol"), then words as in names.
fn by_app_protocol(value: &str) -> Option<Protocol> {
    match value {
        "kubernetes.io/h2c" => Some(Protocol::Http2),
        "kubernetes.io/ws" => Some(Protocol::Http),
        "kubernetes.io/wss" => Some(Protocol::Tls),
        other => by_word(other),
    }
}

/// `http`, `http-admin`; but `httpd` is a name like any other.
fn by_name(name: &str) -> Option<Protocol> {
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return by_word("grpc-web");
    }
    by_word(name.split('-').next().unwrap_or_default())
}

fn by_word(word: &str) -> Option<Protocol> {
    Some(match word {
        // gRPC-Web is gRPC's messages over whichever HTTP there is.
        "http" | "grpc-web" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "https" | "tls" => Protocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" | "postgres" | "postgresql" => Protocol::Tcp,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cases: &[(Option<&str>, Option<&str>, Option<Protocol>)]) {
        for (app_protocol, name, expected) in cases {
            let found = declared(*app_protocol, *name);
            assert_eq!(
                found, *expected,
                "appProtocol {app_protocol:?}, name {name:?}"
            );
        }
    }

    #[test]
    fn the_name_of_a_port_says_its_protocol_up_to_the_first_dash() {
        use Protocol::*;
        check(&[
            (None, Some("http"), Some(Http)),
            (None, Some("http-admin"), Some(Http)),
            (None, Some("HTTP-admin"), Some(Http)),
            (None, Some("httpd"), None),
            (None, Some("http2"), Some(Http2)),
            (None, Some("grpc-orders"), Some(Grpc)),
            (None, Some("grpc-web"), Some(Http)),
            (None, Some("grpc-web-shop"), Some(Http)),
            (None, Some("grpc-webby"), Some(Grpc)),
            (None, Some("https"), Some(Tls)),
            (None, Some("tls-x"), Some(Tls)),
            (None, Some("tcp-x"), Some(Tcp)),
            (None, Some("mongo"), Some(Tcp)),
            (None, Some("postgres-1"), Some(Tcp)),
            (None, Some("web"), None),
            (None, Some(""), None),
            (None, None, None),
        ]);
    }

    #[test]
    fn app_protocol_wins_over_the_name_even_when_it_is_not_known_here() {
        use Protocol::*;
        check(&[
            (Some("kubernetes.io/h2c"), Some("http"), Some(Http2)),
            (Some("kubernetes.io/ws"), Some("tcp"), Some(Http)),
            (Some("kubernetes.io/wss"), None, Some(Tls)),
            (Some("http"), Some("tcp"), Some(Http)),
            (Some("HTTPS"), None, Some(Tls)),
            (Some("grpc"), None, Some(Grpc)),
            (Some("tcp"), Some("http"), Some(Tcp)),
            (Some("example.com/own"), Some("http"), None),
            (Some(""), Some("http"), Some(Http)),
        ]);
    }
}

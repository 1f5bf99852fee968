//! One spelling per host: lower case, no port, no trailing dot (security.md row 4).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use thiserror::Error;

/// A host and the port written behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    /// Lower case, without trailing dot. IPv6 literals in brackets, in the form of RFC 5952;
    /// IPv4-mapped ones as IPv4.
    pub name: Cow<'a, str>,
    pub port: Option<u16>,
}

/// Why a Host header or `:authority` is not a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HostRefused {
    #[error("the host is empty")]
    Empty,
    #[error("a label of the host is empty")]
    EmptyLabel,
    #[error(
        "a host consists of letters, digits, `-`, `_` and `.`, or is an IPv6 address in brackets"
    )]
    Character,
    #[error("what is in brackets is not an IPv6 address")]
    Ipv6,
    #[error("what follows the host is not a port")]
    Port,
}

/// Normalises a Host header or `:authority` (RFC 9110 section 7.2: `uri-host [ ":" port ]`).
/// Allocates only when the text is not in its normal form already.
pub fn normalise_host(authority: &str) -> Result<Host<'_>, HostRefused> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (literal, rest) = rest.split_once(']').ok_or(HostRefused::Ipv6)?;
        let address: Ipv6Addr = literal.parse().map_err(|_| HostRefused::Ipv6)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if rest.is_empty() => None,
            None => return Err(HostRefused::Port),
        };
        return Ok(Host {
            name: literal_name(address, authority),
            port,
        });
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, parse_port(port)?),
        None => (authority, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(HostRefused::Empty);
    }
    if !name.bytes().all(is_host_byte) {
        return Err(HostRefused::Character);
    }
    if name.split('.').any(str::is_empty) {
        return Err(HostRefused::EmptyLabel);
    }
    Ok(Host {
        name: lower_case(name),
        port,
    })
}

/// RFC 3986 allows more in a registered name; nothing that resolves has it, and `%` would be a second spelling.
pub(crate) fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn literal_name(address: Ipv6Addr, authority: &str) -> Cow<'_, str> {
    let normal = match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    match authority.get(..normal.len()) {
        Some(written) if written == normal => Cow::Borrowed(written),
        _ => Cow::Owned(normal),
    }
}

/// RFC 3986 section 3.2.3: `port = *DIGIT`, empty included.
fn parse_port(port: &str) -> Result<Option<u16>, HostRefused> {
    if port.is_empty() {
        return Ok(None);
    }
    if port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostRefused::Port);
    }
    port.parse().map(Some).map_err(|_| HostRefused::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(authority: &str, expected: Result<(&str, Option<u16>), HostRefused>) {
        let got = normalise_host(authority);
        let got = got
            .as_ref()
            .map(|host| (&*host.name, host.port))
            .map_err(|refused| *refused);
        assert_eq!(got, expected, "{authority}");
    }

    #[test]
    fn row_04_host_has_one_spelling() {
        check("example.org", Ok(("example.org", None)));
        check("EXAMPLE.org", Ok(("example.org", None)));
        check("example.org.", Ok(("example.org", None)));
        check("Example.Org.:8080", Ok(("example.org", Some(8080))));
        check("example.org:", Ok(("example.org", None)));
        check("10.0.0.1:80", Ok(("10.0.0.1", Some(80))));
        check("[::1]", Ok(("[::1]", None)));
        check("[0:0:0::1]:443", Ok(("[::1]", Some(443))));
        check("[2001:DB8::1]", Ok(("[2001:db8::1]", None)));
        check("under_score-1", Ok(("under_score-1", None)));
    }

    #[test]
    fn row_18_ipv4_mapped_host_is_canonical() {
        check("[::ffff:10.0.0.1]:80", Ok(("10.0.0.1", Some(80))));
    }

    #[test]
    fn row_04_what_is_not_a_host_is_refused() {
        check("", Err(HostRefused::Empty));
        check(".", Err(HostRefused::Empty));
        check(":80", Err(HostRefused::Empty));
        check("a..b", Err(HostRefused::EmptyLabel));
        check("example.org..", Err(HostRefused::EmptyLabel));
        check(".example.org", Err(HostRefused::EmptyLabel));
        for bad in [
            "a b",
            "user@example.org",
            "a/b",
            "a%2eb",
            "exämple",
            "a\0",
            "*",
            "a,b",
            "a?b",
            "a#b",
        ] {
            check(bad, Err(HostRefused::Character));
        }
        for bad in ["[::1", "[]", "[::1%eth0]", "[1.2.3.4]"] {
            check(bad, Err(HostRefused::Ipv6));
        }
        for bad in [
            "a:b", "a:+80", "a:80:90", "a:65536", "a:000080", "[::1]80", "::1", "[::1]:x",
        ] {
            assert!(normalise_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn normal_forms_are_borrowed() {
        for host in [
            "example.org",
            "example.org:8080",
            "example.org.",
            "[::1]:80",
        ] {
            assert!(
                matches!(normalise_host(host).unwrap().name, Cow::Borrowed(_)),
                "{host}"
            );
        }
    }
}

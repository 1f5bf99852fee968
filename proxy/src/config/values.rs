//! How each kind of value is written. Errors say what was expected.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{AccessLog, AdminListen, WhenFull};

/// As the standard has it (SPIFFE Workload Endpoint, section 4): an absolute path, or an IP address and port.
pub(super) fn endpoint_socket(value: &str) -> Result<String, String> {
    let unix = value
        .strip_prefix("unix://")
        .is_some_and(|path| path.starts_with('/') && path.len() > 1);
    let tcp = value
        .strip_prefix("tcp://")
        .is_some_and(|address| address.parse::<SocketAddr>().is_ok());
    if unix || tcp {
        Ok(value.to_owned())
    } else {
        Err("expected unix:///path or tcp://ip:port".into())
    }
}

pub(super) fn xds_address(value: &str) -> Result<String, String> {
    let expected = || "expected https://host:port".to_owned();
    let uri: http::Uri = value.parse().map_err(|_| expected())?;
    let plain = uri
        .authority()
        .is_some_and(|authority| !authority.as_str().contains('@'))
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none();
    let named = uri.host().is_some_and(|host| !host.is_empty())
        && uri.port_u16().is_some_and(|port| port != 0);
    if uri.scheme() != Some(&http::uri::Scheme::HTTPS) || !plain || !named {
        return Err(expected());
    }
    Ok(value.trim_end_matches('/').to_owned())
}

/// Only the outline; whoever compares it parses it in full.
pub(super) fn spiffe_id(value: &str) -> Result<String, String> {
    let named = value
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once('/'));
    match named {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => Ok(value.to_owned()),
        _ => Err("expected a SPIFFE ID with a path, spiffe://trust.domain/path".into()),
    }
}

pub(super) fn node_id(value: &str) -> Result<String, String> {
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
    };
    match value.split_once('/') {
        Some((namespace, name)) if plain(namespace) && plain(name) => Ok(value.to_owned()),
        _ => Err("expected namespace/name, of letters, digits, '-', '.' and '_'".into()),
    }
}

pub(super) fn listen(value: &str) -> Result<SocketAddr, String> {
    value
        .parse()
        .map_err(|_| "expected ip:port, such as 0.0.0.0:15006 or [::]:15006".into())
}

/// Nobody but this pod may reach admin (security.md, row 21).
pub(super) fn admin_listen(value: &str) -> Result<AdminListen, String> {
    let expected =
        || "expected a loopback address, such as 127.0.0.1:15000, or unix:///path".to_owned();
    if let Some(path) = value.strip_prefix("unix://") {
        let path = Path::new(path);
        return if path.is_absolute() && path.file_name().is_some() {
            Ok(AdminListen::Unix(path.to_owned()))
        } else {
            Err(expected())
        };
    }
    let address: SocketAddr = value.parse().map_err(|_| expected())?;
    if address.ip().to_canonical().is_loopback() {
        Ok(AdminListen::Tcp(address))
    } else {
        Err(expected())
    }
}

pub(super) fn workers(value: &str) -> Result<usize, String> {
    number(value, 1, 256)
}

pub(super) fn max_connections(value: &str) -> Result<usize, String> {
    number(value, 1, 10_000_000)
}

fn number(value: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = whole(value).and_then(|number| usize::try_from(number).ok());
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}

/// A slash tells a file from a mistyped word.
pub(super) fn access_log(value: &str) -> Result<AccessLog, String> {
    match value {
        "stdout" => Ok(AccessLog::Stdout),
        "off" => Ok(AccessLog::Off),
        path if path.contains('/') && !path.ends_with('/') => Ok(AccessLog::File(path.into())),
        _ => Err("expected stdout, off, or a file's path with a '/' in it".into()),
    }
}

pub(super) fn when_full(value: &str) -> Result<WhenFull, String> {
    match value {
        "drop" => Ok(WhenFull::Drop),
        "block" => Ok(WhenFull::Block),
        _ => Err("expected drop or block".into()),
    }
}

pub(super) fn boolean(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "expected true or false".into())
}

pub(super) fn log_filter(value: &str) -> Result<String, String> {
    match crate::telemetry::logging::parse(value) {
        Ok(_) => Ok(value.to_owned()),
        Err(error) => Err(format!(
            "expected a level (error, warn, info, debug, trace) or target=level,…: {error}"
        )),
    }
}

pub(super) fn directory(value: &str) -> Result<PathBuf, String> {
    let path = Path::new(value);
    if path.is_absolute() {
        Ok(path.to_owned())
    } else {
        Err("expected an absolute path of a directory".into())
    }
}

/// As the Workload API sends hints: any short text.
pub(super) fn hint(value: &str) -> Result<String, String> {
    let plain = value.len() <= 1024 && !value.chars().any(char::is_control);
    if plain {
        Ok(value.to_owned())
    } else {
        Err("expected at most 1024 printable characters".into())
    }
}

pub(crate) fn mark(value: &str) -> Result<u32, String> {
    let parsed = match value.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None => whole(value).and_then(|mark| u32::try_from(mark).ok()),
    };
    parsed
        .filter(|mark| *mark != 0)
        .ok_or_else(|| "expected a number from 1 to 0xffffffff".into())
}

/// The unit is in the variable's name, and may be said again.
pub(super) fn seconds(value: &str) -> Result<Duration, String> {
    match whole(value) {
        Some(seconds) => within(Duration::from_secs(seconds)),
        None => duration(value),
    }
}

/// `500ms`, `30s`, `5m`, `1h`, or a plain `0`.
pub(super) fn duration(value: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 500ms, 30s, 5m or 1h, or 0".to_owned();
    if value == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = value
        .find(|character: char| !character.is_ascii_digit())
        .ok_or_else(expected)?;
    let (number, unit) = value.split_at(digits);
    let number = whole(number).ok_or_else(expected)?;
    let scale = match unit {
        "ms" => return within(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(expected()),
    };
    within(Duration::from_secs(
        number.checked_mul(scale).ok_or_else(expected)?,
    ))
}

/// Far beyond any use, and far from where clocks overflow.
fn within(duration: Duration) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
    if duration <= LONGEST {
        Ok(duration)
    } else {
        Err("expected a duration of at most a year".into())
    }
}

/// Digits only: no sign, no space.
fn whole(value: &str) -> Option<u64> {
    value
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| value.parse().ok())
        .flatten()
}

/// The kubelet dials the pod's own address, never loopback.
pub(super) fn pod_ip(value: &str) -> Result<IpAddr, String> {
    let address: Option<IpAddr> = value.parse().ok();
    address
        .map(|address| address.to_canonical())
        .filter(|address| {
            !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
        })
        .ok_or_else(|| "expected the pod's own IP address".into())
}

/// For `capture --exclude-outbound-cidrs`: `10.0.0.0/8`, or an address alone.
pub(crate) fn network(value: &str) -> Result<ipnet::IpNet, String> {
    let net = value
        .parse::<ipnet::IpNet>()
        .or_else(|_| value.parse::<IpAddr>().map(ipnet::IpNet::from));
    net.map_err(|_| "expected an address or a network such as 10.0.0.0/8 or fd00::/8".into())
}

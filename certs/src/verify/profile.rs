//! What the X.509-SVID standard asks of a leaf and of a signer, each judged by itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::asn1_rs::FromDer as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, KeyUsage, ParsedExtension};
use x509_parser::time::ASN1Time;

use super::SvidError;
use crate::{SpiffeId, SpiffeIdError, lower_hex};

const MAX_EXTENSIONS: usize = 64;

/// The facts of a leaf that keeps to the profile. Its signatures are not checked here.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) serial: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// The facts of a certificate that may sign SVIDs.
#[derive(Debug)]
pub(crate) struct Signer {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) path_len: Option<u32>,
    pub(crate) self_issued: bool,
    /// Whether its CRLs count (RFC 5280 section 4.2.1.3); X.509-SVID 4.3 leaves it to the authority.
    pub(crate) crl_sign: bool,
}

impl Leaf {
    /// X.509-SVID sections 2, 3.1, 4 and 5.2.
    pub(crate) fn parse(der: &[u8]) -> Result<Leaf, SvidError> {
        let malformed = |fault| SvidError::Malformed { fault };
        let certificate = parse_certificate(der).map_err(malformed)?;
        let extensions = Extensions::of(&certificate).map_err(malformed)?;
        // Section 4.1: leaf certificates set cA to false. An absent extension means false.
        if extensions.ca {
            return Err(malformed(
                "has cA set; a signing certificate authenticates nobody (X.509-SVID 3.2)",
            ));
        }
        // Section 4.3: keyUsage on all SVIDs; on a leaf digitalSignature and no signing of others.
        let Some(key_usage) = extensions.key_usage else {
            return Err(malformed("has no keyUsage (X.509-SVID 4.3)"));
        };
        if key_usage.key_cert_sign() || key_usage.crl_sign() {
            return Err(malformed(
                "has keyCertSign or cRLSign, which a leaf must not have (X.509-SVID 4.3)",
            ));
        }
        if !key_usage.digital_signature() {
            return Err(malformed(
                "has no digitalSignature in its keyUsage (X.509-SVID 4.3)",
            ));
        }
        // Section 4.4: when there is an extended key usage, it has both ends of a connection.
        if extensions.extended_key_usage.is_some_and(|both| !both) {
            return Err(malformed(
                "has an extendedKeyUsage without both serverAuth and clientAuth (X.509-SVID 4.4)",
            ));
        }
        // Sections 2 and 5.2: exactly one URI SAN, of any scheme.
        let uri = match extensions.uris.as_slice() {
            [] => return Err(malformed("has no URI SAN (X.509-SVID 2)")),
            [uri] => uri.map_err(malformed)?,
            _ => return Err(malformed("has more than one URI SAN (X.509-SVID 2)")),
        };
        let id = SpiffeId::parse(uri).map_err(|fault| SvidError::Id {
            uri: uri.to_owned(),
            fault,
        })?;
        // Section 3.1: the ID of a leaf has a path.
        if id.path().is_empty() {
            return Err(malformed(
                "has a SPIFFE ID without a path, the name of a trust domain (X.509-SVID 3.1)",
            ));
        }
        let validity = certificate.validity();
        Ok(Leaf {
            id,
            serial: serial(&certificate),
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
        })
    }

    pub(super) fn outside_validity(&self, now: SystemTime) -> SvidError {
        let id = self.id.clone();
        if now > self.not_after {
            SvidError::Expired {
                id,
                not_after: self.not_after,
                now,
            }
        } else {
            SvidError::NotYetValid {
                id,
                not_before: self.not_before,
                now,
            }
        }
    }
}

impl Signer {
    /// X.509-SVID sections 3.2, 4.1 and 4.3.
    pub(crate) fn parse(der: &[u8]) -> Result<Signer, &'static str> {
        let certificate = parse_certificate(der)?;
        let extensions = Extensions::of(&certificate)?;
        if !extensions.ca {
            return Err("it doesn't have cA set, so it is no signing certificate (X.509-SVID 4.1)");
        }
        if !extensions.key_usage.is_some_and(KeyUsage::key_cert_sign) {
            return Err("its keyUsage lacks keyCertSign (X.509-SVID 4.3)");
        }
        // Section 3.2: a signer's SPIFFE ID, if it has one, has no path. Other URIs aren't ours to judge.
        for uri in extensions.uris {
            let uri = uri?;
            match SpiffeId::parse(uri) {
                Ok(id) if !id.path().is_empty() => {
                    return Err(
                        "its SPIFFE ID has a path, which a signing certificate's must not (X.509-SVID 3.2)",
                    );
                }
                Ok(_) | Err(SpiffeIdError::Scheme) => {}
                Err(_) => return Err("its SPIFFE ID is malformed (X.509-SVID 3.2)"),
            }
        }
        let validity = certificate.validity();
        Ok(Signer {
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
            path_len: extensions.path_len,
            crl_sign: extensions.key_usage.is_some_and(KeyUsage::crl_sign),
            self_issued: certificate.subject().as_raw() == certificate.issuer().as_raw(),
        })
    }
}

/// The extensions that SPIFFE has rules for, each at most once.
#[derive(Default)]
struct Extensions<'a> {
    ca: bool,
    path_len: Option<u32>,
    key_usage: Option<&'a KeyUsage>,
    /// Whether it has both serverAuth and clientAuth.
    extended_key_usage: Option<bool>,
    uris: Vec<Result<&'a str, &'static str>>,
}

impl<'a> Extensions<'a> {
    fn of(certificate: &'a X509Certificate<'_>) -> Result<Extensions<'a>, &'static str> {
        let extensions = certificate.extensions();
        // Nobody needs so many; a hostile certificate has room for thousands.
        if extensions.len() > MAX_EXTENSIONS {
            return Err("has more than 64 extensions");
        }
        let mut found = Extensions::default();
        for (index, extension) in extensions.iter().enumerate() {
            // RFC 5280 section 4.2: no extension twice. The second is a place to hide another SAN.
            if extensions[..index]
                .iter()
                .any(|earlier| earlier.oid == extension.oid)
            {
                return Err("has the same extension twice (RFC 5280 4.2)");
            }
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    found.ca = constraints.ca;
                    found.path_len = constraints.path_len_constraint;
                }
                ParsedExtension::KeyUsage(usage) => found.key_usage = Some(usage),
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    found.extended_key_usage = Some(usage.server_auth && usage.client_auth);
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    found.uris = names.general_names.iter().filter_map(uri).collect();
                }
                ParsedExtension::ParseError { .. } => {
                    return Err("has an extension that can't be parsed");
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn uri<'a>(name: &'a GeneralName<'_>) -> Option<Result<&'a str, &'static str>> {
    const URI_TAG: u32 = 6;
    match name {
        GeneralName::URI(uri) => Some(Ok(uri)),
        // Bytes that aren't even UTF-8 still are a URI SAN.
        GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => {
            Some(Err("has a URI SAN that isn't ASCII (RFC 5280 4.2.1.6)"))
        }
        _ => None,
    }
}

fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, &'static str> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("has data after its end"),
        Err(_) => Err("is no well-formed X.509 certificate"),
    }
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    serial_text(certificate.raw_serial())
}

/// The serial number as records write it: lower-case hex without DER's sign byte.
pub(super) fn serial_text(raw: &[u8]) -> String {
    match raw {
        [0, rest @ ..] if !rest.is_empty() => lower_hex(rest),
        _ => lower_hex(raw),
    }
}

fn system_time(time: ASN1Time) -> SystemTime {
    // A time before 1970 in a certificate means "long ago" for every purpose here.
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

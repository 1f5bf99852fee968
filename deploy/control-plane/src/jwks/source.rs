//! Where a key set is: a URL, or an issuer that says where.

use std::fmt;

use url::Url;

use crate::problem::printable;

/// Ordered and hashed by its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A JWK Set.
    Jwks(Url),
    /// An issuer whose metadata names it (OpenID Connect Discovery 1.0 section 4).
    Discovery {
        /// Exactly as tokens name it: the metadata must say the same.
        issuer: String,
        /// Where its metadata is.
        metadata: Url,
    },
}

impl Source {
    /// # Errors
    /// Why it isn't a URL that is fetched here.
    pub fn jwks(text: &str) -> Result<Self, String> {
        allowed(text).map(Self::Jwks)
    }

    /// # Errors
    /// Why nothing can be discovered at this issuer.
    pub fn discovery(issuer: &str) -> Result<Self, String> {
        let url = allowed(issuer)?;
        if url.query().is_some() {
            return Err(format!("`{issuer}` has a query"));
        }
        // Section 4.1: a slash at the end is removed first.
        let metadata = format!(
            "{}/.well-known/openid-configuration",
            url.as_str().trim_end_matches('/')
        );
        Ok(Self::Discovery {
            issuer: issuer.to_owned(),
            metadata: allowed(&metadata)?,
        })
    }

    /// What is asked first.
    pub(super) fn url(&self) -> &Url {
        match self {
            Self::Jwks(url) => url,
            Self::Discovery { metadata, .. } => metadata,
        }
    }

    /// Over a network, and without TLS: on the loopback nobody is on the way.
    pub(crate) fn is_plaintext(&self) -> bool {
        let url = self.url();
        let loopback = match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        url.scheme() == "http" && !loopback
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url().as_str())
    }
}

/// No `file:`, no credentials, nothing but a place on the web.
pub(super) fn allowed(text: &str) -> Result<Url, String> {
    let quoted = quoted(text);
    let url = Url::parse(text).map_err(|error| format!("{quoted} is not a URL: {error}"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(format!("{quoted} is neither an https nor an http URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not quoted: it holds a secret.
        return Err(
            "has a user name or password in it: keys are public, and fetched without".into(),
        );
    }
    if url.fragment().is_some() {
        return Err(format!("{quoted} has a fragment"));
    }
    Ok(url)
}

/// For a message. Some come from far away, and what stands before an `@` may be a secret.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 200;
    if text.contains('@') {
        return "what is given".to_owned();
    }
    format!("`{}`", printable(text, MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_refused_is_quoted_without_secrets_and_in_one_short_line() {
        for text in [
            "https://user:secret@issuer.example/keys",
            "https://user:secret@[/keys",
            "ftp://user:secret@issuer.example/keys",
            "https://user:secret@issuer.example/keys#a",
        ] {
            let why = allowed(text).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
        let long = format!("ftp://issuer.example/\u{1b}[2J\n{}", "x".repeat(100_000));
        let why = allowed(&long).unwrap_err();
        assert!(!why.contains(char::is_control) && why.len() < 500, "{why}");
        assert_eq!(
            allowed("file:///etc/passwd").unwrap_err(),
            "`file:///etc/passwd` is neither an https nor an http URL"
        );
    }
}

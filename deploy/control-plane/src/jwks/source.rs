//! Where a key set is: a URL, or an issuer that says where.

use std::fmt;

use url::Url;

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
    let url = Url::parse(text).map_err(|error| format!("`{text}` is not a URL: {error}"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(format!("`{text}` is neither an https nor an http URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not quoted: it holds a secret.
        return Err(
            "has a user name or password in it: keys are public, and fetched without".into(),
        );
    }
    if url.fragment().is_some() {
        return Err(format!("`{text}` has a fragment"));
    }
    Ok(url)
}

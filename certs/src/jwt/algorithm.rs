//! The signature algorithms of tokens (RFC 7518 section 3.1, RFC 8037 section 3.1).

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    VerificationAlgorithm,
};

/// How a token is signed. `none` and HMAC have no variant, so that nothing can take them by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

use Algorithm::{EdDsa, Es256, Es384, Es512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};

/// What a curve's points, scalars and signatures look like.
pub(super) struct Curve {
    /// `crv` of a key (RFC 7518 section 6.2.1.1).
    pub(super) name: &'static str,
    pub(super) algorithm: Algorithm,
    /// Of a coordinate, and of half a signature.
    pub(super) bytes: usize,
    /// The order of the group, big-endian (SEC 2, sections 2.4.2, 2.5.1 and 2.6.1).
    pub(super) order: &'static [u8],
}

/// RFC 7518 section 3.4: each curve goes with one algorithm.
pub(super) static CURVES: [Curve; 3] = [
    Curve {
        name: "P-256",
        algorithm: Es256,
        bytes: 32,
        order: &[
            0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2,
            0xfc, 0x63, 0x25, 0x51,
        ],
    },
    Curve {
        name: "P-384",
        algorithm: Es384,
        bytes: 48,
        order: &[
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81,
            0xf4, 0x37, 0x2d, 0xdf, 0x58, 0x1a, 0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec,
            0x19, 0x6a, 0xcc, 0xc5, 0x29, 0x73,
        ],
    },
    Curve {
        name: "P-521",
        algorithm: Es512,
        bytes: 66,
        order: &[
            0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0xff, 0xfa, 0x51, 0x86, 0x87, 0x83, 0xbf, 0x2f, 0x96, 0x6b,
            0x7f, 0xcc, 0x01, 0x48, 0xf7, 0x09, 0xa5, 0xd0, 0x3b, 0xb5, 0xc9, 0xb8, 0x89, 0x9c,
            0x47, 0xae, 0xbb, 0x6f, 0xb7, 0x1e, 0x91, 0x38, 0x64, 0x09,
        ],
    },
];

impl Algorithm {
    pub(super) const ALL: [Algorithm; 10] = [
        Rs256, Rs384, Rs512, Ps256, Ps384, Ps512, Es256, Es384, Es512, EdDsa,
    ];

    /// The algorithm of a header's or a key's `alg`. Names are case-sensitive (RFC 7515 section 4.1.1).
    pub fn from_name(name: &str) -> Option<Algorithm> {
        Algorithm::ALL
            .into_iter()
            .find(|known| known.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Rs256 => "RS256",
            Rs384 => "RS384",
            Rs512 => "RS512",
            Ps256 => "PS256",
            Ps384 => "PS384",
            Ps512 => "PS512",
            Es256 => "ES256",
            Es384 => "ES384",
            Es512 => "ES512",
            EdDsa => "EdDSA",
        }
    }

    /// RFC 7518 sections 3.3 and 3.5; keys of 2048 bits or more.
    pub(super) fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
            Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
            Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
            Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
            Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
            Es256 | Es384 | Es512 | EdDsa => None,
        }
    }

    /// Of the algorithms that go with one kind of key. ECDSA signatures are both numbers at full length,
    /// never DER (RFC 7518 section 3.4).
    pub(super) fn elliptic(self) -> Option<&'static dyn VerificationAlgorithm> {
        match self {
            Es256 => Some(&ECDSA_P256_SHA256_FIXED),
            Es384 => Some(&ECDSA_P384_SHA384_FIXED),
            Es512 => Some(&ECDSA_P521_SHA512_FIXED),
            EdDsa => Some(&ED25519),
            Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512 => None,
        }
    }

    /// None but for ECDSA.
    pub(super) fn curve(self) -> Option<&'static Curve> {
        CURVES.iter().find(|curve| curve.algorithm == self)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

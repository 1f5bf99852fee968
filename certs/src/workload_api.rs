//! The wire of the SPIFFE Workload API: where it is and how it is asked.

mod client;
mod endpoint;

pub use client::{MAX_MESSAGE_BYTES, WorkloadApiClient, describe};
pub use endpoint::{Endpoint, EndpointError};

/// Messages, client and (with `dev-authority`) server generated from `proto/workload.proto`.
#[allow(
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::needless_pass_by_value,
    clippy::unwrap_used
)]
pub mod proto {
    use zeroize::Zeroize as _;

    tonic::include_proto!("_");

    // The private key arrives in this message: whatever becomes of the message,
    // the key doesn't stay in freed memory.
    impl Drop for X509svid {
        fn drop(&mut self) {
            self.x509_svid_key.zeroize();
        }
    }

    impl std::fmt::Debug for X509svid {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("X509svid")
                .field("spiffe_id", &self.spiffe_id)
                .finish_non_exhaustive()
        }
    }

    impl std::fmt::Debug for Jwtsvid {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Jwtsvid")
                .field("spiffe_id", &self.spiffe_id)
                .finish_non_exhaustive()
        }
    }

    impl std::fmt::Debug for ValidateJwtsvidRequest {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("ValidateJwtsvidRequest")
                .field("audience", &self.audience)
                .finish_non_exhaustive()
        }
    }
}

//! The messages that go over the wire, generated from `proto/`.

#![allow(clippy::all, unreachable_pub, unused_qualifications, missing_docs)]

/// `type.googleapis.com/kith.mesh.v1.*`: the resources.
pub mod mesh {
    tonic::include_proto!("kith.mesh.v1");
}

/// The delta ADS transport.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
    }
}

/// `google.rpc.Status`, which carries the reason of a NACK.
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

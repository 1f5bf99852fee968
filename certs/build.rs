//! Compiles the Workload API proto with protox, so that nobody needs protoc.

use std::env;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/workload.proto");
    let descriptors = protox::compile(["workload.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Only the dev authority serves the Workload API; the sidecar is a client.
        .build_server(env::var_os("CARGO_FEATURE_DEV_AUTHORITY").is_some())
        // Ordered maps: equal updates encode to equal bytes.
        .btree_map(".")
        // A derived Debug would print private keys and tokens; `workload_api.rs` has harmless ones.
        .skip_debug([".X509SVID", ".JWTSVID", ".ValidateJWTSVIDRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}

use std::{env, fs, path::Path};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "envoy/service/discovery/v3/ads.proto",
        "kith/mesh/v1/workload.proto",
        "kith/mesh/v1/authentication.proto",
        "kith/mesh/v1/policy.proto",
        "kith/mesh/v1/address.proto",
        "kith/mesh/v1/revocation.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;

    // The schema of the resources goes into the program, so that a field that this version does not
    // know is noticed (src/schema.rs): the generated code would skip it.
    let mut schema = descriptors.clone();
    schema
        .file
        .retain(|file| matches!(file.package(), "kith.mesh.v1" | "google.protobuf"));
    for file in &mut schema.file {
        file.source_code_info = None;
    }
    let schema_path = Path::new(&env::var("OUT_DIR")?).join("schema.binpb");
    fs::write(schema_path, schema.encode_to_vec())?;

    // BTreeMap: equal messages have equal bytes, so that a content hash can be a version.
    let mut config = tonic_prost_build::Config::new();
    config.btree_map(["."]);
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

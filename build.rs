//! Compiles `proto/` with protox, so that no protoc is needed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["discovery.proto", "kds.proto", "system.proto", "zonelink.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={}", Path::new("proto").join(file).display());
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .bytes(".")
        .btree_map(".")
        // Messages that carry secrets get no Debug from prost; wire.rs writes a redacted one. Nor do those
        // with versions, which are hashes of secrets.
        .skip_debug([
            ".kuma.system.v1alpha1.Secret",
            ".google.protobuf.Any",
            ".google.protobuf.BytesValue",
            ".envoy.service.discovery.v3.Resource",
            ".envoy.service.discovery.v3.DeltaDiscoveryRequest",
            ".envoy.service.discovery.v3.DeltaDiscoveryResponse",
        ])
        .include_file("pb.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

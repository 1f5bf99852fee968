//! The kinds of `kith.dev/v1alpha1` as a cluster knows them: CustomResourceDefinitions made from the Rust types.

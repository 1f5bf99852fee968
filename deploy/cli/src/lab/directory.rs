//! The lab's folder.

use std::path::PathBuf;

use serde_json::Value;

use super::error::{During, Error};

/// Makes it, in KITH_LAB_DIR or where temporary files belong.
pub(crate) fn make() -> Result<PathBuf, Error> {
    use std::os::unix::fs::PermissionsExt;
    let base = std::env::var_os("KITH_LAB_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    std::fs::create_dir_all(&base).during(|| format!("make {}", base.display()))?;
    // Open to the sidecars' user. The authority keeps its keys in files that only it can read.
    let open = std::fs::Permissions::from_mode(0o755);
    let directory = tempfile::Builder::new()
        .prefix("kith-lab-")
        .permissions(open)
        .tempdir_in(&base);
    Ok(directory
        .during(|| format!("make a folder in {}", base.display()))?
        .keep())
}

/// Documents as one file of YAML, of which JSON is a part.
pub(crate) fn yaml(documents: &[Value]) -> String {
    let text: Vec<String> = documents
        .iter()
        .map(|document| format!("{document:#}\n"))
        .collect();
    text.join("---\n")
}

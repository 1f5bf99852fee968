//! How the API server is reached: as a kubeconfig says, or as a pod of the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

const KUBECONFIG: &str = "KUBECONFIG";
/// An API server that is away is noticed, and tried again, rather than waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no way to the API server. Its text says what to give.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("--kubeconfig: `{}`: {source}", path.display())]
    Given {
        path: PathBuf,
        source: kube::config::KubeconfigError,
    },
    #[error("{KUBECONFIG}: {0}")]
    Environment(kube::config::KubeconfigError),
    #[error(
        "no way to the API server is known: give --kubeconfig, or set {KUBECONFIG}, or run as a pod with a service \
         account ({0})"
    )]
    NotInCluster(kube::config::InClusterError),
    #[error("cannot speak to the API server at {address}: {source}")]
    Unusable {
        address: String,
        source: kube::Error,
    },
}

/// `kubeconfig`, else `$KUBECONFIG`, else what a pod is given. Nothing is asked of the API server yet.
///
/// # Errors
/// None of the three can be used, and why.
pub(crate) async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => match Kubeconfig::from_env().map_err(ClientError::Environment)? {
            Some(kubeconfig) => from_kubeconfig(kubeconfig)
                .await
                .map_err(ClientError::Environment)?,
            // The token is read again from its file when it is renewed, and so are the CAs.
            None => Config::incluster().map_err(ClientError::NotInCluster)?,
        },
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let address = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ClientError::Unusable { address, source })
}

async fn from_file(path: &Path) -> Result<Config, ClientError> {
    let given = |source| ClientError::Given {
        path: path.to_path_buf(),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(given)?;
    from_kubeconfig(kubeconfig).await.map_err(given)
}

async fn from_kubeconfig(kubeconfig: Kubeconfig) -> Result<Config, kube::config::KubeconfigError> {
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_used_is_named() {
        let error = client(Some(Path::new("/nowhere/kubeconfig"))).await.err();
        let error = error.unwrap().to_string();
        assert!(
            error.starts_with("--kubeconfig: `/nowhere/kubeconfig`: "),
            "{error}"
        );
    }
}

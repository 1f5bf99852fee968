//! How the API server is reached: as a kubeconfig says, or as a pod of the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::watch::WATCH_TIMEOUT;

const KUBECONFIG: &str = "KUBECONFIG";
/// An API server that is away is noticed, and tried again, rather than waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that died in the middle of an answer says nothing any more, and no packet tells. Longer than a watch is silent,
/// which ends by itself after [`WATCH_TIMEOUT`].
const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_TIMEOUT as u64 + 15);

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
    let config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => match Kubeconfig::from_env().map_err(ClientError::Environment)? {
            Some(kubeconfig) => from_kubeconfig(kubeconfig)
                .await
                .map_err(ClientError::Environment)?,
            // The token is read again from its file when it is renewed, and so are the CAs.
            None => Config::incluster().map_err(ClientError::NotInCluster)?,
        },
    };
    let config = bounded(config);
    let address = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ClientError::Unusable { address, source })
}

/// No answer is waited for without end.
fn bounded(mut config: Config) -> Config {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    // Else a connection that lay idle for a while has that much less time to answer.
    config.reset_reader_on_write = true;
    config
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
    async fn an_answer_that_does_not_come_is_not_waited_for_without_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Takes the request, and falls silent.
        let silent = tokio::spawn(async move {
            let mut taken = Vec::new();
            loop {
                taken.push(listener.accept().await.unwrap());
            }
        });
        let url = format!("http://{address}").parse().unwrap();
        let mut config = bounded(Config::new(url));
        config.read_timeout = config.read_timeout.map(|timeout| timeout / 1000);
        let client = Client::try_from(config).unwrap();
        let pods = kube::Api::<k8s_openapi::api::core::v1::Pod>::all(client);
        let parameters = kube::api::ListParams::default();
        let waited = tokio::time::timeout(Duration::from_secs(20), pods.list(&parameters)).await;
        assert!(waited.is_ok_and(|listed| listed.is_err()));
        silent.abort();
    }

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

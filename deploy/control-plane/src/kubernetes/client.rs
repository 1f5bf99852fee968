//! How the API server is reached: as a kubeconfig says, or as a pod of the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::watch::WATCH_TIMEOUT;

const KUBECONFIG: &str = "KUBECONFIG";
/// An API server that is away is noticed, and tried again, rather than waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that waits for an answer and hears nothing for this long is dead. Only a watch may be silent, and never
/// for longer than it lasts.
const SILENCE: Duration = Duration::from_secs(WATCH_TIMEOUT as u64 + 30);

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
    bounded(config, SILENCE)
}

/// An API server that vanishes in the middle of an answer says nothing more, and no error comes: without a bound, a list
/// or the beginning of a watch would be waited for until the end of the process, and what was read last served as if it
/// were current.
fn bounded(mut config: Config, silence: Duration) -> Result<Client, ClientError> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(silence);
    // Counted from the request, however long the connection was idle before it.
    config.reset_reader_on_write = true;
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
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_api_server_that_falls_silent_is_not_waited_for_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, asked) = tokio::sync::oneshot::channel();
        // It takes the request, and that is the last of it.
        let silent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = stream.read(&mut [0; 1024]).await.unwrap();
            heard.send(read).unwrap();
            std::future::pending::<()>().await;
            drop(stream);
        });
        let config = Config::new(format!("http://{address}").parse().unwrap());
        let client = bounded(config, Duration::from_millis(100)).unwrap();
        let request = hyper::Request::get("/api/v1/pods")
            .body(Vec::new())
            .unwrap();
        let answer = client.request_text(request);
        let answer = tokio::time::timeout(Duration::from_secs(30), answer).await;
        let answer = answer.expect("it waits for an answer that never comes");
        assert!(answer.is_err(), "{answer:?}");
        assert!(asked.await.unwrap() > 0);
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

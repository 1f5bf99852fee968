//! A pod's volumes: folders on the machine that its containers mount.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::PostParams;

use super::Node;
use super::environment::field_of;
use super::pod::Pod;

/// The folder of each volume, by name, filled.
pub(super) async fn prepare(
    node: &Node,
    pod: &Pod,
    spec: &core::PodSpec,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut folders = BTreeMap::new();
    for volume in spec.volumes.iter().flatten() {
        let folder = match &volume.csi {
            // Short: the path of a socket has 107 bytes.
            Some(_) => node
                .lab
                .directory()
                .join(format!("csi-{:08x}", fastrand::u32(..))),
            None => pod.directory().join(format!("volume-{}", volume.name)),
        };
        // It may be there from an earlier attempt.
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        fill(node, pod, volume, &folder)
            .await
            .map_err(|why| format!("volume {}: {why}", volume.name))?;
        folders.insert(volume.name.clone(), folder);
    }
    Ok(folders)
}

async fn fill(node: &Node, pod: &Pod, volume: &core::Volume, folder: &Path) -> Result<(), String> {
    if volume.empty_dir.is_some() {
        let open = std::fs::Permissions::from_mode(0o777);
        return std::fs::set_permissions(folder, open).map_err(|e| e.to_string());
    }
    if let Some(csi) = &volume.csi {
        return match csi.driver.as_str() {
            "csi.spiffe.io" if csi.read_only == Some(true) => workload_api(node, pod, folder).await,
            "csi.spiffe.io" => Err("csi.spiffe.io volumes are read-only".to_owned()),
            other => Err(format!("there is no CSI driver {other}")),
        };
    }
    if let Some(source) = &volume.config_map {
        return config_map(node, pod, &source.name, source.items.as_deref(), folder).await;
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        return secret(node, pod, name, source.items.as_deref(), folder).await;
    }
    if let Some(source) = &volume.downward_api {
        return downward(pod, source.items.as_deref(), folder);
    }
    let Some(projected) = &volume.projected else {
        return Err("of a kind that this node does not have".to_owned());
    };
    for source in projected.sources.iter().flatten() {
        if let Some(token) = &source.service_account_token {
            service_account_token(node, pod, token, folder).await?;
        } else if let Some(source) = &source.config_map {
            config_map(node, pod, &source.name, source.items.as_deref(), folder).await?;
        } else if let Some(source) = &source.secret {
            secret(node, pod, &source.name, source.items.as_deref(), folder).await?;
        } else if let Some(source) = &source.downward_api {
            downward(pod, source.items.as_deref(), folder)?;
        } else {
            return Err("projects something that this node does not have".to_owned());
        }
    }
    Ok(())
}

/// What SPIRE's agent and CSI driver do: a socket through which only this pod comes, known by namespace and account.
async fn workload_api(node: &Node, pod: &Pod, folder: &Path) -> Result<(), String> {
    let id = format!(
        "spiffe://{}/ns/{}/sa/{}",
        TRUST_DOMAIN,
        pod.namespace(),
        pod.service_account()
    );
    let socket = folder.join("spire-agent.sock");
    node.authority
        .add_entry(&id, &socket)
        .await
        .map_err(|e| e.to_string())
}

/// As in `LabOptions::default()`.
pub(super) const TRUST_DOMAIN: &str = "example.org";

async fn service_account_token(
    node: &Node,
    pod: &Pod,
    source: &core::ServiceAccountTokenProjection,
    folder: &Path,
) -> Result<(), String> {
    let api = Api::<core::ServiceAccount>::namespaced(node.client.clone(), pod.namespace());
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: source.audience.iter().cloned().collect(),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name().to_owned()),
                uid: Some(pod.uid().to_owned()),
            }),
            expiration_seconds: source.expiration_seconds,
        },
        ..TokenRequest::default()
    };
    let answer = api
        .create_token_request(&pod.service_account(), &PostParams::default(), &request)
        .await
        .map_err(|e| e.to_string())?;
    let token = answer.status.ok_or("the API server gave no token")?.token;
    write(folder, &source.path, token.as_bytes())
}

async fn config_map(
    node: &Node,
    pod: &Pod,
    name: &str,
    items: Option<&[core::KeyToPath]>,
    folder: &Path,
) -> Result<(), String> {
    let api = Api::<core::ConfigMap>::namespaced(node.client.clone(), pod.namespace());
    let map = api.get(name).await.map_err(|e| e.to_string())?;
    let text = map.data.unwrap_or_default().into_iter();
    let text = text.map(|(key, value)| (key, value.into_bytes()));
    let binary = map.binary_data.unwrap_or_default().into_iter();
    let binary = binary.map(|(key, value)| (key, value.0));
    write_all(&text.chain(binary).collect(), items, folder)
}

async fn secret(
    node: &Node,
    pod: &Pod,
    name: &str,
    items: Option<&[core::KeyToPath]>,
    folder: &Path,
) -> Result<(), String> {
    let api = Api::<core::Secret>::namespaced(node.client.clone(), pod.namespace());
    let secret = api.get(name).await.map_err(|e| e.to_string())?;
    let data = secret.data.unwrap_or_default().into_iter();
    write_all(
        &data.map(|(key, value)| (key, value.0)).collect(),
        items,
        folder,
    )
}

fn downward(
    pod: &Pod,
    items: Option<&[core::DownwardAPIVolumeFile]>,
    folder: &Path,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let field = item.field_ref.as_ref().ok_or("names no field")?;
        let text = field_of(pod, &field.field_path)?;
        write(folder, &item.path, text.as_bytes())?;
    }
    Ok(())
}

fn write_all(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[core::KeyToPath]>,
    folder: &Path,
) -> Result<(), String> {
    match items {
        None => data
            .iter()
            .try_for_each(|(key, value)| write(folder, key, value)),
        Some(items) => items.iter().try_for_each(|item| {
            let value = data.get(&item.key);
            let value = value.ok_or_else(|| format!("there is no key {}", item.key))?;
            write(folder, &item.path, value)
        }),
    }
}

fn write(folder: &Path, path: &str, content: &[u8]) -> Result<(), String> {
    let path = folder.join(path);
    let parent = path.parent().ok_or("a path without a folder")?;
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(&path, content))
        .map_err(|e| format!("{}: {e}", path.display()))
}

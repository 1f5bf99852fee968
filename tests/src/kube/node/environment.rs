//! A container's environment, as its spec says.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use kube::{Api, ResourceExt};

use super::Node;
use super::pod::Pod;

/// The variables of a container, in order.
pub(super) async fn variables(
    node: &Node,
    pod: &Pod,
    spec: &core::Container,
) -> Result<Vec<(String, String)>, String> {
    if spec.env_from.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err("envFrom is more than this node can do".to_owned());
    }
    let (host, port) = node.api_server();
    let mut variables = vec![
        ("HOSTNAME".to_owned(), pod.name().to_owned()),
        ("KUBERNETES_SERVICE_HOST".to_owned(), host.to_owned()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), port.to_string()),
    ];
    let mut known: BTreeMap<String, String> = variables.iter().cloned().collect();
    for variable in spec.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) => expand(text, &known),
            (None, None) => String::new(),
            (None, Some(source)) => from(node, pod, spec, source)
                .await
                .map_err(|why| format!("env {}: {why}", variable.name))?,
        };
        known.insert(variable.name.clone(), value.clone());
        variables.push((variable.name.clone(), value));
    }
    Ok(variables)
}

async fn from(
    node: &Node,
    pod: &Pod,
    spec: &core::Container,
    source: &core::EnvVarSource,
) -> Result<String, String> {
    if let Some(field) = &source.field_ref {
        return field_of(pod, &field.field_path);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let api = Api::<core::ConfigMap>::namespaced(node.client.clone(), pod.namespace());
        let map = api.get(&reference.name).await.map_err(|e| e.to_string())?;
        let value = map.data.and_then(|mut data| data.remove(&reference.key));
        return value.ok_or_else(|| format!("no key {} in {}", reference.key, reference.name));
    }
    if let Some(reference) = &source.resource_field_ref {
        let limits = spec.resources.as_ref().and_then(|resources| {
            let (group, name) = reference.resource.split_once('.')?;
            let values = match group {
                "limits" => resources.limits.as_ref(),
                _ => resources.requests.as_ref(),
            };
            values?.get(name)
        });
        return limits
            .map(|quantity| quantity.0.clone())
            .ok_or_else(|| format!("no {}", reference.resource));
    }
    Err("comes from something this node cannot read".to_owned())
}

/// A field of the pod by the path that the downward API has for it.
pub(super) fn field_of(pod: &Pod, path: &str) -> Result<String, String> {
    let both = pod.workload.addresses.both();
    let object = pod.object();
    let spec = object.spec.as_ref();
    let keyed = |prefix: &str| {
        let rest = path.strip_prefix(prefix)?;
        rest.strip_prefix("['")?.strip_suffix("']")
    };
    if let Some(key) = keyed("metadata.labels") {
        return Ok(object.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Ok(object.annotations().get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "status.podIP" => both[0].to_string(),
        "status.podIPs" => format!("{},{}", both[0], both[1]),
        "status.hostIP" => node_address(pod),
        "spec.nodeName" => super::NAME.to_owned(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        other => return Err(format!("the downward API has no {other}")),
    })
}

pub(super) fn node_address(pod: &Pod) -> String {
    pod.host().to_owned()
}

/// Expands `$(NAME)`; what is not known stays as it is, and `$$` stands for one `$`.
pub(super) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        out += &rest[..position];
        rest = &rest[position + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix('(')
            .and_then(|inside| inside.split_once(')'))
        {
            match known.get(name) {
                Some(value) => out += value,
                None => out += &format!("$({name})"),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_as_kubernetes_does() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("$(A)/$(A)", "1/1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("a$b", "a$b"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &known), expected);
        }
    }
}

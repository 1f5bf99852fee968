//! A pod taken apart into what injection looks at, so that nothing later has to ask whether a list is a list. What is not
//! known here stays as it is: the pod may come from a newer Kubernetes.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::annotations::{INJECTED, STATUS, VERSION};
use super::{CAPTURE, Mistake, SIDECAR, containers, probes};

pub(super) type Object = Map<String, Value>;

#[derive(Debug)]
pub(super) struct Pod {
    /// Without what is below.
    root: Object,
    metadata: Object,
    annotations: BTreeMap<String, String>,
    pub(super) spec: Object,
    pub(super) containers: Vec<Object>,
    pub(super) init_containers: Vec<Object>,
    pub(super) volumes: Vec<Object>,
    /// What a LimitRange has given to our containers since they were put in, by their names: `limits` and `requests`.
    limited: BTreeMap<String, Object>,
    /// Of an earlier injection, by `<container>/<hook>`: what was made then stays.
    pub(super) hook_keys: BTreeMap<String, String>,
}

/// The API server's own note that a LimitRange has set something in the pod.
const LIMIT_RANGER: &str = "kubernetes.io/limit-ranger";

/// The name of a container or volume, which [`Pod::read`] has seen.
pub(super) fn name(object: &Object) -> &str {
    object
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// An init container that stays, beside the application.
pub(super) fn is_native_sidecar(container: &Object) -> bool {
    container.get("restartPolicy").and_then(Value::as_str) == Some("Always")
}

impl Pod {
    /// # Errors
    /// It doesn't have the shape of a pod.
    pub(super) fn read(value: &Value) -> Result<Self, Vec<Mistake>> {
        let mut problems = Vec::new();
        let Value::Object(mut root) = value.clone() else {
            return Err(vec![Mistake::new("", "expected a pod")]);
        };
        let mut metadata = object(&mut root, "metadata", "", &mut problems);
        let annotations = annotations(&mut metadata, &mut problems);
        let mut spec = object(&mut root, "spec", "", &mut problems);
        let pod = Self {
            containers: named(&mut spec, "containers", &mut problems),
            init_containers: named(&mut spec, "initContainers", &mut problems),
            volumes: named(&mut spec, "volumes", &mut problems),
            limited: BTreeMap::new(),
            root,
            metadata,
            annotations,
            spec,
            hook_keys: BTreeMap::new(),
        };
        if problems.is_empty() && pod.containers.is_empty() {
            problems.push(Mistake::new(
                "spec.containers",
                "expected at least one container",
            ));
        }
        if problems.is_empty() {
            Ok(pod)
        } else {
            Err(problems)
        }
    }

    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.clone()
    }

    pub(super) fn annotate(&mut self, name: &str, value: &str) {
        self.annotations.insert(name.into(), value.into());
    }

    /// Every container with its place in the pod.
    pub(super) fn all_containers(&self) -> impl Iterator<Item = (String, &Object)> {
        let at = |list: &'static str| {
            move |(index, container)| (format!("spec.{list}[{index}]"), container)
        };
        let init = self
            .init_containers
            .iter()
            .enumerate()
            .map(at("initContainers"));
        init.chain(self.containers.iter().enumerate().map(at("containers")))
    }

    /// The containers that live as long as the pod, native sidecars among them: those that can have probes.
    pub(super) fn lasting_containers(&mut self) -> impl Iterator<Item = (String, &mut Object)> {
        let at = |list: &'static str| {
            move |(index, container)| (format!("spec.{list}[{index}]"), container)
        };
        let init = self.init_containers.iter_mut().enumerate();
        let init = init.filter(|(_, container)| is_native_sidecar(container));
        init.map(at("initContainers"))
            .chain(self.containers.iter_mut().enumerate().map(at("containers")))
    }

    /// Takes out what an earlier injection put in, so that it is made anew. Without its annotation nothing in a pod is
    /// ours, whatever it is called.
    pub(super) fn take_out_ours(&mut self, problems: &mut Vec<Mistake>) {
        if self.annotations.get(STATUS).map(String::as_str) != Some(INJECTED) {
            return;
        }
        let ours = |container: &Object| match name(container) {
            SIDECAR => is_native_sidecar(container),
            CAPTURE => !is_native_sidecar(container),
            _ => false,
        };
        let (removed, kept) = std::mem::take(&mut self.init_containers)
            .into_iter()
            .partition(ours);
        self.init_containers = kept;
        self.volumes
            .retain(|volume| !containers::is_our_volume(volume));
        self.annotations.remove(STATUS);
        self.annotations.remove(VERSION);
        let removed: Vec<Object> = removed;
        // The API server asks again after it has filled these in, and not once more before it refuses containers without.
        if self.annotations.contains_key(LIMIT_RANGER) {
            for container in &removed {
                if let Some(Value::Object(resources)) = container.get("resources") {
                    (self.limited).insert(name(container).to_owned(), resources.clone());
                }
            }
        }
        if let Some(sidecar) = removed.iter().find(|container| name(container) == SIDECAR) {
            probes::restore(self, sidecar, problems);
        }
    }

    /// What a LimitRange gave to the container of this name, of `limits` or `requests`.
    pub(super) fn limited(&self, container: &str, kind: &str) -> Option<&Object> {
        self.limited.get(container)?.get(kind)?.as_object()
    }

    pub(super) fn into_value(self) -> Value {
        let Self {
            mut root,
            mut metadata,
            annotations,
            mut spec,
            containers,
            init_containers,
            volumes,
            limited: _,
            hook_keys: _,
        } = self;
        let list =
            |objects: Vec<Object>| Value::Array(objects.into_iter().map(Value::Object).collect());
        metadata.insert("annotations".into(), annotations.into_iter().collect());
        spec.insert("containers".into(), list(containers));
        spec.insert("initContainers".into(), list(init_containers));
        spec.insert("volumes".into(), list(volumes));
        root.insert("metadata".into(), metadata.into());
        root.insert("spec".into(), spec.into());
        root.into()
    }
}

/// The object at a key, taken out; an absent one is empty.
fn object(from: &mut Object, key: &str, at: &str, problems: &mut Vec<Mistake>) -> Object {
    match from.remove(key) {
        None | Some(Value::Null) => Object::new(),
        Some(Value::Object(object)) => object,
        Some(_) => {
            problems.push(Mistake::new(format!("{at}{key}"), "expected a map"));
            Object::new()
        }
    }
}

fn annotations(metadata: &mut Object, problems: &mut Vec<Mistake>) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::new();
    for (key, value) in object(metadata, "annotations", "metadata.", problems) {
        if let Value::String(text) = value {
            annotations.insert(key, text);
        } else {
            let message = format!("{value} where a string is expected: put it in quotes");
            problems.push(Mistake::new(format!("metadata.annotations.{key}"), message));
        }
    }
    annotations
}

/// A list of things with a name, taken out; an absent one is empty.
fn named(spec: &mut Object, key: &str, problems: &mut Vec<Mistake>) -> Vec<Object> {
    let items = match spec.remove(key) {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => {
            problems.push(Mistake::new(format!("spec.{key}"), "expected a list"));
            return Vec::new();
        }
    };
    let mut objects = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        match item {
            Value::Object(object) if object.get("name").is_some_and(Value::is_string) => {
                objects.push(object);
            }
            _ => problems.push(Mistake::new(
                format!("spec.{key}[{index}].name"),
                "required",
            )),
        }
    }
    objects
}

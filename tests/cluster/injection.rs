//! The real webhook, asked by the real API server: who gets a sidecar, who is refused, who is left alone.

use kith_tests::kube::{Cluster, PATIENCE};
use kith_tests::wait::wait_for;
use serde_json::Value;

/// A pod of one container, with something in its metadata and its spec.
fn pod(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{namespace: shop, name: {name}, {metadata}}}, \
         spec: {{containers: [{{name: app, image: kith, args: [__app, http]}}], {spec}}}}}"
    )
}

#[test]
fn pods_get_their_sidecar_by_admission() {
    Cluster::run(async |cluster| {
        // The whole chart, as the API server sees it, before anything of it is there but the CRDs.
        cluster.install_crds().await;
        let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: kith-system}}";
        cluster.apply(namespace).await;
        let manifests = cluster.file(&cluster.template(&[]).await);
        let manifests = manifests.to_str().unwrap();
        let dry = [
            "apply",
            "--dry-run=server",
            "-n",
            "kith-system",
            "-f",
            manifests,
        ];
        let said = cluster.must(&dry).await;
        assert!(
            said.contains("deployment.apps/kith-control created (server dry run)"),
            "{said}"
        );
        cluster.install(&[]).await;
        // Again, over what replicas have written meanwhile: no conflict, and the certificates stay.
        let again = cluster.apply_chart(&[]).await;
        assert!(again.status.success(), "{}", again.stderr);
        cluster.namespace("shop").await;

        // Injected, and accepted by the API server with all its defaults and checks.
        cluster
            .apply(&pod("plain", "labels: {app: plain}", ""))
            .await;
        let injected = cluster
            .must(&["get", "pod", "-n", "shop", "plain", "-o", "json"])
            .await;
        let injected: Value = serde_json::from_str(&injected).unwrap();
        let inits = injected["spec"]["initContainers"].as_array().unwrap();
        let names: Vec<&str> = inits
            .iter()
            .filter_map(|init| init["name"].as_str())
            .collect();
        assert_eq!(names, ["kith-capture", "kith-proxy"]);
        let annotations = &injected["metadata"]["annotations"];
        assert_eq!(annotations["kith.dev/status"], "injected");
        let pod_of = cluster.ready_pod("shop", "plain").await;

        // It runs as it says: its own user, no powers, nothing to write to.
        let pid = pod_of.sidecar().pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in [
            "Uid:\t1337\t1337\t1337\t1337",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
        ] {
            assert!(status.contains(line), "no {line:?} in {status}");
        }
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let root = mounts
            .lines()
            .find(|line| line.split(' ').nth(4) == Some("/"))
            .unwrap();
        assert_eq!(
            root.split(' ')
                .nth(5)
                .map(|options| options.starts_with("ro")),
            Some(true),
            "{root}"
        );

        // Refused, and why.
        for (yaml, words) in [
            (
                pod("host", "labels: {app: host}", "hostNetwork: true"),
                "hostNetwork",
            ),
            (
                pod("typo", "annotations: {kith.dev/log-levle: debug}", ""),
                "kith.dev/log-levle",
            ),
            (
                pod("value", "annotations: {kith.dev/workers: many}", ""),
                "kith.dev/workers",
            ),
        ] {
            let output = cluster.try_apply(&yaml).await;
            assert!(!output.status.success(), "taken: {yaml}");
            assert!(output.stderr.contains(words), "{}", output.stderr);
        }

        // Nor does a container that is added later go past the sidecar.
        let debug = async |pod: &str, container: &str, more: &str| {
            let custom = cluster.file(more);
            let custom = format!("--custom={}", custom.display());
            let container = format!("--container={container}");
            let image = ["--image=kith", &container, &custom, "--", "__app", "http"];
            let arguments = [&["debug", "-n", "shop", pod], &image[..]].concat();
            cluster.kubectl(&arguments).await
        };
        let own_user = r#"{"securityContext": {"runAsUser": 1337}}"#;
        let output = debug("plain", "past", own_user).await;
        assert!(!output.status.success(), "taken");
        assert!(
            output
                .stderr
                .contains("spec.ephemeralContainers[0].securityContext.runAsUser: 1337 is the sidecar's user id"),
            "{}",
            output.stderr
        );
        let output = debug("plain", "fine", "{}").await;
        assert!(output.status.success(), "{}", output.stderr);

        // Not asked for: left alone, even where it could not be honoured.
        cluster
            .apply(&pod(
                "alone",
                "labels: {app: alone, kith.dev/inject: 'false'}",
                "",
            ))
            .await;
        assert_eq!(cluster.ready_pod("shop", "alone").await.containers.len(), 1);
        let output = debug("alone", "own", own_user).await;
        assert!(output.status.success(), "{}", output.stderr);
        let elsewhere = "{apiVersion: v1, kind: Namespace, metadata: {name: elsewhere}}";
        cluster.apply(elsewhere).await;
        cluster.service_account("elsewhere", "default").await;
        let odd = pod(
            "odd",
            "labels: {app: odd}, annotations: {kith.dev/log-levle: debug}",
            "",
        );
        cluster
            .apply(&odd.replace("namespace: shop", "namespace: elsewhere"))
            .await;
        assert_eq!(
            cluster.ready_pod("elsewhere", "odd").await.containers.len(),
            1
        );
        let wanted = pod(
            "wanted",
            "labels: {app: wanted, kith.dev/inject: 'true'}",
            "",
        );
        cluster
            .apply(&wanted.replace("namespace: shop", "namespace: elsewhere"))
            .await;
        assert_eq!(
            cluster
                .ready_pod("elsewhere", "wanted")
                .await
                .containers
                .len(),
            3
        );
        // A namespace that is disabled is never asked about, whatever a pod there says.
        let apart = "{apiVersion: v1, kind: Namespace, metadata: {name: apart, labels: {kith.dev/injection: disabled}}}";
        cluster.apply(apart).await;
        cluster.service_account("apart", "default").await;
        for label in ["true", "yes"] {
            let labels = format!("labels: {{app: apart-{label}, kith.dev/inject: '{label}'}}");
            let name = format!("apart-{label}");
            let pod = pod(&name, &labels, "").replace("namespace: shop", "namespace: apart");
            cluster.apply(&pod).await;
            assert_eq!(cluster.ready_pod("apart", &name).await.containers.len(), 1);
        }

        // What a LimitRange gives to the sidecar stays: its maximum takes no container without.
        cluster.namespace("limited").await;
        cluster
            .apply(
                "{apiVersion: v1, kind: LimitRange, metadata: {namespace: limited, name: a}, \
                 spec: {limits: [{type: Container, default: {cpu: 500m}, max: {cpu: 2}}]}}",
            )
            .await;
        let file =
            cluster.file(&pod("bounded", "", "").replace("namespace: shop", "namespace: limited"));
        let file = file.to_str().unwrap();
        let limits = wait_for("the LimitRange to be in effect", PATIENCE, async || {
            let arguments = ["create", "--dry-run=server", "-o", "json", "-f", file];
            let said = cluster.kubectl(&arguments).await.stdout;
            let pod: Value = serde_json::from_str(&said).ok()?;
            let limit =
                |list: &str, at: usize| pod["spec"][list][at]["resources"]["limits"]["cpu"].clone();
            let given = !limit("containers", 0).is_null();
            given.then(|| [limit("initContainers", 0), limit("initContainers", 1)])
        })
        .await;
        assert_eq!(limits, ["500m", "500m"]);

        // Without a control plane no pod goes unprotected, and nobody else notices.
        let scale = [
            "scale",
            "-n",
            "kith-system",
            "deployment/kith-control",
            "--replicas=0",
        ];
        cluster.must(&scale).await;
        cluster.control_plane(0).await;
        // A replica that is ending serves for a moment longer.
        let gone = [
            "wait",
            "-n",
            "kith-system",
            "--for=delete",
            "pod",
            "--selector=app.kubernetes.io/name=kith-control",
            "--timeout=60s",
        ];
        cluster.must(&gone).await;
        let output = cluster
            .try_apply(&pod("late", "labels: {app: late}", ""))
            .await;
        assert!(
            !output.status.success() && output.stderr.contains("inject.kith.dev"),
            "{output:?}"
        );
        let output = debug("plain", "late", "{}").await;
        assert!(
            !output.status.success() && output.stderr.contains("ephemeral.validate.kith.dev"),
            "{output:?}"
        );
        let output = debug("alone", "late", "{}").await;
        assert!(output.status.success(), "{}", output.stderr);
        let quiet = pod("quiet", "labels: {app: quiet}", "");
        cluster
            .apply(&quiet.replace("namespace: shop", "namespace: elsewhere"))
            .await;
    });
}

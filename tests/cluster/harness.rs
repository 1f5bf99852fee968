//! The node and the controllers are what the other tests stand on: they are held here to what Kubernetes promises.

use kith_tests::kube::Cluster;
use kith_tests::kube::node::container::State;
use serde_json::Value;

/// A pod with two sidecars, an init container and an application, all of which say who they are.
const WHOLE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      initContainers:
      - name: powers
        image: kith
        command: [sh, -c, 'id -u; id -G; grep -E \"^(CapBnd|CapEff|NoNewPrivs)\" /proc/self/status; touch /x 2>&1; touch /data/x; env']
        env:
        - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
        - {name: ID, value: $(NAME)/$(IPS)/$(NOBODY)}
        securityContext:
          runAsUser: 0
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {drop: [ALL], add: [NET_ADMIN]}
        volumeMounts: [{name: data, mountPath: /data}]
      - {name: first, image: 'registry.example/kith:1', restartPolicy: Always, args: [__app, http, --listen, '[::]:8081'], startupProbe: {httpGet: {port: 8081}, periodSeconds: 1}}
      - {name: second, image: kith, restartPolicy: Always, args: [__app, http, --listen, '[::]:8082']}
      containers:
      - name: app
        image: kith
        args: [__app, http, --name, web]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {port: http, path: /status/204}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 1}}}
      volumes: [{name: data, emptyDir: {}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: shop}
spec:
  template:
    metadata: {labels: {app: once}}
    spec:
      restartPolicy: Never
      initContainers:
      - {name: side, image: kith, restartPolicy: Always, args: [__app, http]}
      containers:
      - {name: main, image: kith, command: [sh, -c, 'sleep 0.5']}
";

/// A pod with a volume of something that is not there yet.
const LATE: &str = "
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: late, labels: {app: late}}
spec:
  containers: [{name: app, image: kith, args: [__app, http], volumeMounts: [{name: settings, mountPath: /settings}]}]
  volumes: [{name: settings, configMap: {name: settings}}]
";

#[test]
fn the_node_runs_pods_as_kubernetes_promises() {
    Cluster::run(async |cluster| {
        cluster.apply(WHOLE).await;
        let pods = cluster.ready_pods("shop", "web", 2).await;
        let pod = &pods[0];

        // What the spec says is what the process got.
        let said = pod.container("powers").process().stdout();
        let line = |start: &str| {
            let found = said.lines().find(|line| line.starts_with(start));
            found
                .unwrap_or_else(|| panic!("no {start} in {said}"))
                .to_owned()
        };
        assert!(said.starts_with("0\n0\n"), "{said}");
        assert_eq!(line("CapBnd"), "CapBnd:\t0000000000001000");
        assert_eq!(line("CapEff"), "CapEff:\t0000000000001000");
        assert_eq!(line("NoNewPrivs"), "NoNewPrivs:\t1");
        assert!(line("touch").contains("Read-only file system"), "{said}");
        let both = pod.workload.addresses.both();
        let id = format!("ID={}/{},{}/$(NOBODY)", pod.name(), both[0], both[1]);
        assert_eq!(line("ID="), id);
        assert!(
            !said.contains("KITH_"),
            "the harness's own variables: {said}"
        );

        // A service's address leads to its pods, by name and from a pod that captures nothing.
        let reply = pod.get("http://web.shop.svc:80/").await.unwrap();
        assert_eq!(
            (reply.status, reply.json()["app"].as_str()),
            (200, Some("web"))
        );
        let slices = cluster
            .must(&["get", "endpointslices", "-n", "shop", "-o", "json"])
            .await;
        let slices: Value = serde_json::from_str(&slices).unwrap();
        for slice in slices["items"].as_array().unwrap() {
            assert_eq!(slice["ports"][0]["port"], 8080, "{slice}");
            assert_eq!(slice["endpoints"].as_array().unwrap().len(), 2, "{slice}");
        }
        let waited = [
            "rollout",
            "status",
            "-n",
            "shop",
            "deployment/web",
            "--timeout=5s",
        ];
        cluster.must(&waited).await;

        // A container that dies is started again.
        pod.container("second").process().kill();
        kith_tests::wait::wait_for("a restart", kith_tests::kube::PATIENCE, async || {
            (pod.container("second").restarts() == 1).then_some(())
        })
        .await;

        // What a volume is made of may come after the pod.
        cluster.apply(LATE).await;
        kith_tests::wait::wait_for("a missing volume", kith_tests::kube::PATIENCE, async || {
            let late = cluster.node.pod("shop", "late")?;
            late.describe().contains("volume settings").then_some(())
        })
        .await;
        let settings = "{apiVersion: v1, kind: ConfigMap, metadata: {namespace: shop, name: settings}, data: {a: b}}";
        cluster.apply(settings).await;
        cluster.ready_pod("shop", "late").await;

        // The end: application, then the sidecars backwards.
        let pods = cluster.ready_pods("shop", "web", 2).await;
        let pod = &pods[1];
        cluster
            .must(&["delete", "pod", "-n", "shop", pod.name(), "--timeout=30s"])
            .await;
        let ended = ["app", "second", "first"].map(|name| match pod.container(name).state() {
            State::Ended(code, _, at) => (code, at),
            other => panic!("{name}: {other:?}"),
        });
        // Asked, not killed.
        assert!(
            ended.iter().all(|(code, _)| [0, 128 + 15].contains(code)),
            "{ended:?}"
        );
        assert!(ended.is_sorted_by_key(|(_, at)| at.clone()), "{ended:?}");
        cluster.ready_pods("shop", "web", 2).await;

        // A rollout replaces both, and a Job with a sidecar completes.
        let before: Vec<String> = cluster
            .pods("shop", "web")
            .iter()
            .map(|pod| pod.id())
            .collect();
        cluster
            .must(&["rollout", "restart", "-n", "shop", "deployment/web"])
            .await;
        let waited = [
            "rollout",
            "status",
            "-n",
            "shop",
            "deployment/web",
            "--timeout=60s",
        ];
        cluster.must(&waited).await;
        let after = cluster.ready_pods("shop", "web", 2).await;
        assert!(
            after.iter().all(|pod| !before.contains(&pod.id())),
            "{before:?}"
        );
        let waited = [
            "wait",
            "-n",
            "shop",
            "job/once",
            "--for=condition=complete",
            "--timeout=30s",
        ];
        cluster.must(&waited).await;

        // The API server may go away and come back.
        cluster.api.compact().await;
        cluster.api.restart().await;
        cluster
            .must(&["scale", "-n", "shop", "deployment/web", "--replicas=1"])
            .await;
        cluster.ready_pod("shop", "web").await;
    });
}

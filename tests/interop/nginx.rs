//! nginx as the application behind a sidecar; h2load, wrk and curl as applications in front of another.

use std::sync::Arc;

use kith::lab::{Lab, LabOptions, Output, Process, Workload, WorkloadSpec};
use serde_json::json;

use crate::expect;
use crate::partner::allow;
use crate::programs;

const FILE_SIZE: usize = 16 * 1024 * 1024;

struct Scene {
    _lab: Lab,
    web: Arc<Workload>,
    orders: Arc<Workload>,
    _nginx: Process,
}

async fn scene() -> Scene {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let specs = [
        WorkloadSpec::new("shop", "web"),
        WorkloadSpec::new("shop", "orders")
            .port(8080, "HTTP")
            .port(8081, "HTTP2"),
    ];
    let [web, orders] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    lab.apply("orders", &allow("orders", &[&web.spiffe_id()]))
        .await
        .unwrap();
    let nginx = nginx(&orders).await;
    Scene {
        _lab: lab,
        web,
        orders,
        _nginx: nginx,
    }
}

/// Serves a small file, a large one, a page of HTML that it compresses, and anything that is sent to it.
async fn nginx(workload: &Workload) -> Process {
    let directory = workload.directory().join("nginx");
    std::fs::create_dir(&directory).unwrap();
    let bytes: Vec<u8> = (0..FILE_SIZE).map(|index| (index % 251) as u8).collect();
    std::fs::write(directory.join("large"), bytes).unwrap();
    std::fs::write(directory.join("small"), "small").unwrap();
    std::fs::write(
        directory.join("page.html"),
        "<p>many words</p>\n".repeat(4_000),
    )
    .unwrap();
    let root = directory.display();
    // One process that keeps its user: a master would give up root, which a user namespace may not allow.
    let config = format!(
        "daemon off; master_process off; user root root; pid {root}/pid; error_log stderr warn;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n\
           access_log off; gzip on; gzip_proxied any; keepalive_requests 100000; client_max_body_size 64m;\n\
           client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;\n\
           uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
           types {{ text/html html; }} default_type application/octet-stream; root {root};\n\
           server {{ listen [::]:8080 ipv6only=off; location /answer {{ return 200 \"answered\"; }} }}\n\
           server {{ listen [::]:8081 ipv6only=off http2; location /answer {{ return 200 \"answered\"; }} }}\n\
         }}\n"
    );
    let path = directory.join("nginx.conf");
    std::fs::write(&path, config).unwrap();
    let process = workload
        .spawn(&[programs::system("nginx"), "-c", path.to_str().unwrap()])
        .unwrap();
    for port in [8080, 8081] {
        if let Err(error) = workload.listening(port).await {
            panic!("{error}\n{}", process.not_ready("does not listen"));
        }
    }
    process
}

impl Scene {
    async fn curl(&self, arguments: &[&str]) -> Output {
        let command = [
            programs::system("curl"),
            "--silent",
            "--show-error",
            "--max-time",
            "30",
        ];
        let output = self
            .web
            .exec(&[&command[..], arguments].concat())
            .await
            .unwrap();
        expect::success(&output);
        output
    }

    /// Every request has its record on both ends, allowed and answered.
    async fn recorded(&self, path: &str, count: usize) {
        for workload in [&self.web, &self.orders] {
            let records = workload
                .wait_records(count, |record| record["http.path"] == path)
                .await
                .unwrap();
            assert_eq!(records.len(), count, "{}", workload.spec.id());
            for record in records {
                expect::fields(&record, &json!({"decision": "allow", "http.status": 200}));
            }
        }
    }
}

#[tokio::test]
async fn h2load_gets_every_answer_over_http2() {
    let scene = scene().await;
    let load = [
        programs::system("h2load"),
        "-n",
        "4000",
        "-c",
        "4",
        "-m",
        "16",
        "http://orders.shop:8081/small",
    ];
    let output = scene.web.exec(&load).await.unwrap();
    expect::success(&output);
    let done = "requests: 4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout";
    assert!(
        output.stdout.contains(done) && output.stdout.contains("4000 2xx"),
        "{}",
        output.stdout
    );
    scene.recorded("/small", 4_000).await;
}

#[tokio::test]
async fn h2load_gets_every_answer_over_http1() {
    let scene = scene().await;
    let load = [
        programs::system("h2load"),
        "--h1",
        "-n",
        "4000",
        "-c",
        "8",
        "http://orders.shop:8080/small",
    ];
    let output = scene.web.exec(&load).await.unwrap();
    expect::success(&output);
    let done = "requests: 4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout";
    assert!(
        output.stdout.contains(done) && output.stdout.contains("4000 2xx"),
        "{}",
        output.stdout
    );
    scene.recorded("/small", 4_000).await;
}

/// What gRPC looks like on the wire: POST with a body, its content type, and TE.
#[tokio::test]
async fn h2load_gets_every_answer_to_posts_that_look_like_grpc() {
    let scene = scene().await;
    let body = scene.web.directory().join("message");
    std::fs::write(&body, [&[0, 0, 0, 1, 0][..], &[7; 256]].concat()).unwrap();
    let load = [
        programs::system("h2load"),
        "-n",
        "2000",
        "-c",
        "4",
        "-m",
        "16",
        "-d",
        body.to_str().unwrap(),
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        "http://orders.shop:8081/answer",
    ];
    let output = scene.web.exec(&load).await.unwrap();
    expect::success(&output);
    assert!(
        output
            .stdout
            .contains("2000 succeeded, 0 failed, 0 errored"),
        "{}",
        output.stdout
    );
    scene.recorded("/answer", 2_000).await;
}

#[tokio::test]
async fn wrk_sees_no_error_on_connections_that_are_kept_alive() {
    let scene = scene().await;
    let load = [
        programs::system("wrk"),
        "-t",
        "1",
        "-c",
        "16",
        "-d",
        "3s",
        "http://orders.shop:8080/answer",
    ];
    let output = scene.web.exec(&load).await.unwrap();
    expect::success(&output);
    assert!(
        !output.stdout.contains("Non-2xx") && !output.stdout.contains("Socket errors"),
        "{}",
        output.stdout
    );
    let count = output.stdout.lines().find_map(|line| {
        line.trim()
            .split_once(" requests in ")?
            .0
            .parse::<u64>()
            .ok()
    });
    assert!(count > Some(500), "{}", output.stdout);
}

#[tokio::test]
async fn files_ranges_compression_and_conditions_arrive_as_nginx_sent_them() {
    let scene = scene().await;
    for (base, option) in [
        ("http://orders.shop:8080", "--http1.1"),
        ("http://orders.shop:8081", "--http2-prior-knowledge"),
    ] {
        let url = |path: &str| format!("{base}{path}");
        let copy = scene.web.directory().join("copy");
        scene
            .curl(&[option, "--output", copy.to_str().unwrap(), &url("/large")])
            .await;
        let original = std::fs::read(scene.orders.directory().join("nginx/large")).unwrap();
        assert!(
            std::fs::read(&copy).unwrap() == original,
            "{base}: the file arrived changed"
        );

        let output = scene
            .curl(&[option, "--include", "--range", "0-3", &url("/small")])
            .await;
        assert!(
            output.stdout.contains(" 206") && output.stdout.ends_with("smal"),
            "{output:?}"
        );

        let output = scene
            .curl(&[option, "--include", "--head", &url("/large")])
            .await;
        assert!(
            output
                .stdout
                .to_lowercase()
                .contains(&format!("content-length: {FILE_SIZE}")),
            "{output:?}"
        );

        let output = scene
            .curl(&[
                option,
                "--compressed",
                "--dump-header",
                "/dev/stderr",
                &url("/page.html"),
            ])
            .await;
        assert!(
            output
                .stderr
                .to_lowercase()
                .contains("content-encoding: gzip"),
            "{}",
            output.stderr
        );
        assert_eq!(output.stdout, "<p>many words</p>\n".repeat(4_000));

        let written = output.stderr.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("last-modified")
                .then(|| value.trim().to_owned())
        });
        let condition = format!("If-Modified-Since: {}", written.unwrap());
        let output = scene
            .curl(&[
                option,
                "--include",
                "--header",
                &condition,
                &url("/page.html"),
            ])
            .await;
        assert!(output.stdout.contains(" 304"), "{output:?}");
    }
}

/// nginx answers as soon as it has the head, and takes the rest all the same; curl wants to send everything. Only by
/// HTTP/1.1: over HTTP/2 nginx resets the stream after its answer, which this curl takes for an error.
#[tokio::test]
async fn an_upload_that_is_answered_before_it_ends_is_taken_to_its_end() {
    let scene = scene().await;
    let file = scene.web.directory().join("upload");
    std::fs::write(&file, vec![0; FILE_SIZE]).unwrap();
    let upload = format!("@{}", file.display());
    let url = "http://orders.shop:8080/answer";
    let format = "\n%{size_upload} %{num_connects}\n";
    // The second goes over the same connection.
    let output = scene
        .curl(&[
            "--http1.1",
            "--data-binary",
            &upload,
            "--write-out",
            format,
            url,
            url,
        ])
        .await;
    assert_eq!(
        output.stdout,
        format!("answered\n{FILE_SIZE} 1\nanswered\n{FILE_SIZE} 0\n")
    );
    scene.recorded("/answer", 2).await;
    for workload in [&scene.web, &scene.orders] {
        for record in workload.records() {
            expect::fields(&record, &json!({"bytes.in": FILE_SIZE}));
        }
    }
}

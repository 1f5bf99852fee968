//! Real servers behind the sidecar, and what each has seen.

use std::path::PathBuf;

use kith::lab::{Process, Workload};

use crate::programs;

/// A server on port 8080 of a workload.
pub(crate) struct Server {
    process: Process,
    /// Where it writes what it has seen; otherwise on its standard output.
    log: Option<PathBuf>,
}

impl Server {
    /// nginx. Its log has whatever it took for a request, refused ones too.
    pub(crate) async fn nginx(workload: &Workload) -> Self {
        let directory = workload.directory().join("nginx");
        std::fs::create_dir(&directory).unwrap();
        let root = directory.display();
        // One process that keeps its user: a master would give up root, which a user namespace may not allow.
        let config = format!(
            "daemon off; master_process off; user root root; pid {root}/pid; error_log stderr crit;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n\
               log_format seen 'seen $request'; access_log {root}/seen seen; keepalive_requests 100000;\n\
               client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;\n\
               uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi; default_type text/plain;\n\
               server {{ listen [::]:8080 ipv6only=off; merge_slashes off;\n\
                 location / {{ return 200 \"answer to $request_method $request_uri\\n\"; }} }}\n\
             }}\n"
        );
        let path = directory.join("nginx.conf");
        std::fs::write(&path, config).unwrap();
        let command = [programs::system("nginx"), "-c", path.to_str().unwrap()];
        let process = workload.spawn(&command).unwrap();
        Self::ready(workload, process, Some(directory.join("seen"))).await
    }

    /// Python's own http.server.
    pub(crate) async fn python(workload: &Workload) -> Self {
        let script = programs::script("http_server.py");
        let process = workload
            .spawn(&[&programs::python(), &script, "8080"])
            .unwrap();
        Self::ready(workload, process, None).await
    }

    /// gunicorn, with threads, because only they keep connections.
    pub(crate) async fn gunicorn(workload: &Workload) -> Self {
        let script = programs::script("wsgi_app.py");
        let folder = script.trim_end_matches("/wsgi_app.py");
        let command = [
            &programs::python(),
            "-m",
            "gunicorn",
            "--bind",
            "[::]:8080",
            "--threads",
            "8",
            "--keep-alive",
            "75",
            "--worker-tmp-dir",
            "/dev/shm",
            "--log-level",
            "critical",
            "--chdir",
            folder,
            "wsgi_app:app",
        ];
        let process = workload.spawn(&command).unwrap();
        Self::ready(workload, process, None).await
    }

    async fn ready(workload: &Workload, process: Process, log: Option<PathBuf>) -> Self {
        if let Err(error) = workload.listening(8080).await {
            panic!("{error}\n{}", process.not_ready("does not listen"));
        }
        Self { process, log }
    }

    /// The requests seen so far, as `METHOD TARGET`.
    pub(crate) fn seen(&self) -> Vec<String> {
        let text = match &self.log {
            Some(path) => std::fs::read(path).unwrap_or_default(),
            None => self.process.stdout().into_bytes(),
        };
        String::from_utf8_lossy(&text)
            .lines()
            .filter_map(|line| line.strip_prefix("seen "))
            .map(|line| line.split(" HTTP/1.").next().unwrap_or_default().to_owned())
            .collect()
    }
}

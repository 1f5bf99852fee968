//! Programs of the lab: each a real process in a namespace, with its own log, that can be killed and started again.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::child::Birth;
use super::error::{During, Error};
use super::privileges::search_path;

/// How to start a program, and start it again.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What it is called in messages and in the name of its log.
    pub name: String,
    /// The `kith` binary, for [`super::child`].
    pub kith: PathBuf,
    /// Namespaces and user.
    pub birth: Birth,
    /// Program and arguments.
    pub program: Vec<OsString>,
    /// Added to this process's environment without its `KITH_` and `SPIFFE_` variables.
    pub environment: Vec<(String, String)>,
    /// Folder of its log and output.
    pub logs: PathBuf,
}

/// A program that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    recipe: Recipe,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When its log cannot be made or `kith` cannot be run. A program that is not there shows in the log and as exit code 127.
    pub fn start(recipe: Recipe) -> Result<Self, Error> {
        let child = launch(&recipe)?;
        Ok(Self {
            recipe,
            state: Mutex::new(State { child, ended: None }),
        })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.recipe.name
    }

    /// The process id, as this machine sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.state().child.id()
    }

    /// The file that has its stderr.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.recipe.logs.join(format!("{}.log", self.recipe.name))
    }

    /// What it has printed on stdout so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        std::fs::read(self.out())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// What it has printed on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        std::fs::read(self.log())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// How it ended, or `None` while it runs.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut state = self.state();
        if state.ended.is_none() {
            state.ended = state.child.try_wait().ok().flatten();
        }
        state.ended
    }

    /// Sends a signal; nothing happens when it has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        // Holding the lock: nobody else can reap it, so that the process id is still its own.
        let mut state = self.state();
        if state.ended.is_none() {
            state.ended = state.child.try_wait().ok().flatten();
        }
        match (
            state.ended,
            Pid::from_raw(i32::try_from(state.child.id()).unwrap_or(0)),
        ) {
            (None, Some(pid)) => {
                kill_process(pid, signal).during(|| format!("signal {}", self.recipe.name))
            }
            _ => Ok(()),
        }
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&self) {
        let mut state = self.state();
        if state.ended.is_none() {
            let _ = state.child.kill();
            state.ended = state.child.wait().ok();
        }
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub async fn stop(&self, limit: Duration) -> Result<ExitStatus, Error> {
        self.signal(Signal::TERM)?;
        self.wait(limit).await
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub async fn wait(&self, limit: Duration) -> Result<ExitStatus, Error> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(
                    self.not_ready(&format!("did not end within {} s", limit.as_secs_f32()))
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until its stdout contains `text`.
    ///
    /// # Errors
    /// When it ends without, or takes longer than 10 seconds.
    pub async fn says(&self, text: &str) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            // In this order: what it said last counts, even if it has ended since.
            let ended = self.ended().is_some();
            if self.stdout().contains(text) {
                return Ok(());
            }
            if ended || Instant::now() >= deadline {
                return Err(
                    self.not_ready(&format!("did not say {text:?} but {:?}", self.stdout()))
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts it anew, with the same arguments; kills it first if it still runs. Logs go on in the same files.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn restart(&self) -> Result<(), Error> {
        self.kill();
        let child = launch(&self.recipe)?;
        *self.state() = State { child, ended: None };
        Ok(())
    }

    /// An error about this process that carries the end of its log.
    #[must_use]
    pub fn not_ready(&self, why: &str) -> Error {
        let ended = self
            .ended()
            .map(|status| format!(" ({status})"))
            .unwrap_or_default();
        Error::NotReady {
            part: self.recipe.name.clone(),
            why: format!("{why}{ended}"),
            log: self.log(),
            tail: tail(&self.log(), 2_000),
        }
    }

    fn out(&self) -> PathBuf {
        self.recipe.logs.join(format!("{}.out", self.recipe.name))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that gets the lab's environment and nothing of Kith's own variables.
pub(crate) fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("KITH_") || name.starts_with("SPIFFE_"))
        {
            command.env_remove(&name);
        }
    }
    command.env("PATH", search_path());
}

fn launch(recipe: &Recipe) -> Result<Child, Error> {
    let open = |ending: &str| {
        let path = recipe.logs.join(format!("{}.{ending}", recipe.name));
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .during(|| format!("write {}", path.display()))
    };
    let birth = Birth {
        parent: Some(std::process::id()),
        ..recipe.birth.clone()
    };
    let mut command = birth.command(&recipe.kith, &recipe.program);
    clean_environment(&mut command);
    command.envs(recipe.environment.iter().map(|(name, value)| (name, value)));
    command
        .stdin(Stdio::null())
        .stdout(open("out")?)
        .stderr(open("log")?)
        .process_group(0);
    spawn(command).during(|| format!("run {} for {}", recipe.kith.display(), recipe.name))
}

/// Starts a command from a thread that lives as long as this process: PR_SET_PDEATHSIG follows the thread that
/// made the child, and threads of tests and runtimes come and go.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    type Request = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in requests {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, child) = channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    spawner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// The last lines of a file, at most `bytes` long.
pub(crate) fn tail(path: &Path, bytes: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(bytes);
        file.seek(SeekFrom::Start(start))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        // Not from the middle of a line.
        Ok(if start > 0 {
            text.split_once('\n')
                .map(|(_, rest)| rest.to_owned())
                .unwrap_or(text)
        } else {
            text
        })
    };
    read().unwrap_or_default()
}

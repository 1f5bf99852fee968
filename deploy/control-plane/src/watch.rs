//! Following the folder: from an edit to a new catalog in a few milliseconds, without ever reading a file
//! that is half written if that can be helped.
//!
//! A file that someone is writing must not be read: a policy cut in half can be a valid, weaker one. So an
//! edit counts when the file is closed or renamed into place; a writer that stays silent with the file
//! open is waited for, and only then read. What inotify misses, a look at the files' times finds.

#![allow(
    clippy::disallowed_methods,
    reason = "the ban on blocking threads is for data workers; here is none, and reading files blocks"
)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind, RenameMode};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::resolve::{Resolved, resolve};
use crate::status::{Load, State};
use crate::yaml::{Loader, files_below};

/// Quiet needed after a file was closed or renamed into place: that edit is whole, more may follow.
const AFTER_WHOLE: Duration = Duration::from_millis(3);
/// Quiet needed after anything else, e.g. an editor that moves the old file away first.
const AFTER_PART: Duration = Duration::from_millis(20);
/// How long a file may stay open for writing before it is read all the same.
const OPEN_FILE: Duration = Duration::from_secs(1);
/// How often the files' times are looked at, whatever the watcher says. They count once they have stood
/// still from one look to the next.
const RESCAN: Duration = Duration::from_secs(1);

/// A folder and what was last read from it.
pub(crate) struct Folder {
    dir: PathBuf,
    loader: Loader,
    seen: Vec<Seen>,
}

/// What tells two states of a file apart without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    file: PathBuf,
    length: u64,
    modified: Option<SystemTime>,
}

impl Folder {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            loader: Loader::default(),
            seen: Vec::new(),
        }
    }

    /// Loads now and after every change, for as long as it is polled. A bad folder leaves what is served alone.
    pub(crate) async fn follow(mut self, state: Arc<State>) {
        let (events, mut changes) = mpsc::unbounded_channel();
        // First the watch, then the load: an edit in between is seen.
        let mut watcher = self.watch(&events);
        let mut rescan = tokio::time::interval(RESCAN);
        let mut before = Vec::new();
        rescan.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self = self.load(Arc::clone(&state)).await;
            loop {
                tokio::select! {
                    event = changes.recv() => {
                        // `events` is held here, so the channel never closes.
                        let Some(event) = event else { return };
                        if let Some(edit) = Edit::of(&event) {
                            settle(edit, &mut changes).await;
                            break;
                        }
                    }
                    _ = rescan.tick() => {
                        if watcher.is_none() {
                            watcher = self.watch(&events);
                        }
                        let dir = self.dir.clone();
                        let Ok(looked) = tokio::task::spawn_blocking(move || look(&dir)).await else { continue };
                        if looked != self.seen && looked == before {
                            break;
                        }
                        before = looked;
                    }
                }
            }
        }
    }

    fn watch(&self, events: &mpsc::UnboundedSender<Event>) -> Option<notify::RecommendedWatcher> {
        let events = events.clone();
        let handler = move |event: notify::Result<Event>| {
            if let Ok(event) = event {
                // The receiver outlives the watcher.
                _ = events.send(event);
            }
        };
        let watching = notify::recommended_watcher(handler).and_then(|mut watcher| {
            watcher.watch(&self.dir, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        watching
            .inspect_err(
                |error| warn!(%error, "cannot watch the folder: looking at it every second instead"),
            )
            .ok()
    }

    async fn load(mut self, state: Arc<State>) -> Self {
        // Large folders take a while, and streams must go on meanwhile.
        let loading = tokio::task::spawn_blocking(move || {
            self.load_blocking(&state);
            self
        });
        match loading.await {
            Ok(folder) => folder,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    fn load_blocking(&mut self, state: &State) {
        let (attempted, started) = (SystemTime::now(), Instant::now());
        // Before the files are read: what changes meanwhile differs from this at the next look.
        self.seen = look(&self.dir);
        let resolved = self
            .loader
            .load(&self.dir)
            .and_then(|loaded| resolve(&loaded));
        let last = state.last_load();
        let mut load = Load {
            attempted: Some(attempted),
            ..last.clone()
        };
        load.took_ms = started.elapsed().as_secs_f64() * 1000.0;
        match resolved {
            Ok(Resolved { catalog, warnings }) => {
                for warning in warnings
                    .iter()
                    .filter(|warning| !last.warnings.contains(warning))
                {
                    warn!("{warning}");
                }
                load = Load {
                    succeeded: Some(attempted),
                    problems: Vec::new(),
                    warnings,
                    ..load
                };
                let counts = catalog.counts;
                let changed = state.catalog.send_if_modified(|current| {
                    if current.as_deref() == Some(&catalog) {
                        return false;
                    }
                    *current = Some(Arc::new(catalog));
                    true
                });
                if changed {
                    info!(?counts, took_ms = load.took_ms, "loaded");
                } else if !last.problems.is_empty() {
                    info!("the folder is good again");
                }
            }
            Err(problems) => {
                if problems != last.problems {
                    for problem in &problems {
                        warn!("{problem}");
                    }
                    warn!(
                        problems = problems.len(),
                        "nothing of the folder is used until this is corrected"
                    );
                }
                load.problems = problems;
            }
        }
        state.loaded(load);
    }
}

fn look(dir: &Path) -> Vec<Seen> {
    let files = files_below(dir, &mut Vec::new()).into_iter();
    files
        .map(|file| {
            let metadata = file.metadata().ok();
            let length = metadata.as_ref().map_or(0, std::fs::Metadata::len);
            Seen {
                file,
                length,
                modified: metadata.and_then(|metadata| metadata.modified().ok()),
            }
        })
        .collect()
}

/// What an event means for when to read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Edit {
    /// Closed after writing, or renamed into place.
    Whole(Vec<PathBuf>),
    /// Being written.
    Open(Vec<PathBuf>),
    /// Created, removed, moved away.
    Part,
}

impl Edit {
    /// None: reading a file is no edit, and reading is what we do ourselves.
    fn of(event: &Event) -> Option<Self> {
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => {
                Some(Edit::Whole(event.paths.clone()))
            }
            EventKind::Modify(ModifyKind::Data(_)) => Some(Edit::Open(event.paths.clone())),
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => None,
            _ => Some(Edit::Part),
        }
    }
}

/// Returns when the folder has been quiet for long enough after `first`.
async fn settle(first: Edit, changes: &mut mpsc::UnboundedReceiver<Event>) {
    let begun = Instant::now();
    let mut open = HashSet::new();
    let mut quiet = Duration::ZERO;
    let mut edit = Some(first);
    loop {
        match edit.take() {
            Some(Edit::Whole(paths)) => {
                paths.iter().for_each(|path| _ = open.remove(path));
                quiet = AFTER_WHOLE;
            }
            Some(Edit::Open(paths)) => {
                open.extend(paths);
                quiet = AFTER_PART;
            }
            Some(Edit::Part) => quiet = AFTER_PART,
            None => {}
        }
        let left = OPEN_FILE.saturating_sub(begun.elapsed());
        let wait = if open.is_empty() {
            quiet.min(left)
        } else {
            left
        };
        match tokio::time::timeout(wait, changes.recv()).await {
            Ok(Some(event)) => edit = Edit::of(&event),
            Ok(None) | Err(_) => return,
        }
    }
}

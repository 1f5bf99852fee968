//! Following the folder, and the issuers' keys: from an edit to a new catalog in a few milliseconds, without ever reading a file
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

use crate::admin::ORDERS;
use crate::catalog::{Catalog, Changed};
use crate::problem::Problem;
use crate::resolve::{Resolved, resolve, revocation};
use crate::status::{Load, State};
use crate::yaml::{Loaded, Loader, files_below, load_dir};

/// Quiet needed after a file was closed or renamed into place: that edit is whole, more may follow.
const AFTER_WHOLE: Duration = Duration::from_millis(3);
/// Quiet needed after anything else, e.g. an editor that moves the old file away first.
const AFTER_PART: Duration = Duration::from_millis(20);
/// How long a file may stay open for writing before it is read all the same.
const OPEN_FILE: Duration = Duration::from_secs(1);
/// How often the files' times are looked at, whatever the watcher says. They count once they have stood
/// still from one look to the next.
const RESCAN: Duration = Duration::from_secs(1);
/// How long the first load waits for the keys of issuers, so that a restart does not take away what sidecars have.
const FIRST_KEYS: Duration = Duration::from_secs(5);

/// A folder and what was last read from it.
pub(crate) struct Folder {
    dir: PathBuf,
    loader: Loader,
    /// What is served, to resolve again with other keys: never a file half written.
    loaded: Option<Loaded>,
    /// Orders to revoke that came while the folder had problems.
    ordered: Loaded,
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
            loaded: None,
            ordered: Loaded::default(),
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
        let mut keys = state.keys.subscribe();
        rescan.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self = self.load(Arc::clone(&state)).await;
            loop {
                tokio::select! {
                    changed = keys.changed() => {
                        // The sender is in `state`, which is held here.
                        if changed.is_err() { return }
                        self = self.with_new_keys(Arc::clone(&state)).await;
                    }
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

    /// Reads the folder, and serves it if it is good.
    async fn load(self, state: Arc<State>) -> Self {
        let attempt = Attempt::now();
        let (folder, read) = self
            .on_a_thread(|folder| {
                // Before the files are read: what changes meanwhile differs from this at the next look.
                folder.seen = look(&folder.dir);
                folder.loader.load(&folder.dir)
            })
            .await;
        match read {
            Ok(loaded) => {
                let wait_for_keys = state.catalog().is_none();
                if wait_for_keys {
                    state.keys.want(&loaded);
                    // Without them it is served as well: only their tokens are refused.
                    _ = tokio::time::timeout(FIRST_KEYS, state.keys.tried()).await;
                }
                let (folder, ()) = folder
                    .on_a_thread(
                        move |folder| match resolve(&loaded, &state.keys.key_sets()) {
                            Ok(resolved) => {
                                // Not before: what is served needs its keys, whatever a folder wants that isn't.
                                state.keys.want(&loaded);
                                folder.loaded = Some(loaded);
                                folder.ordered = Loaded::default();
                                attempt.succeeded(resolved, &state);
                            }
                            Err(problems) => {
                                folder.revoke_all_the_same(&state);
                                attempt.failed(problems, &state);
                            }
                        },
                    )
                    .await;
                folder
            }
            Err(problems) => {
                let (folder, ()) = folder
                    .on_a_thread(move |folder| {
                        folder.revoke_all_the_same(&state);
                        attempt.failed(problems, &state);
                    })
                    .await;
                folder
            }
        }
    }

    /// Somebody else's mistake in the folder must not stand in the way of an order to revoke: what was revoked when the
    /// folder was good last stays so, and what was ordered since joins it.
    fn revoke_all_the_same(&mut self, state: &State) {
        let Some(good) = &self.loaded else { return };
        // Read apart from the rest; if there is something wrong with an order as well, what is served stays.
        if let Ok(ordered) = load_dir(&self.dir.join(ORDERS)) {
            self.ordered = ordered;
        }
        let revocations = revocation::list([good, &self.ordered]);
        if let Some(served) = state.catalog() {
            serve(
                Catalog {
                    revocations,
                    ..Catalog::clone(&served)
                },
                state,
            );
        }
    }

    /// Serves what was good last with the keys of now. Whether the folder is good is another matter.
    async fn with_new_keys(self, state: Arc<State>) -> Self {
        let (folder, ()) = self
            .on_a_thread(move |folder| {
                let Some(loaded) = &folder.loaded else { return };
                // What resolved once does so with any keys.
                let Ok(mut resolved) = resolve(loaded, &state.keys.key_sets()) else {
                    return;
                };
                resolved.catalog.revocations = revocation::list([loaded, &folder.ordered]);
                if serve(resolved.catalog, &state) {
                    info!("serving the keys that were fetched");
                    state.moved();
                }
            })
            .await;
        folder
    }

    /// Large folders take a while, and streams must go on meanwhile.
    async fn on_a_thread<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Self) -> T + Send + 'static,
    ) -> (Self, T) {
        let working = tokio::task::spawn_blocking(move || {
            let done = work(&mut self);
            (self, done)
        });
        match working.await {
            Ok(done) => done,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

/// One attempt to serve the folder as it is now.
struct Attempt {
    attempted: SystemTime,
    started: Instant,
}

impl Attempt {
    fn now() -> Self {
        Self {
            attempted: SystemTime::now(),
            started: Instant::now(),
        }
    }

    fn load(&self, last: &Load) -> Load {
        Load {
            attempted: Some(self.attempted),
            took_ms: self.started.elapsed().as_secs_f64() * 1000.0,
            ..last.clone()
        }
    }

    fn succeeded(&self, resolved: Resolved, state: &State) {
        let Resolved { catalog, warnings } = resolved;
        let last = state.last_load();
        for warning in warnings
            .iter()
            .filter(|warning| !last.warnings.contains(warning))
        {
            warn!("{warning}");
        }
        let load = Load {
            succeeded: Some(self.attempted),
            problems: Vec::new(),
            warnings,
            ..self.load(&last)
        };
        let counts = catalog.counts;
        if serve(catalog, state) {
            info!(?counts, took_ms = load.took_ms, "loaded");
        } else if !last.problems.is_empty() {
            info!("the folder is good again");
        }
        state.loaded(load);
    }

    fn failed(&self, problems: Vec<Problem>, state: &State) {
        let last = state.last_load();
        if problems != last.problems {
            for problem in &problems {
                warn!("{problem}");
            }
            warn!(
                problems = problems.len(),
                "nothing of the folder is used until this is corrected"
            );
        }
        state.loaded(Load {
            problems,
            ..self.load(&last)
        });
    }
}

/// From now on; says whether that changes anything.
fn serve(catalog: Catalog, state: &State) -> bool {
    let changed = match state.catalog() {
        Some(served) if *served == catalog => return false,
        Some(served) => Changed::between(&served, &catalog),
        None => Changed::all(&catalog),
    };
    state.publish(Arc::new(catalog), &changed);
    true
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

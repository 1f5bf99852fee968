//! `tracing` on stderr, with a filter that can be changed while the proxy runs (admin `/logging`).

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// The filter in force.
#[derive(Clone)]
pub(crate) struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Arc<Mutex<String>>,
}

/// Installs the diagnostics of this process.
///
/// # Errors
/// A filter that can't be parsed, or diagnostics that are installed already.
pub(crate) fn install(filter: &str) -> Result<LogFilter, String> {
    let (subscriber, filter) = build(filter)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())?;
    Ok(filter)
}

/// The filter does its work as long as the subscriber lives.
pub(crate) fn build(filter: &str) -> Result<(impl Subscriber + Send + Sync, LogFilter), String> {
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_filter(layer);
    let filter = LogFilter {
        handle,
        text: Arc::new(Mutex::new(filter.to_owned())),
    };
    Ok((Registry::default().with(lines), filter))
}

/// `info`, `debug`, `info,kith_certs=trace`, …
///
/// # Errors
/// What `EnvFilter` can't parse; and, stricter, a bare word that is no level: it would be taken as the name of a
/// target, and a mistyped level would silence all others.
pub(crate) fn parse(filter: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // Span filters have commas and words of their own inside brackets.
    if !filter.contains('[') {
        let bare = filter
            .split(',')
            .map(str::trim)
            .find(|part| !part.contains('=') && !LEVELS.contains(part));
        if let Some(word) = bare {
            return Err(format!("{word:?} is not a level"));
        }
    }
    EnvFilter::try_new(filter).map_err(|error| error.to_string())
}

impl LogFilter {
    pub(crate) fn current(&self) -> String {
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// # Errors
    /// The filter can't be parsed; the old one stays in force.
    pub(crate) fn set(&self, filter: &str) -> Result<(), String> {
        let parsed = parse(filter)?;
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle
            .reload(parsed)
            .map_err(|error| error.to_string())?;
        filter.clone_into(&mut text);
        Ok(())
    }
}

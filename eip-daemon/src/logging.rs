//! The log: text or JSON on standard error, with a filter that can be changed while it runs.

use std::{
    io::IsTerminal as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use crate::cli::LogFormat;

/// Why the filter is not changed. Fate: told to whoever asked; the old filter stays.
#[derive(Debug, thiserror::Error)]
pub enum LogLevelError {
    /// Neither a level nor directives.
    #[error("{text:?} is no log filter: write error, warn, info, debug or trace, or directives")]
    Filter {
        /// What was given.
        text: String,
        /// The cause.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Nobody logs any more.
    #[error("change the log filter")]
    Gone {
        /// The cause.
        #[source]
        source: reload::Error,
    },
    /// Something else logs in this process.
    #[error("start the log")]
    Taken {
        /// The cause.
        #[source]
        source: tracing_subscriber::util::TryInitError,
    },
}

/// The filter in use.
#[derive(Debug, Clone)]
pub struct LogLevel {
    handle: reload::Handle<EnvFilter, Registry>,
    /// As it was given; the filter itself may say more.
    text: Arc<Mutex<String>>,
}

impl LogLevel {
    /// The filter, as it was given.
    #[must_use]
    pub fn get(&self) -> String {
        self.text().clone()
    }

    fn text(&self) -> MutexGuard<'_, String> {
        // Nothing can go wrong while it is held: a plain string is moved in or out.
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// The text is no filter.
    pub fn set(&self, text: &str) -> Result<(), LogLevelError> {
        self.handle
            .reload(filter(text)?)
            .map_err(|source| LogLevelError::Gone { source })?;
        text.trim().clone_into(&mut self.text());
        Ok(())
    }
}

/// A plain level is about the agent: libraries that tell every step of loading an object stay at `info`
/// unless directives name them. `kube_client` tells every failed request, which whoever made it tells
/// once and with what follows from it.
const QUIET: &str = "aya=info,aya_obj=info,netlink_proto=info,hyper=info,hyper_util=info,\
                     kube_client=off,kube_runtime=warn,tower=info,rustls=info";

fn filter(text: &str) -> Result<EnvFilter, LogLevelError> {
    let directives = match text.trim() {
        level @ ("debug" | "trace") => format!("{level},{QUIET}"),
        level @ ("error" | "warn" | "info") => format!("{level},kube_client=off"),
        other => other.to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|source| LogLevelError::Filter {
        text: text.to_owned(),
        source,
    })
}

/// A filter and the layer it acts in.
fn reloadable(text: &str) -> Result<(reload::Layer<EnvFilter, Registry>, LogLevel), LogLevelError> {
    let (layer, handle) = reload::Layer::new(filter(text)?);
    let text = Arc::new(Mutex::new(text.trim().to_owned()));
    Ok((layer, LogLevel { handle, text }))
}

/// Starts the log of this process.
///
/// # Errors
/// The text is no filter, or somebody else has started one.
pub fn start(text: &str, format: LogFormat) -> Result<LogLevel, LogLevelError> {
    let (filter, level) = reloadable(text)?;
    let to_stderr = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => to_stderr.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => to_stderr.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    subscriber
        .try_init()
        .map_err(|source| LogLevelError::Taken { source })?;
    Ok(level)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{EnvFilter, LogLevel, Registry, reload, reloadable};

    /// A level that lives as long as its layer and logs nothing.
    pub(crate) fn detached(text: &str) -> (reload::Layer<EnvFilter, Registry>, LogLevel) {
        reloadable(text).unwrap()
    }

    #[test]
    fn the_filter_can_be_read_and_replaced() {
        let (_layer, level) = detached("info");
        assert_eq!(level.get(), "info");
        level.set("warn,eip_daemon=debug").unwrap();
        assert_eq!(level.get(), "warn,eip_daemon=debug");
    }

    #[test]
    fn a_bad_filter_is_refused_and_the_old_one_stays() {
        let (_layer, level) = detached("info");
        let error = level.set("eip=loud").unwrap_err().to_string();
        assert!(error.contains("is no log filter"), "{error}");
        assert_eq!(level.get(), "info");
    }
}

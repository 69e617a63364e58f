//! Lines on standard error.
//!
//! Invariant: below `info` there are only lines of this program's own crates, whatever the level: libraries write there what
//! goes over their connections, and that is tokens and payloads.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tickmesh_cluster::config::{LogConfig, LogFormat};
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::trace;

/// Longest filter, in bytes.
pub const MAX_LEVEL_LEN: usize = 1_024;

/// A filter that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// It is none.
    #[error("expected a filter such as \"info\" or \"info,tickmesh_node=debug\": {0}")]
    Bad(String),
    /// This process did not set up its log here.
    #[error("the log of this process is not changed here")]
    Fixed,
}

/// Changes the filter of the process's log, whatever the types are that it consists of.
type Change = Box<dyn Fn(EnvFilter) -> Result<(), LevelError> + Send + Sync>;
/// Reads it.
type Look = Box<dyn Fn() -> Option<String> + Send + Sync>;

static FILTER: OnceLock<(Change, Look)> = OnceLock::new();

fn parse(level: &str) -> Result<EnvFilter, LevelError> {
    if level.is_empty() || level.len() > MAX_LEVEL_LEN {
        return Err(LevelError::Bad(format!("it has 1 to {MAX_LEVEL_LEN} bytes")));
    }
    EnvFilter::try_new(level).map_err(|error| LevelError::Bad(error.to_string()))
}

/// Whether a filter can be used.
///
/// # Errors
/// When it cannot.
pub fn check(level: &str) -> Result<(), LevelError> {
    parse(level).map(|_| ())
}

/// Changes what is written from now on. Gives the filter as it was understood.
///
/// # Errors
/// When it is none; then everything stays as it is.
pub fn set_level(level: &str) -> Result<String, LevelError> {
    let filter = parse(level)?;
    let (change, look) = FILTER.get().ok_or(LevelError::Fixed)?;
    change(filter)?;
    let level = look().ok_or(LevelError::Fixed)?;
    tracing::info!(level, "the level of the log was changed");
    Ok(level)
}

/// What is written now; `None` where the log was not set up here.
#[must_use]
pub fn level() -> Option<String> {
    FILTER.get().and_then(|(_, look)| look())
}

/// The lines as a layer.
pub(crate) fn layer<S>(config: &LogConfig) -> Result<Box<dyn Layer<S> + Send + Sync>, LevelError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let (filter, handle) = reload::Layer::new(parse(&config.level)?);
    let look = handle.clone();
    // A second call fails in `init`, and leaves the first in its place.
    let _ = FILTER.set((
        Box::new(move |filter| handle.reload(filter).map_err(|_| LevelError::Fixed)),
        Box::new(move || look.with_current(ToString::to_string).ok()),
    ));
    let ours = filter_fn(|meta| {
        meta.target() != trace::TARGET
            && (meta.target().starts_with("tickmesh") || *meta.level() <= Level::INFO)
    });
    let filter = filter.and(ours);
    let lines = fmt::layer().with_writer(std::io::stderr);
    Ok(match config.format {
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_told() {
        for good in ["info", "off", "info,tickmesh_node=debug"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "loud=very", "info,=", &"x".repeat(MAX_LEVEL_LEN + 1)] {
            assert!(matches!(check(bad), Err(LevelError::Bad(_))), "{bad}");
        }
        assert_eq!(set_level("info"), Err(LevelError::Fixed), "nobody set it up");
    }
}

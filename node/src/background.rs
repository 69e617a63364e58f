//! Threads of a node beside its workers, for what may wait: recording, and answers from the time-series store.
//!
//! Invariant: where cores are short, the workers go first, because who pushes live messages must not wait for who records
//! them.

use std::io;

/// How much nicer than the workers, see `nice(1)`: beside a worker that takes all it gets, a tenth of a core is still theirs.
const NICENESS: i32 = 10;

/// Starts a thread.
///
/// # Errors
/// When the system gives none.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(move || {
        // On Linux this is of the calling thread alone.
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            tracing::debug!(%error, "a thread in the background is no nicer than the others");
        }
        work();
    })?;
    Ok(())
}

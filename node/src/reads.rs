//! The thread on which answers are made of what the time-series store has.
//!
//! An answer may be thousands of rows. To fetch them and to write them as text takes a while, which the threads that push
//! live messages do not have: so it happens here, on one thread for the node, one answer after the other wherever nobody is
//! waited for. Invariant: the jobs under way are bounded; one more is refused at once. A job that nobody waits for any more ends.

use std::io;

use tickmesh_protocol::error::{ErrorCode, Failure};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::background;

/// Jobs that are under way or wait for the thread, at most.
const MOST_JOBS: usize = 256;

/// How the rest of the node reaches the thread, which ends with this.
#[derive(Debug)]
pub(crate) struct Reads {
    runtime: Handle,
    room: Semaphore,
    /// Its end is the thread's.
    _life: oneshot::Sender<()>,
}

/// A job that ends when nobody waits for it.
struct Job<T>(JoinHandle<T>);

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reads {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (life, ended) = oneshot::channel::<()>();
        background::spawn("reads", move || {
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self { runtime: handle, room: Semaphore::new(MOST_JOBS), _life: life })
    }

    /// Runs a job there.
    ///
    /// # Errors
    /// Those of the job, and [`ErrorCode::ServiceUnavailable`] where too many are under way.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let Ok(_room) = self.room.try_acquire() else {
            return Err(Failure::unavailable("too many ask the time-series store at once"));
        };
        let mut job = Job(self.runtime.spawn(job));
        (&mut job.0).await.unwrap_or_else(|error| {
            tracing::error!(%error, "an answer could not be made");
            Err(Failure::new(ErrorCode::InternalError, "the answer could not be made"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn jobs_run_elsewhere_and_no_more_than_there_may_be() {
        let reads = Reads::start().unwrap();
        let thread = reads.run(async { Ok(std::thread::current().id()) }).await.unwrap();
        assert_ne!(thread, std::thread::current().id());

        let go = Arc::new(Notify::new());
        let held = || {
            let go = go.clone();
            Box::pin(reads.run(async move {
                go.notified().await;
                Ok(())
            }))
        };
        let mut waiting: Vec<_> = (0..MOST_JOBS).map(|_| held()).collect();
        assert!(waiting.iter_mut().all(|job| job.now_or_never().is_none()));
        let refused = held().await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::ServiceUnavailable);
        // Who goes away makes room.
        waiting.truncate(MOST_JOBS - 1);
        let mut last = held();
        assert!((&mut last).now_or_never().is_none());
        let all = async {
            for job in waiting {
                go.notify_one();
                job.await.unwrap();
            }
        };
        timeout(Duration::from_secs(20), all).await.expect("all end");
    }

    #[tokio::test]
    async fn a_job_that_panics_takes_no_other_with_it() {
        let reads = Reads::start().unwrap();
        let failed = reads.run::<()>(async { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(failed.code, ErrorCode::InternalError);
        assert_eq!(reads.run(async { Ok(7) }).await, Ok(7));
    }
}

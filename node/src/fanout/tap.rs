//! A reader of rooms beside the hubs, which may be slower than they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tickmesh_protocol::batch::Batch;
use tokio::sync::mpsc;

use super::HubIndex;

/// The index under which a [`Tap`] asks for rooms.
pub(crate) const TAP: HubIndex = HubIndex::MAX;

/// A reader that must never hold up the hubs: what it is too slow for is dropped, and it is told so.
#[derive(Debug, Clone)]
pub(crate) struct Tap {
    batches: mpsc::Sender<Arc<Batch>>,
    missed: Arc<AtomicBool>,
}

/// The other end of a tap.
#[derive(Debug)]
pub(crate) struct Tapped {
    pub(crate) batches: mpsc::Receiver<Arc<Batch>>,
    missed: Arc<AtomicBool>,
}

/// A tap that holds so many batches.
pub(crate) fn tap(room: usize) -> (Tap, Tapped) {
    let (sender, batches) = mpsc::channel(room);
    let missed = Arc::<AtomicBool>::default();
    (Tap { batches: sender, missed: missed.clone() }, Tapped { batches, missed })
}

impl Tap {
    pub(super) fn offer(&self, batch: &Arc<Batch>) {
        if self.batches.try_send(batch.clone()).is_err() {
            self.missed.store(true, Ordering::Release);
        }
    }
}

impl Tapped {
    /// Whether something was dropped since this was asked last.
    pub(crate) fn missed(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }
}

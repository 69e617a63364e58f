//! Letters within one process.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Bus, MAIL, Mail, To};
use crate::broker::BrokerError;

/// Everybody's letter box. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryBus {
    boxes: Arc<Mutex<Vec<LetterBox>>>,
}

#[derive(Debug)]
struct LetterBox {
    id: String,
    letters: mpsc::Sender<Vec<u8>>,
}

impl MemoryBus {
    /// A box of one's own.
    #[must_use]
    pub fn join(&self, id: &str) -> Mail {
        let (letters, mail) = mpsc::channel(MAIL);
        let mut boxes = self.boxes.lock();
        boxes.retain(|one| !one.letters.is_closed());
        boxes.push(LetterBox { id: id.to_owned(), letters });
        mail
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn send(&self, to: To<'_>, text: &str) -> Result<(), BrokerError> {
        for LetterBox { id, letters } in &*self.boxes.lock() {
            if !matches!(to, To::Member(member) if member != id) {
                let _ = letters.try_send(text.as_bytes().to_vec());
            }
        }
        Ok(())
    }
}

//! The time-series store: the messages of recorded rooms as ticks, and the bars made of them.

pub mod memory;
#[cfg(any(test, feature = "conformance"))]
pub mod suite;
#[cfg(feature = "tdengine")]
pub mod tdengine;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use tickmesh_market::bars::Bar;
use tickmesh_market::tick::Figures;
use tickmesh_protocol::market::{Period, Symbol, Timeframe};
use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::RoomName;

use crate::StoreError;

/// One message of a recorded room.
#[derive(Debug, Clone)]
pub struct Row {
    /// UTC milliseconds, the tick's own time.
    pub at: u64,
    /// The life of the log in which it has its sequence number.
    pub epoch: Epoch,
    /// Its numbers.
    pub figures: Figures,
    /// The message as it was published.
    pub message: Arc<Message>,
}

/// Rows of one room, in the order of its log.
#[derive(Debug, Clone)]
pub struct RoomRows {
    /// The room.
    pub room: RoomName,
    /// What is traded there.
    pub symbol: Symbol,
    /// Where; empty if nobody said.
    pub exchange: String,
    /// At least one.
    pub rows: Vec<Row>,
}

/// Which rows of a room are wanted.
///
/// Where there are `bytes`, no more rows are read after the one with which all their data together is more than that, so
/// that large rows do not fill the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// Those with these sequence numbers, not before a time in UTC milliseconds; of every life of the log. Rows lie in the
    /// order of time, and a message's own time may be any: so everything from then on is looked through.
    Seqs {
        /// Sequence numbers.
        seqs: Range<u64>,
        /// First millisecond.
        from: u64,
    },
    /// Of those the newest by time, which are looked for from the newest row down, no further than the limit.
    Newest {
        /// Sequence numbers.
        seqs: Range<u64>,
        /// First millisecond.
        from: u64,
        /// Most rows.
        limit: usize,
        /// Bytes of data.
        bytes: usize,
    },
    /// The first so many of a span of time, `start <= at < end`.
    First {
        /// UTC milliseconds.
        span: Range<u64>,
        /// Most rows.
        limit: usize,
        /// Bytes of data.
        bytes: usize,
    },
    /// The last so many of a span of time.
    Last {
        /// UTC milliseconds.
        span: Range<u64>,
        /// Most rows.
        limit: usize,
        /// Bytes of data.
        bytes: usize,
    },
}

impl Select {
    /// See the type; all of them where it has no such bound.
    #[cfg(feature = "tdengine")]
    fn bytes(&self) -> usize {
        match self {
            Self::Seqs { .. } => usize::MAX,
            Self::Newest { bytes, .. } | Self::First { bytes, .. } | Self::Last { bytes, .. } => *bytes,
        }
    }
}

/// How many rows, whose data has so many bytes each, are read for so many bytes.
fn within(mut rows: impl Iterator<Item = usize>, bytes: usize) -> usize {
    let mut sum = 0_usize;
    let fits = |len: usize| {
        let before = sum <= bytes;
        sum = sum.saturating_add(len);
        before
    };
    rows.by_ref().map(fits).take_while(|fits| *fits).count()
}

/// A bar and what it is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptBar {
    /// Of what.
    pub symbol: Symbol,
    /// Where it is traded; empty if nobody said.
    pub exchange: String,
    /// How long it is.
    pub period: Period,
    /// The bar.
    pub bar: Bar,
    /// The last message of the room's log that was looked at when it became so.
    pub through: Position,
}

/// Which bars are wanted; without a span the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BarQuery {
    /// Of what.
    pub symbol: Symbol,
    /// How long they are. [`Timeframe::Minutes`] are put together from one-minute bars by the store.
    pub timeframe: Timeframe,
    /// UTC milliseconds of their beginnings, `start <= bar.start < end`.
    pub span: Range<u64>,
    /// Most bars; 1 or more.
    pub limit: usize,
    /// Where there are more: the newest of the span, or the oldest.
    pub newest: bool,
}

/// The store.
///
/// # Guarantees
///
/// * **Once.** A message that is appended again (the same room, time, sequence number) is there once; so is a bar that is put
///   again (symbol, period, start): the last one put counts.
/// * **Kept.** What was answered with `Ok` is found by every later query, until its retention ends.
/// * **All or some.** A call that failed may have kept a part; doing it again mends that.
/// * **Prefix.** [`position`](Self::position) is never ahead of what is kept: every row up to it was appended.
/// * **In time.** Every call ends within the time that the configuration gives it.
#[async_trait]
pub trait TimeSeries: Send + Sync + 'static {
    /// Appends rows; afterwards each room's position is that of its last row.
    async fn append(&self, rooms: &[RoomRows]) -> Result<(), StoreError>;

    /// Up to where a room's log was appended.
    async fn position(&self, room: &RoomName) -> Result<Option<Position>, StoreError>;

    /// Rows of a room: [`Select::Seqs`] and [`Select::Newest`] in order of sequence number, and within one in order of time;
    /// the others in order of time, and within one in order of sequence number.
    async fn rows(&self, room: &RoomName, select: &Select) -> Result<Vec<Row>, StoreError>;

    /// Keeps bars.
    async fn put_bars(&self, bars: &[KeptBar]) -> Result<(), StoreError>;

    /// Bars in order of time. Those of [`Timeframe::Minutes`] name as their `period` [`Period::Minute`].
    async fn bars(&self, query: &BarQuery) -> Result<Vec<KeptBar>, StoreError>;
}

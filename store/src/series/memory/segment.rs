//! A part of a room's rows, packed into one block of bytes.
//!
//! Invariants: all rows are of one life of the log; entries are in order of sequence number and, within one, of time; what a
//! segment takes is known without looking at its rows. It must not know how many segments there are.

use std::mem::size_of;
use std::sync::Arc;

use serde_json::value::RawValue;
use tickmesh_market::tick::Figures;
use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::{Epoch, Position};

use super::super::Row;
use crate::StoreError;
use tickmesh_cluster::heap::{chunk, shared_text};

/// Bytes of a block. A row that has more gets one of its own.
const BLOCK: usize = 4 * 1024 - 16;
/// Bytes of a block that has few rows.
const SMALL: usize = 240;
/// Bytes of a row's head at most, beside its texts: which figures there are, those, and four numbers.
const HEAD: usize = 1 + 6 * 8 + 4 * 10;

/// Where a row is in its block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) at: u64,
    offset: u32,
    /// Of its data.
    pub(super) data_len: u32,
}

impl Entry {
    fn key(&self) -> (u64, u64) {
        (self.seq, self.at)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Segment {
    epoch: Epoch,
    entries: Vec<Entry>,
    block: Vec<u8>,
    /// The least and the greatest time of all rows that were put here.
    pub(super) ats: (u64, u64),
}

/// A row that was copied out, to be read when nobody waits.
#[derive(Debug)]
pub(super) struct Packed {
    entry: Entry,
    epoch: Epoch,
    bytes: Box<[u8]>,
}

impl Segment {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, entries: Vec::new(), block: Vec::new(), ats: (u64::MAX, 0) }
    }

    /// The one after this one, which is full, as large from the start: what is evicted later is then of the sizes that are
    /// allocated next, so that the heap does not fragment.
    pub(super) fn next(&self, epoch: Epoch) -> Self {
        let entries = Vec::with_capacity(self.entries.len() + self.entries.len() / 8);
        Self { epoch, entries, block: Vec::with_capacity(BLOCK), ats: (u64::MAX, 0) }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What it takes beside itself, in bytes.
    pub(super) fn heap(&self) -> usize {
        chunk(self.block.capacity())
            + chunk(self.entries.capacity() * size_of::<Entry>())
            + shared_text(self.epoch.as_str().len())
    }

    pub(super) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The place of its last row.
    pub(super) fn end(&self) -> Option<Position> {
        self.entries.last().map(|last| Position { epoch: self.epoch.clone(), seq: last.seq })
    }

    /// Whether it may have rows with sequence numbers from the first to the last of these.
    pub(super) fn may_have(&self, first: u64, last: u64) -> bool {
        let ends = self.entries.first().zip(self.entries.last());
        ends.is_some_and(|(low, high)| low.seq <= last && first <= high.seq)
    }

    /// Where the row is.
    pub(super) fn find(&self, seq: u64, at: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&(seq, at), Entry::key).ok()
    }

    /// Takes a row out of the entries; its bytes stay until the segment goes.
    pub(super) fn forget(&mut self, index: usize) {
        self.entries.remove(index);
    }

    /// Puts a row in that is not there, if it fits; a first one does.
    pub(super) fn put(&mut self, row: &Row) -> bool {
        let message = &row.message;
        let (data, key) = (message.data.get(), message.key.as_deref());
        let most = HEAD + message.event.len() + key.map_or(0, str::len) + data.len();
        let Ok(offset) = u32::try_from(self.block.len()) else { return false };
        let Ok(data_len) = u32::try_from(data.len()) else { return false };
        if self.entries.is_empty() && most > BLOCK {
            (self.block, self.entries) = (Vec::with_capacity(most), Vec::with_capacity(1));
        } else if self.block.len() + most > BLOCK {
            return false;
        } else if self.block.len() + most > self.block.capacity() {
            let wanted = (2 * self.block.capacity()).max(SMALL).max(self.block.len() + most).min(BLOCK);
            self.block.reserve_exact(wanted - self.block.len());
        }
        pack(row, &mut self.block);
        let entry = Entry { seq: message.seq, at: row.at, offset, data_len };
        let place = match self.entries.last() {
            Some(last) if last.key() > entry.key() => {
                self.entries.partition_point(|other| other.key() < entry.key())
            }
            _ => self.entries.len(),
        };
        self.entries.insert(place, entry);
        self.ats = (self.ats.0.min(row.at), self.ats.1.max(row.at));
        true
    }

    /// Leaves the newest rows that take no more than so many bytes, at least one. Answers with the greatest sequence number of
    /// those that went.
    pub(super) fn keep_newest(&mut self, most: usize) -> Option<u64> {
        let fixed = shared_text(self.epoch.as_str().len());
        let (mut count, mut bytes) = (0, 0);
        for entry in self.entries.iter().rev() {
            let len = self.packed(entry).len();
            let more = bytes + len;
            let all = chunk(more) + chunk((count + 1) * size_of::<Entry>()) + fixed;
            if count > 0 && all > most {
                break;
            }
            (count, bytes) = (count + 1, more);
        }
        let (mut block, mut entries) = (Vec::with_capacity(bytes), Vec::with_capacity(count));
        let mut ats = (u64::MAX, 0);
        let (older, newer) = self.entries.split_at(self.entries.len() - count);
        let gone = older.last().map(|entry| entry.seq);
        for entry in newer {
            let offset = u32::try_from(block.len()).unwrap_or(u32::MAX);
            block.extend_from_slice(self.packed(entry));
            entries.push(Entry { offset, ..*entry });
            ats = (entry.at.min(ats.0), entry.at.max(ats.1));
        }
        (self.block, self.entries, self.ats) = (block, entries, ats);
        gone
    }

    /// Copies a row.
    pub(super) fn copy(&self, index: usize) -> Packed {
        let entry = self.entries[index];
        Packed { entry, epoch: self.epoch.clone(), bytes: self.packed(&entry).into() }
    }

    /// The bytes of a row.
    fn packed(&self, entry: &Entry) -> &[u8] {
        let start = (entry.offset as usize).min(self.block.len());
        let mut reader = Reader(&self.block[start..]);
        let head = reader.skip_to_data().unwrap_or(0);
        let end = (start + head + entry.data_len as usize).min(self.block.len());
        &self.block[start..end]
    }
}

/// Seven bits a byte, the lowest first.
fn push_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Small for what is near 0, on either side.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

const HAS_KEY: u8 = 1 << 6;

fn figures(figures: &Figures) -> [Option<f64>; 6] {
    let Figures { price, volume, bid_price, bid_volume, ask_price, ask_volume } = *figures;
    [price, volume, bid_price, bid_volume, ask_price, ask_volume]
}

/// Which figures there are, those, times, texts, and last the data.
fn pack(row: &Row, out: &mut Vec<u8>) {
    let message = &row.message;
    let figures = figures(&row.figures);
    let mut has = u8::from(message.key.is_some()) * HAS_KEY;
    for (bit, figure) in figures.iter().enumerate() {
        has |= u8::from(figure.is_some()) << bit;
    }
    out.push(has);
    figures.iter().flatten().for_each(|figure| out.extend_from_slice(&figure.to_le_bytes()));
    push_number(zigzag(message.timestamp.wrapping_sub(row.at) as i64), out);
    for text in [Some(&message.event), message.key.as_ref()].into_iter().flatten() {
        push_number(text.len() as u64, out);
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(message.data.get().as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn text(&mut self) -> Option<Arc<str>> {
        let len = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.take(len)?).ok().map(Into::into)
    }

    /// How many bytes are before the data.
    fn skip_to_data(&mut self) -> Option<usize> {
        let before = self.0.len();
        let has = self.take(1)?[0];
        self.take((has & !HAS_KEY).count_ones() as usize * 8)?;
        self.number()?;
        for _ in 0..1 + u8::from(has & HAS_KEY != 0) {
            let len = usize::try_from(self.number()?).ok()?;
            self.take(len)?;
        }
        Some(before - self.0.len())
    }
}

impl Packed {
    /// The row as it was put.
    pub(super) fn read(self) -> Result<Row, StoreError> {
        self.unpack().ok_or_else(|| StoreError::Damaged("a row that was packed here".into()))
    }

    fn unpack(&self) -> Option<Row> {
        let mut reader = Reader(&self.bytes);
        let has = reader.take(1)?[0];
        let mut figures = [None; 6];
        for (bit, figure) in figures.iter_mut().enumerate() {
            if (has >> bit) & 1 == 1 {
                *figure = Some(f64::from_le_bytes(reader.take(8)?.try_into().ok()?));
            }
        }
        let [price, volume, bid_price, bid_volume, ask_price, ask_volume] = figures;
        let timestamp = self.entry.at.wrapping_add(unzigzag(reader.number()?) as u64);
        let event = reader.text()?;
        let key = if has & HAS_KEY == 0 { None } else { Some(reader.text()?) };
        let data = std::str::from_utf8(reader.0).ok()?;
        let data = RawValue::from_string(data.to_owned()).ok()?;
        let message =
            Message { seq: self.entry.seq, timestamp, accepted_at: 0, event, key, data, trace: None };
        Some(Row {
            at: self.entry.at,
            epoch: self.epoch.clone(),
            figures: Figures { price, volume, bid_price, bid_volume, ask_price, ask_volume },
            message: Arc::new(message),
        })
    }
}

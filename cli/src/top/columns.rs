//! The columns of the table of processes: their values, their order, and which of them have room.
//!
//! It knows no terminal and no HTTP.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use clap::ValueEnum;

use super::model::Process;
use super::text;

/// Columns between two columns.
pub(super) const GAP: usize = 1;
/// A name is cut to so many columns, where there is no room for more.
const LONGEST_ID: usize = 36;
const SHORTEST_ID: usize = 12;

/// A column, in the order in which they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Column {
    Id,
    Kind,
    State,
    Clients,
    Cpu,
    Memory,
    MemoryShare,
    Published,
    Delivered,
    Bytes,
    Conflated,
    P50,
    P95,
    P99,
    Delay,
    Quality,
    Since,
}

/// What one column has for a process.
#[derive(Debug, PartialEq)]
pub(super) enum Field<'a> {
    Text(&'a str),
    Number(Option<f64>),
}

#[derive(Debug, Clone, Copy)]
enum Unit {
    Text,
    Count,
    Bytes,
    Percent,
    Millis,
    Since,
}

struct Spec {
    /// Over the column.
    title: &'static str,
    /// In plain lines, with the unit.
    name: &'static str,
    /// The key that sorts by it.
    key: char,
    /// What is lower goes first where there is no room.
    priority: u8,
    unit: Unit,
    help: &'static str,
}

impl Column {
    pub(super) const ALL: &'static [Self] = &[
        Self::Id,
        Self::Kind,
        Self::State,
        Self::Clients,
        Self::Cpu,
        Self::Memory,
        Self::MemoryShare,
        Self::Published,
        Self::Delivered,
        Self::Bytes,
        Self::Conflated,
        Self::P50,
        Self::P95,
        Self::P99,
        Self::Delay,
        Self::Quality,
        Self::Since,
    ];

    fn spec(self) -> Spec {
        let (title, name, key, priority, unit, help) = match self {
            Self::Id => ("id", "id", 'i', 100, Unit::Text, "name in the cluster"),
            Self::Kind => ("kind", "kind", 'k', 60, Unit::Text, "node or gateway"),
            Self::State => ("state", "state", 's', 99, Unit::Text, "up, draining, unready or silent"),
            Self::Clients => {
                ("clients", "clients", 'c', 90, Unit::Count, "a gateway's clients, a node's connections")
            }
            Self::Cpu => ("cpu%", "cpu_percent", 'u', 89, Unit::Percent, "of one core"),
            Self::Memory => ("mem", "memory_bytes", 'm', 70, Unit::Bytes, "resident memory"),
            Self::MemoryShare => ("mem%", "memory_percent", 'M', 58, Unit::Percent, "of the limit of memory"),
            Self::Published => {
                ("pub/s", "published_per_s", 'p', 50, Unit::Count, "messages published a second")
            }
            Self::Delivered => {
                ("dlv/s", "delivered_per_s", 'd', 80, Unit::Count, "messages delivered a second")
            }
            Self::Bytes => ("B/s", "sent_bytes_per_s", 'b', 45, Unit::Bytes, "bytes sent a second"),
            Self::Conflated => {
                ("cfl/s", "conflated_per_s", 'f', 30, Unit::Count, "messages conflated a second")
            }
            Self::P50 => ("p50", "p50_ms", '1', 25, Unit::Millis, "publish to write, median"),
            Self::P95 => ("p95", "p95_ms", '2', 40, Unit::Millis, "publish to write, 95 %"),
            Self::P99 => ("p99", "p99_ms", '3', 88, Unit::Millis, "publish to write, 99 %"),
            Self::Delay => ("delay", "queue_delay_ms", 'w', 65, Unit::Millis, "longest wait of ready work"),
            Self::Quality => ("qual", "quality", 'y', 55, Unit::Percent, "of clients' connections, 0 to 100"),
            Self::Since => ("since", "started_at", 't', 35, Unit::Since, "how long it has run"),
        };
        Spec { title, name, key, priority, unit, help }
    }

    pub(super) fn title(self) -> &'static str {
        self.spec().title
    }

    pub(super) fn name(self) -> &'static str {
        self.spec().name
    }

    pub(super) fn key(self) -> char {
        self.spec().key
    }

    pub(super) fn help(self) -> &'static str {
        self.spec().help
    }

    /// Text stands at the left of its column, numbers at the right.
    pub(super) fn is_text(self) -> bool {
        matches!(self.spec().unit, Unit::Text)
    }

    /// The column that a key sorts by.
    pub(super) fn by_key(key: char) -> Option<Self> {
        Self::ALL.iter().copied().find(|column| column.key() == key)
    }

    pub(super) fn field(self, process: &Process) -> Field<'_> {
        Field::Number(match self {
            Self::Id => return Field::Text(&process.id),
            Self::Kind => return Field::Text(process.kind.name()),
            Self::State => return Field::Text(process.state.name()),
            Self::Clients => process.clients,
            Self::Cpu => process.cpu_percent,
            Self::Memory => process.memory_bytes,
            Self::MemoryShare => process.memory_percent(),
            Self::Published => process.published_per_s,
            Self::Delivered => process.delivered_per_s,
            Self::Bytes => process.bytes_per_s,
            Self::Conflated => process.conflated_per_s,
            Self::P50 => process.p50_ms,
            Self::P95 => process.p95_ms,
            Self::P99 => process.p99_ms,
            Self::Delay => process.queue_delay_ms,
            Self::Quality => process.quality,
            Self::Since => process.started_at,
        })
    }

    /// As it is shown at a time, in UTC milliseconds.
    pub(super) fn shown(self, process: &Process, now: u64) -> String {
        let value = match self.field(process) {
            Field::Text(text) => return text.to_owned(),
            Field::Number(None) => return "-".into(),
            Field::Number(Some(value)) => value,
        };
        match self.spec().unit {
            Unit::Text => String::new(),
            Unit::Count => text::count(value),
            Unit::Bytes => text::bytes(value),
            Unit::Percent => text::percent(value),
            Unit::Millis => text::millis(value),
            Unit::Since => text::age(now.saturating_sub(value as u64)),
        }
    }
}

/// By what processes are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sorting {
    pub(super) column: Column,
    /// Against the order that is natural for the column.
    pub(super) reversed: bool,
}

impl Sorting {
    pub(super) fn by(column: Column) -> Self {
        Self { column, reversed: false }
    }

    /// From the greatest to the least, as it is natural for all that is measured and for the worst state.
    pub(super) fn falling(self) -> bool {
        let natural = !matches!(self.column, Column::Id | Column::Kind);
        natural != self.reversed
    }

    /// Sorts; what is not known comes last in either direction, and equals stay in the order of kinds and names.
    pub(super) fn sort(self, processes: &mut [Process]) {
        processes.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        processes.sort_by(|a, b| self.compare(a, b));
    }

    fn compare(self, a: &Process, b: &Process) -> Ordering {
        let order = match self.column {
            Column::Id => a.id.cmp(&b.id),
            Column::Kind => a.kind.cmp(&b.kind),
            Column::State => a.state.cmp(&b.state),
            column => {
                let number = |process| match column.field(process) {
                    Field::Number(number) => number,
                    Field::Text(_) => None,
                };
                match (number(a), number(b)) {
                    (Some(a), Some(b)) => a.total_cmp(&b),
                    (a, b) => return b.is_some().cmp(&a.is_some()),
                }
            }
        };
        if self.falling() { order.reverse() } else { order }
    }
}

/// A column that is shown, and how wide it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) column: Column,
    pub(super) width: usize,
}

/// The columns that have room beside each other. The least important are left out first; the name and what is sorted by
/// are always there. A long name gives way before a column does.
pub(super) fn place(processes: &[Process], sorting: Sorting, now: u64, width: usize) -> Vec<Placed> {
    let wide = |column: Column| {
        let mark = usize::from(column == sorting.column);
        let cells = processes.iter().map(|process| text::width(&column.shown(process, now)));
        cells.max().unwrap_or(0).max(text::width(column.title()) + mark)
    };
    let mut placed: Vec<_> =
        Column::ALL.iter().map(|&column| Placed { column, width: wide(column) }).collect();
    let id = placed[0].width.min(LONGEST_ID);
    placed[0].width = id.min(SHORTEST_ID);
    let taken = |placed: &[Placed]| placed.iter().map(|one| one.width + GAP).sum::<usize>() - GAP;
    while taken(&placed) > width && placed.len() > 1 {
        let keep = |one: &Placed| match one.column {
            Column::Id => u8::MAX,
            column if column == sorting.column => u8::MAX - 1,
            column => column.spec().priority,
        };
        let least = (1..placed.len()).min_by_key(|&n| keep(&placed[n])).unwrap_or(1);
        placed.remove(least);
    }
    let spare = width.saturating_sub(taken(&placed));
    placed[0].width = (placed[0].width + spare).min(id).min(width);
    placed
}

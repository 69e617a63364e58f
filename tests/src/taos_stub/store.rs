//! The stub's tables.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::sql::{Create, Item, Select};

/// Bound rows that are remembered as they were sent.
const SENT: usize = 100_000;
const DAY: i64 = 24 * 3_600_000;
/// The year 2970.
const LAST: i64 = 31_556_995_200_000;

/// A code of TDengine and a text.
#[derive(Debug)]
pub(super) struct Failed(pub(super) i32, pub(super) String);

/// A type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    BigInt,
    Float,
    Double,
    VarChar,
    Timestamp,
}

const KINDS: [(Kind, u8, usize); 6] = [
    (Kind::Bool, 1, 1),
    (Kind::BigInt, 5, 8),
    (Kind::Float, 6, 4),
    (Kind::Double, 7, 8),
    (Kind::VarChar, 8, 0),
    (Kind::Timestamp, 9, 8),
];

impl Kind {
    pub(super) fn of_number(number: u8) -> Option<Self> {
        KINDS.iter().find(|(_, of, _)| *of == number).map(|(kind, _, _)| *kind)
    }

    pub(super) fn number(self) -> u8 {
        KINDS.iter().find(|(kind, _, _)| *kind == self).map_or(0, |(_, number, _)| *number)
    }

    /// Bytes of a value; 0 where they differ.
    pub(super) fn width(self) -> usize {
        KINDS.iter().find(|(kind, _, _)| *kind == self).map_or(0, |(_, _, width)| *width)
    }
}

/// A value, of the type with which it was sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// None.
    Null,
    /// BOOL
    Bool(bool),
    /// BIGINT
    BigInt(i64),
    /// FLOAT, which nothing of ours may be.
    Float(f32),
    /// DOUBLE
    Double(f64),
    /// VARCHAR
    VarChar(String),
    /// TIMESTAMP, milliseconds.
    Timestamp(i64),
}

impl Cell {
    fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(_) => Kind::Bool,
            Self::BigInt(_) => Kind::BigInt,
            Self::Float(_) => Kind::Float,
            Self::Double(_) => Kind::Double,
            Self::VarChar(_) => Kind::VarChar,
            Self::Timestamp(_) => Kind::Timestamp,
        })
    }

    fn integer(&self) -> i64 {
        if let Self::BigInt(value) | Self::Timestamp(value) = self { *value } else { 0 }
    }

    fn double(&self) -> f64 {
        if let Self::Double(value) = self { *value } else { 0.0 }
    }
}

/// A bound row, as it was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// Super table.
    pub stable: String,
    /// Table.
    pub table: String,
    /// Its tags.
    pub tags: Vec<Value>,
    /// Its columns.
    pub cells: Vec<Cell>,
}

#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) len: u32,
}

/// Rows for one table.
pub(super) struct Table {
    pub(super) stable: String,
    pub(super) name: String,
    pub(super) tags: Vec<Value>,
    pub(super) rows: Vec<Vec<Cell>>,
}

struct Stable {
    columns: Vec<Column>,
    composite: bool,
    tags: Vec<Column>,
}

struct Kept {
    stable: String,
    tags: Vec<Value>,
    /// By time and, where there is one, the second key.
    rows: BTreeMap<(i64, i64), Vec<Cell>>,
}

#[derive(Default)]
struct Database {
    keep_days: u64,
    stables: HashMap<String, Stable>,
    tables: HashMap<String, Kept>,
}

pub(super) struct Store {
    databases: HashMap<String, Database>,
    sent: VecDeque<Bound>,
    pub(super) knows_table_keep: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self { databases: HashMap::new(), sent: VecDeque::new(), knows_table_keep: true }
    }
}

/// A name as TDengine takes it: of any case.
pub(super) fn table_name(name: &str) -> Result<String, Failed> {
    let valid = (1..=192).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit());
    if valid { Ok(name.to_lowercase()) } else { Err(Failed(0x2617, format!("Invalid table name: {name}"))) }
}

fn no_table() -> Failed {
    Failed(0x2603, "Table does not exist".into())
}

impl Store {
    pub(super) fn has_database(&self, name: &str) -> bool {
        self.databases.contains_key(name)
    }

    pub(super) fn create(&mut self, create: Create) -> Result<(), Failed> {
        match create {
            Create::Database { name, keep_days } => {
                self.databases.entry(name).or_insert_with(|| Database { keep_days, ..Database::default() });
            }
            Create::Stable { keep: true, .. } if !self.knows_table_keep => {
                return Err(Failed(0x2600, "syntax error near \"KEEP\"".into()));
            }
            Create::Stable { database, name, columns, composite, tags, .. } => {
                let database =
                    self.databases.get_mut(&database).ok_or_else(|| Failed(0x0388, "no db".into()))?;
                database.stables.entry(name).or_insert(Stable { columns, composite, tags });
            }
        }
        Ok(())
    }

    pub(super) fn sent(&self, table: &str) -> Vec<Bound> {
        self.sent.iter().filter(|bound| bound.table == table || bound.stable == table).cloned().collect()
    }

    pub(super) fn kept(&self, stable: &str) -> usize {
        let tables = self.databases.values().flat_map(|database| database.tables.values());
        tables.filter(|table| table.stable == stable).map(|table| table.rows.len()).sum()
    }

    /// All rows, or an error of the first that cannot be taken.
    pub(super) fn insert(&mut self, database: &str, tables: Vec<Table>) -> Result<usize, Failed> {
        let database = self.databases.get_mut(database).ok_or_else(|| Failed(0x0388, "no db".into()))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
        let oldest = now - database.keep_days as i64 * DAY;
        let mut count = 0;
        for table in tables {
            let stable = database.stables.get(&table.stable).ok_or_else(no_table)?;
            if table.tags.len() != stable.tags.len() {
                return Err(Failed(0x2605, "tags number not matched".into()));
            }
            for (tag, column) in table.tags.iter().zip(&stable.tags) {
                if tag.as_str().is_none_or(|tag| tag.len() > column.len as usize) {
                    return Err(Failed(0x2653, format!("Value is too long for column/tag: {}", column.name)));
                }
            }
            let kept = database.tables.entry(table.name.clone()).or_insert_with(|| Kept {
                stable: table.stable.clone(),
                tags: table.tags.clone(),
                rows: BTreeMap::new(),
            });
            if kept.stable != table.stable {
                return Err(Failed(0x2617, "the table is another's".into()));
            }
            for cells in table.rows {
                check(&cells, &stable.columns)?;
                let at = cells[0].integer();
                if !(oldest..=LAST).contains(&at) {
                    return Err(Failed(0x060B, "Timestamp data out of range".into()));
                }
                let key = (at, if stable.composite { cells[1].integer() } else { 0 });
                if self.sent.len() == SENT {
                    self.sent.pop_front();
                }
                self.sent.push_back(Bound {
                    stable: table.stable.clone(),
                    table: table.name.clone(),
                    tags: table.tags.clone(),
                    cells: cells.clone(),
                });
                kept.rows.insert(key, cells);
                count += 1;
            }
        }
        Ok(count)
    }

    pub(super) fn select(
        &self,
        database: &str,
        select: &Select,
    ) -> Result<(Vec<Column>, Vec<Vec<Cell>>), Failed> {
        let database = self.databases.get(database).ok_or_else(no_table)?;
        let table = database.tables.get(&select.table).ok_or_else(no_table)?;
        let stable = database.stables.get(&table.stable).ok_or_else(no_table)?;
        // The tags stand behind the columns.
        let all: Vec<&Column> = stable.columns.iter().chain(&stable.tags).collect();
        let place = |name: &str| {
            let name = if name == "_wstart" { "ts" } else { name };
            let place = all.iter().position(|column| column.name == name);
            place.ok_or_else(|| Failed(0x2602, format!("Invalid column name: {name}")))
        };
        let tags: Vec<Cell> = table
            .tags
            .iter()
            .map(|tag| tag.as_str().map_or(Cell::Null, |text| Cell::VarChar(text.to_owned())))
            .collect();
        let mut conditions = Vec::new();
        for (column, least, number) in &select.conditions {
            conditions.push((place(column)?, *least, *number));
        }
        let wanted = |row: &&Vec<Cell>| {
            conditions.iter().all(|(place, least, number)| (row[*place].integer() >= *number) == *least)
        };
        let rows = table.rows.values().filter(wanted);
        let mut rows: Vec<Vec<Cell>> = rows.map(|row| row.iter().chain(&tags).cloned().collect()).collect();
        let places: Vec<usize> =
            select.items.iter().map(|item| place(&item.column)).collect::<Result<_, _>>()?;
        if let Some(interval) = select.interval {
            let window = |row: &Vec<Cell>| row[0].integer().div_euclid(interval);
            let groups = rows.chunk_by(|a, b| window(a) == window(b));
            let start = |group: &[Vec<Cell>]| window(&group[0]) * interval;
            let found = groups.map(|group| aggregate(&select.items, &places, group, Some(start(group))));
            rows = found.collect::<Result<_, _>>()?;
        } else if select.items.iter().any(|item| !item.function.is_empty()) {
            rows = match rows.as_slice() {
                [] => Vec::new(),
                group => vec![aggregate(&select.items, &places, group, None)?],
            };
        }
        let mut order = Vec::new();
        for (column, descending) in &select.order {
            // A window's rows are the items, the first of them its beginning.
            order.push((if select.interval.is_some() { 0 } else { place(column)? }, *descending));
        }
        rows.sort_by(|a, b| {
            let by = |(place, descending): &(usize, bool)| {
                let ordering = a[*place].integer().cmp(&b[*place].integer());
                if *descending { ordering.reverse() } else { ordering }
            };
            order.iter().map(by).find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
        });
        rows.truncate(select.limit);
        let plain = select.items.iter().all(|item| item.function.is_empty()) && select.interval.is_none();
        if plain {
            let project = |row: Vec<Cell>| places.iter().map(|place| row[*place].clone()).collect();
            rows = rows.into_iter().map(project).collect();
        }
        Ok((places.iter().map(|place| all[*place].clone()).collect(), rows))
    }
}

fn check(cells: &[Cell], columns: &[Column]) -> Result<(), Failed> {
    if cells.len() != columns.len() {
        return Err(Failed(0x2605, "columns number not matched".into()));
    }
    for (cell, column) in cells.iter().zip(columns) {
        if cell.kind().is_some_and(|kind| kind != column.kind) {
            return Err(Failed(0x2607, format!("Invalid type of column: {}", column.name)));
        }
        if matches!(cell, Cell::VarChar(text) if text.len() > column.len as usize) {
            return Err(Failed(0x2653, format!("Value is too long for column/tag: {}", column.name)));
        }
    }
    if cells[0] == Cell::Null {
        return Err(Failed(0x2607, "the primary key is null".into()));
    }
    Ok(())
}

fn aggregate(
    items: &[Item],
    places: &[usize],
    group: &[Vec<Cell>],
    start: Option<i64>,
) -> Result<Vec<Cell>, Failed> {
    let one = |(item, place): (&Item, &usize)| {
        let cells = || group.iter().map(|row| &row[*place]);
        let doubles = || cells().map(Cell::double);
        let (first, last) = (&group[0][*place], &group[group.len() - 1][*place]);
        Ok(match (item.function.as_str(), start) {
            ("", Some(start)) if item.column == "_wstart" => Cell::Timestamp(start),
            ("FIRST", _) => first.clone(),
            ("LAST" | "LAST_ROW", _) => last.clone(),
            ("MAX", _) => Cell::Double(doubles().fold(f64::MIN, f64::max)),
            ("MIN", _) => Cell::Double(doubles().fold(f64::MAX, f64::min)),
            ("SUM", _) if matches!(first, Cell::BigInt(_)) => Cell::BigInt(cells().map(Cell::integer).sum()),
            ("SUM", _) => Cell::Double(doubles().sum()),
            _ => return Err(Failed(0x2608, format!("Not a single-group group function: {}", item.column))),
        })
    };
    items.iter().zip(places).map(one).collect()
}

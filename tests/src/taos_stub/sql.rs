//! The shapes of SQL that the stub understands: those that `tickmesh-store` writes, to the letter.

use super::store::{Column, Kind};

/// `CREATE DATABASE`, `CREATE STABLE`.
pub(super) enum Create {
    Database {
        name: String,
        keep_days: u64,
    },
    Stable {
        database: String,
        name: String,
        columns: Vec<Column>,
        composite: bool,
        tags: Vec<Column>,
        keep: bool,
    },
}

/// An item of a select.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// `FIRST`, `MAX` and so on; empty for the column itself.
    pub(super) function: String,
    pub(super) column: String,
}

/// A query of one table.
#[derive(Debug)]
pub(super) struct Select {
    pub(super) items: Vec<Item>,
    pub(super) table: String,
    /// Column, `>=` or else `<`, number.
    pub(super) conditions: Vec<(String, bool, i64)>,
    /// Milliseconds.
    pub(super) interval: Option<i64>,
    /// Columns; the last first.
    pub(super) order: Vec<(String, bool)>,
    pub(super) limit: usize,
}

fn column(text: &str) -> Option<(Column, bool)> {
    let mut words = text.split_whitespace();
    let name = words.next()?.trim_matches('`').to_owned();
    let kind = words.next()?;
    let (kind, len) = match kind.strip_prefix("VARCHAR(") {
        Some(length) => (Kind::VarChar, length.strip_suffix(')')?.parse().ok()?),
        None => match kind {
            "TIMESTAMP" => (Kind::Timestamp, 8),
            "BIGINT" => (Kind::BigInt, 8),
            "DOUBLE" => (Kind::Double, 8),
            "BOOL" => (Kind::Bool, 1),
            _ => return None,
        },
    };
    let key = match words.collect::<Vec<_>>().as_slice() {
        [] => false,
        ["PRIMARY", "KEY"] => true,
        _ => return None,
    };
    Some((Column { name, kind, len }, key))
}

pub(super) fn create(sql: &str) -> Option<Create> {
    if let Some(rest) = sql.strip_prefix("CREATE DATABASE IF NOT EXISTS ") {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let [name, "PRECISION", "'ms'", "KEEP", keep, "DURATION", _] = words.as_slice() else { return None };
        let keep_days = keep.strip_suffix('d')?.parse().ok()?;
        return Some(Create::Database { name: (*name).to_owned(), keep_days });
    }
    let rest = sql.strip_prefix("CREATE STABLE IF NOT EXISTS ")?;
    let (name, rest) = rest.split_once(" (")?;
    let (database, name) = name.split_once('.')?;
    let (columns, rest) = rest.split_once(") TAGS (")?;
    let end = rest.rfind(')')?;
    let (tags, option) = (&rest[..end], rest[end + 1..].trim());
    let keep = match option {
        "" => false,
        option => option.strip_prefix("KEEP ")?.strip_suffix('d')?.parse::<u64>().is_ok(),
    };
    let columns: Vec<(Column, bool)> = columns.split(", ").map(column).collect::<Option<_>>()?;
    Some(Create::Stable {
        database: database.to_owned(),
        name: name.to_owned(),
        composite: columns.get(1)?.1,
        columns: columns.into_iter().map(|(column, _)| column).collect(),
        tags: tags.split(", ").map(|text| column(text).map(|(column, _)| column)).collect::<Option<_>>()?,
        keep,
    })
}

/// The super table of `INSERT INTO ? USING stable TAGS(?,..) VALUES(?,..)`.
pub(super) fn insert(sql: &str) -> Option<String> {
    let rest = sql.strip_prefix("INSERT INTO ? USING ")?;
    let (stable, rest) = rest.split_once(" TAGS(")?;
    let (tags, values) = rest.split_once(") VALUES(")?;
    let marks = |text: &str| text.split(',').all(|mark| mark == "?");
    (marks(tags) && marks(values.strip_suffix(')')?)).then(|| stable.to_owned())
}

pub(super) fn select(sql: &str) -> Option<Select> {
    let rest = sql.strip_prefix("SELECT ")?;
    let (items, rest) = rest.split_once(" FROM ")?;
    let item = |text: &str| {
        let (function, column) = match text.split_once('(') {
            Some((function, column)) => (function, column.strip_suffix(')')?),
            None => ("", text),
        };
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (plain(function) && plain(column)).then(|| Item { function: function.into(), column: column.into() })
    };
    let items = items.split(", ").map(item).collect::<Option<_>>()?;
    let (rest, limit) = match rest.split_once(" LIMIT ") {
        Some((rest, limit)) => (rest, limit.parse().ok()?),
        None => (rest, usize::MAX),
    };
    let (rest, order) = match rest.split_once(" ORDER BY ") {
        Some((rest, order)) => (rest, order),
        None => (rest, ""),
    };
    let by = |text: &str| match text.split_once(' ')? {
        (column, "ASC") => Some((column.to_owned(), false)),
        (column, "DESC") => Some((column.to_owned(), true)),
        _ => None,
    };
    let order = order.split(", ").filter(|text| !text.is_empty()).map(by).collect::<Option<_>>()?;
    let (rest, interval) = match rest.split_once(" INTERVAL(") {
        Some((rest, interval)) => (rest, Some(interval.strip_suffix("m)")?.parse::<i64>().ok()? * 60_000)),
        None => (rest, None),
    };
    let (table, conditions) = match rest.split_once(" WHERE ") {
        Some((table, conditions)) => (table, conditions),
        None => (rest, ""),
    };
    let condition = |text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        let [column, operator @ (">=" | "<"), number] = words.as_slice() else { return None };
        Some(((*column).to_owned(), *operator == ">=", number.parse().ok()?))
    };
    let conditions =
        conditions.split(" AND ").filter(|text| !text.is_empty()).map(condition).collect::<Option<_>>()?;
    Some(Select { items, table: super::store::table_name(table).ok()?, conditions, interval, order, limit })
}

//! Frames of the stub's protocol: JSON and, for queries, bound rows and results, binary, all little-endian.

use serde_json::{Value, json};

use super::store::{Cell, Column, Kind};

/// What a client says. Ids are those of requests (`req_id`) and of results or statements (`id`).
pub(super) enum Frame {
    Version,
    Connect { req_id: u64, database: Option<String>, password: String },
    Query { req_id: u64, sql: String },
    Fetch { req_id: u64, id: u64 },
    Free,
    Init { req_id: u64 },
    Prepare { req_id: u64, id: u64, sql: String },
    TableName { req_id: u64, id: u64, name: String },
    Tags { req_id: u64, id: u64, tags: Vec<Value> },
    Bind { req_id: u64, id: u64, rows: Vec<Vec<Cell>> },
    AddBatch { req_id: u64, id: u64 },
    Exec { req_id: u64, id: u64 },
}

/// What the server says.
pub(super) enum Answer {
    Json(Value),
    Block(Vec<u8>),
}

impl Frame {
    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Connect { .. } => "conn",
            Self::Query { .. } => "binary_query",
            Self::Fetch { .. } => "fetch",
            Self::Free => "free_result",
            Self::Init { .. } => "init",
            Self::Prepare { .. } => "prepare",
            Self::TableName { .. } => "set_table_name",
            Self::Tags { .. } => "set_tags",
            Self::Bind { .. } => "bind",
            Self::AddBatch { .. } => "add_batch",
            Self::Exec { .. } => "exec",
        }
    }

    pub(super) fn req_id(&self) -> u64 {
        match self {
            Self::Version | Self::Free => 0,
            Self::Connect { req_id, .. }
            | Self::Query { req_id, .. }
            | Self::Fetch { req_id, .. }
            | Self::Init { req_id }
            | Self::Prepare { req_id, .. }
            | Self::TableName { req_id, .. }
            | Self::Tags { req_id, .. }
            | Self::Bind { req_id, .. }
            | Self::AddBatch { req_id, .. }
            | Self::Exec { req_id, .. } => *req_id,
        }
    }

    /// Of a statement.
    pub(super) fn id(&self) -> Option<u64> {
        match self {
            Self::Prepare { id, .. }
            | Self::TableName { id, .. }
            | Self::Tags { id, .. }
            | Self::Bind { id, .. }
            | Self::AddBatch { id, .. }
            | Self::Exec { id, .. } => Some(*id),
            _ => None,
        }
    }
}

/// Reads a JSON frame.
pub(super) fn text(text: &str) -> Option<Frame> {
    let value: Value = serde_json::from_str(text).ok()?;
    let args = &value["args"];
    let (req_id, id) =
        (args["req_id"].as_u64().unwrap_or_default(), args["stmt_id"].as_u64().unwrap_or_default());
    let string = |name: &str| args[name].as_str().map(ToOwned::to_owned);
    Some(match value["action"].as_str()? {
        "version" => Frame::Version,
        "conn" => Frame::Connect {
            req_id,
            database: string("db").filter(|name| !name.is_empty()),
            password: string("password").unwrap_or_default(),
        },
        "free_result" => Frame::Free,
        "init" => Frame::Init { req_id },
        "prepare" => Frame::Prepare { req_id, id, sql: string("sql")? },
        "set_table_name" => Frame::TableName { req_id, id, name: string("name")? },
        "set_tags" => Frame::Tags { req_id, id, tags: args["tags"].as_array()?.clone() },
        "add_batch" => Frame::AddBatch { req_id, id },
        "exec" => Frame::Exec { req_id, id },
        _ => return None,
    })
}

/// The JSON of an answer.
pub(super) fn reply(action: &str, req_id: u64, stmt_id: Option<u64>, mut fields: Value) -> String {
    fields["action"] = json!(action);
    fields["req_id"] = json!(req_id);
    fields["timing"] = json!(1);
    if let Some(stmt_id) = stmt_id {
        fields["stmt_id"] = json!(stmt_id);
    }
    fields.to_string()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
}

/// Reads a binary frame.
pub(super) fn binary(bytes: &[u8]) -> Option<Frame> {
    let mut reader = Reader(bytes);
    let (req_id, id, action) = (reader.u64()?, reader.u64()?, reader.u64()?);
    Some(match action {
        2 => Frame::Bind { req_id, id, rows: rows(reader)? },
        6 => {
            reader.take(2)?;
            let length = reader.u32()? as usize;
            Frame::Query { req_id, sql: String::from_utf8(reader.take(length)?.to_vec()).ok()? }
        }
        7 => Frame::Fetch { req_id, id },
        _ => return None,
    })
}

/// Reads a raw block.
fn rows(mut reader: Reader<'_>) -> Option<Vec<Vec<Cell>>> {
    let (_version, _length, count, columns) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let (count, columns) = (count as usize, columns as usize);
    reader.take(12)?;
    let mut kinds = Vec::new();
    for _ in 0..columns {
        kinds.push(Kind::of_number(reader.take(1)?[0])?);
        reader.u32()?;
    }
    let lengths: Vec<usize> =
        (0..columns).map(|_| reader.u32().map(|length| length as usize)).collect::<Option<_>>()?;
    let mut rows: Vec<Vec<Cell>> = vec![Vec::with_capacity(columns); count];
    for (kind, length) in kinds.into_iter().zip(lengths) {
        if kind == Kind::VarChar {
            let offsets: Vec<i32> =
                (0..count).map(|_| reader.u32().map(u32::cast_signed)).collect::<Option<_>>()?;
            let data = reader.take(length)?;
            for (row, offset) in rows.iter_mut().zip(offsets) {
                row.push(match usize::try_from(offset) {
                    Err(_) => Cell::Null,
                    Ok(offset) => {
                        let mut reader = Reader(data.get(offset..)?);
                        let length = u16::from_le_bytes(reader.take(2)?.try_into().ok()?) as usize;
                        Cell::VarChar(String::from_utf8(reader.take(length)?.to_vec()).ok()?)
                    }
                });
            }
            continue;
        }
        let nulls = reader.take(count.div_ceil(8))?;
        for (place, row) in rows.iter_mut().enumerate() {
            let bytes = reader.take(kind.width())?;
            let null = nulls[place / 8] >> (7 - place % 8) & 1 == 1;
            let number = || Some(i64::from_le_bytes(bytes.try_into().ok()?));
            row.push(match kind {
                _ if null => Cell::Null,
                Kind::Bool => Cell::Bool(bytes[0] != 0),
                Kind::BigInt => Cell::BigInt(number()?),
                Kind::Timestamp => Cell::Timestamp(number()?),
                Kind::Double => Cell::Double(f64::from_bits(number()?.cast_unsigned())),
                Kind::Float => Cell::Float(f32::from_le_bytes(bytes.try_into().ok()?)),
                Kind::VarChar => return None,
            });
        }
    }
    reader.0.is_empty().then_some(rows)
}

/// The answer to a fetch: a block, or the end.
pub(super) fn block_answer(req_id: u64, id: u64, columns: &[Column], rows: &[Vec<Cell>]) -> Vec<u8> {
    let mut answer = Vec::new();
    answer.extend(u64::MAX.to_le_bytes());
    answer.extend(7u64.to_le_bytes());
    answer.extend(1u16.to_le_bytes());
    answer.extend(1u64.to_le_bytes());
    answer.extend(req_id.to_le_bytes());
    answer.extend(0u32.to_le_bytes());
    answer.extend(0u32.to_le_bytes());
    answer.extend(id.to_le_bytes());
    answer.push(u8::from(rows.is_empty()));
    if !rows.is_empty() {
        let block = block(columns, rows);
        answer.extend((block.len() as u32).to_le_bytes());
        answer.extend(block);
    }
    answer
}

fn block(columns: &[Column], rows: &[Vec<Cell>]) -> Vec<u8> {
    let (mut schema, mut lengths, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for (place, column) in columns.iter().enumerate() {
        schema.push(column.kind.number());
        schema.extend(column.len.to_le_bytes());
        let cells = || rows.iter().map(|row| &row[place]);
        if column.kind == Kind::VarChar {
            let mut texts = Vec::new();
            for cell in cells() {
                let offset = if let Cell::VarChar(text) = cell {
                    let offset = texts.len() as i32;
                    texts.extend((text.len() as u16).to_le_bytes());
                    texts.extend(text.as_bytes());
                    offset
                } else {
                    -1
                };
                data.extend(offset.to_le_bytes());
            }
            lengths.extend((texts.len() as u32).to_le_bytes());
            data.extend(texts);
            continue;
        }
        let mut nulls = vec![0u8; rows.len().div_ceil(8)];
        let mut values = Vec::new();
        for (row, cell) in cells().enumerate() {
            match cell {
                Cell::Bool(value) => values.push(u8::from(*value)),
                Cell::BigInt(value) | Cell::Timestamp(value) => values.extend(value.to_le_bytes()),
                Cell::Double(value) => values.extend(value.to_le_bytes()),
                Cell::Null | Cell::Float(_) | Cell::VarChar(_) => {
                    nulls[row / 8] |= 1 << (7 - row % 8);
                    values.extend(vec![0; column.kind.width()]);
                }
            }
        }
        lengths.extend((values.len() as u32).to_le_bytes());
        data.extend(nulls);
        data.extend(values);
    }
    let length = 28 + schema.len() + lengths.len() + data.len();
    let mut block = Vec::with_capacity(length);
    for number in [1, length as u32, rows.len() as u32, columns.len() as u32, 1 << 31] {
        block.extend(number.to_le_bytes());
    }
    block.extend(0u64.to_le_bytes());
    block.extend(schema);
    block.extend(lengths);
    block.extend(data);
    block
}

//! How the screen is drawn: as rows, each as wide as the screen.

use super::super::columns::{self, Column, Placed};
use super::super::model::{Alarm, Event, Process, Room, State};
use super::super::row::{Color, Row, Style};
use super::super::text::{self, fit, head, width};
use super::View;

/// Lines above and below the sections.
const HEADER: usize = 3;
const FOOTER: usize = 1;

const PLAIN: Style = Style::new();
const TITLE: Style = Style { reversed: true, ..PLAIN };
const STRONG: Style = Style { bold: true, ..PLAIN };
const FAINT: Style = Style { dim: true, ..PLAIN };
const GOOD: Style = Style { color: Some(Color::Green), ..PLAIN };
const ODD: Style = Style { color: Some(Color::Yellow), ..PLAIN };
const BAD: Style = Style { color: Some(Color::Red), bold: true, ..PLAIN };

/// Lines of the sections, their titles among them; 0 for none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heights {
    pub(super) processes: usize,
    pub(super) alarms: usize,
    pub(super) rooms: usize,
    pub(super) events: usize,
}

impl Heights {
    /// Who wants how much gets what of `lines`: each a little first, processes the most, then alarms, rooms and events.
    pub(super) fn share(lines: usize, want: &Self) -> Self {
        let mut left = lines;
        let mut take = |most: usize| {
            let taken = most.min(left);
            left -= taken;
            taken
        };
        let mut got = Self { processes: take(want.processes.min(5)), ..Self::default() };
        // A title with nothing below it is of no use.
        let little =
            |want: usize, least: usize, take: &mut dyn FnMut(usize) -> usize| match take(want.min(least)) {
                0 | 1 => 0,
                taken => taken,
            };
        got.alarms = little(want.alarms, 3, &mut take);
        got.events = little(want.events, 4, &mut take);
        got.rooms = little(want.rooms, 4, &mut take);
        got.processes += take(want.processes - got.processes.min(want.processes));
        got.alarms += if got.alarms > 0 { take(want.alarms - got.alarms) } else { 0 };
        got.rooms += if got.rooms > 0 { take(want.rooms - got.rooms) } else { 0 };
        got.events += if got.events > 0 { take(want.events - got.events) } else { 0 };
        got
    }
}

/// Lines of the screen, from the top.
struct Lines {
    columns: usize,
    rows: usize,
    drawn: Vec<Row>,
}

impl Lines {
    fn width(&self) -> usize {
        self.columns
    }

    /// A line of pieces beside each other, if there is room for it.
    fn line(&mut self, base: Style, pieces: &[(Style, String)]) {
        if self.drawn.len() < self.rows {
            self.drawn.push(Row::new(self.columns, base, pieces));
        }
    }

    fn text(&mut self, style: Style, text: impl Into<String>) {
        self.line(style, &[(PLAIN, text.into())]);
    }
}

/// Left in its column, or right.
fn cell(text: &str, columns: usize, left: bool) -> String {
    let text = fit(text, columns);
    let space = " ".repeat(columns.saturating_sub(width(&text)));
    if left { text + &space } else { space + &text }
}

fn plural(count: usize, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

impl View {
    /// The screen at a time, in UTC milliseconds: as many rows as it has.
    pub(in crate::top) fn draw(&mut self, columns: usize, rows: usize, now: u64) -> Vec<Row> {
        if columns == 0 || rows == 0 {
            return Vec::new();
        }
        let mut lines = Lines { columns, rows, drawn: Vec::with_capacity(rows) };
        let body = rows.saturating_sub(HEADER + FOOTER);
        self.header(&mut lines, now);
        if self.help {
            self.help(&mut lines);
        } else {
            self.sections(&mut lines, body, now);
        }
        // The footer is the last line, whatever else there is.
        lines.drawn.truncate(rows - FOOTER);
        while lines.drawn.len() < rows - FOOTER {
            lines.text(PLAIN, "");
        }
        lines.text(TITLE, footer(columns, self.help));
        lines.drawn
    }

    fn header(&self, lines: &mut Lines, now: u64) {
        let totals = &self.model.totals;
        let mut first = vec![(STRONG, "tickmesh".to_owned())];
        if self.told_at.is_some() {
            let (nodes, gateways) = (plural(totals.nodes, "node"), plural(totals.gateways, "gateway"));
            first.push((PLAIN, format!("  {nodes}  {gateways}  {} clients", text::count(totals.clients))));
            if totals.not_up > 0 {
                first.push((ODD, format!("  {} not up", totals.not_up)));
            }
        }
        // The time at the right, and between them whom it asks as far as there is room.
        let used: usize = first.iter().map(|(_, piece)| width(piece)).sum();
        let clock = text::clock(now);
        let room = lines.width().saturating_sub(used + clock.len() + 4);
        let via = if room >= width(&self.via).min(24) { fit(&self.via, room) } else { String::new() };
        let space = lines.width().saturating_sub(used + 2 + width(&via) + clock.len()).max(1);
        first.push((FAINT, format!("  {via}{}", " ".repeat(space))));
        first.push((PLAIN, clock));
        lines.line(PLAIN, &first);

        let rate = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), text::count);
        let mut second = vec![(PLAIN, String::new())];
        if self.told_at.is_some() {
            second.push(match &self.model.firing {
                None => (FAINT, "alarms -".into()),
                Some(firing) if firing.is_empty() => (GOOD, "no alarms".into()),
                Some(firing) => match firing.iter().filter(|alarm| alarm.critical()).count() {
                    0 => (ODD, plural(firing.len(), "alarm")),
                    critical => (BAD, format!("{}, {critical} critical", plural(firing.len(), "alarm"))),
                },
            });
            let worst = totals.worst_p99.as_ref();
            let worst = worst.map(|(p99, id)| format!("  worst p99 {} {}", text::millis(*p99), fit(id, 20)));
            second.extend(worst.map(|worst| (PLAIN, worst)));
            second.push((PLAIN, format!("  published {}/s", rate(totals.published_per_s))));
            second.push((PLAIN, format!("  delivered {}/s", rate(totals.delivered_per_s))));
            let bytes = totals.bytes_per_s.map(text::bytes);
            second.extend(bytes.map(|bytes| (PLAIN, format!("  sent {bytes}B/s"))));
        }
        // A number that is cut is another number.
        let mut used = 0;
        second.retain(|(_, piece)| {
            used += width(piece);
            used <= lines.width()
        });
        lines.line(PLAIN, &second);

        match (&self.trouble, self.told_at) {
            (Some(trouble), told) => {
                let old = told.map(|told| text::age(now.saturating_sub(told)));
                let old = old.map_or_else(String::new, |old| format!(", figures of {old} ago"));
                let since = text::clock(trouble.since);
                lines.text(BAD, format!("since {since}{old}: {}", trouble.text));
            }
            (None, None) => lines.text(FAINT, format!("asking {} …", self.via)),
            (None, Some(_)) if !self.model.has_vitals => {
                lines.text(FAINT, "this server tells no vitals: what its list of members has is shown");
            }
            (None, Some(_)) => lines.text(PLAIN, ""),
        }
    }

    fn sections(&mut self, lines: &mut Lines, body: usize, now: u64) {
        let titled = |entries: usize| if entries == 0 { 0 } else { entries + 1 };
        let firing = self.model.firing.as_deref().unwrap_or_default();
        let heights = Heights::share(
            body,
            &Heights {
                processes: self.model.processes.len().max(1) + 1,
                alarms: titled(firing.len()),
                rooms: titled(self.model.rooms.len()),
                events: titled(self.model.events.len()),
            },
        );
        self.page = heights.processes.saturating_sub(1).max(1);
        self.scroll = self.scroll.min(self.model.processes.len().saturating_sub(self.page));
        self.processes(lines, heights.processes, now);
        section(lines, heights.alarms, &alarm_title(firing.len()), firing, |alarm| alarm_line(alarm, now));
        let columns = lines.width();
        section(lines, heights.rooms, &room_title(columns), &self.model.rooms, |room| {
            room_line(room, columns)
        });
        section(lines, heights.events, "events", &self.model.events, event_line);
    }

    fn processes(&self, lines: &mut Lines, height: usize, now: u64) {
        if height == 0 {
            return;
        }
        let all = &self.model.processes;
        let placed = columns::place(all, self.sorting, now, lines.width());
        let mut title = Vec::new();
        for Placed { column, width } in &placed {
            let mark = match (*column == self.sorting.column, self.sorting.falling()) {
                (false, _) => "",
                (true, true) => "▼",
                (true, false) => "▲",
            };
            title.push((PLAIN, cell(&format!("{}{mark}", column.title()), *width, column.is_text()) + " "));
        }
        lines.line(TITLE, &title);
        if all.is_empty() && self.told_at.is_some() {
            return lines.text(FAINT, "nobody is there");
        }
        for process in all.iter().skip(self.scroll).take(height - 1) {
            let cells: Vec<_> = placed
                .iter()
                .map(|&Placed { column, width }| {
                    let text = cell(&column.shown(process, now), width, column.is_text());
                    (style(column, process), text + " ")
                })
                .collect();
            lines.line(PLAIN, &cells);
        }
    }

    fn help(&self, lines: &mut Lines) {
        lines.text(TITLE, "keys");
        for (keys, text) in [
            ("q Esc Ctrl-C", "quit"),
            ("↑ ↓ PgUp PgDn", "scroll; Home and End to the first and last"),
            ("← →", "sort by the column beside"),
            ("r", "the other way round, as the same key again"),
        ] {
            lines.line(PLAIN, &[(STRONG, cell(keys, 15, true)), (PLAIN, text.into())]);
        }
        lines.text(TITLE, "columns, and the keys that sort by them");
        // In two columns where one is not long enough.
        let left = lines.rows.saturating_sub(lines.drawn.len() + 1).max(1);
        let entry = |column: &Column| format!("{}  {:<8}{}", column.key(), column.title(), column.help());
        let rows = Column::ALL.len().div_ceil(Column::ALL.len().div_ceil(left));
        let across = Column::ALL.len().div_ceil(rows);
        let each = lines.width() / across;
        for row in 0..rows {
            let entries = Column::ALL.iter().skip(row).step_by(rows);
            let cells: Vec<_> = entries
                .map(|column| {
                    let text = head(&entry(column), each.saturating_sub(1));
                    let space = " ".repeat(each.saturating_sub(width(&text)));
                    (PLAIN, text + &space)
                })
                .collect();
            lines.line(PLAIN, &cells);
        }
    }
}

fn footer(columns: usize, help: bool) -> String {
    let text = if help {
        "q back"
    } else if columns < 60 {
        "q quit  ? help  r reverse"
    } else {
        "q quit  ? help  ↑↓ scroll  ←→ sort  r reverse"
    };
    text.into()
}

fn style(column: Column, process: &Process) -> Style {
    match column {
        Column::State => match process.state {
            State::Up => GOOD,
            State::Draining => ODD,
            State::Unready | State::Silent => BAD,
        },
        Column::Memory | Column::MemoryShare if process.memory_short => BAD,
        _ if process.state == State::Silent => FAINT,
        Column::Id => STRONG,
        _ => PLAIN,
    }
}

/// A title, and as many entries as have room below it.
fn section<T>(
    lines: &mut Lines,
    height: usize,
    title: &str,
    entries: &[T],
    line: impl Fn(&T) -> Vec<(Style, String)>,
) {
    if height == 0 {
        return;
    }
    lines.text(TITLE, title);
    for entry in entries.iter().take(height - 1) {
        lines.line(PLAIN, &line(entry));
    }
}

fn alarm_title(count: usize) -> String {
    format!("alarms that fire: {count}")
}

fn alarm_line(alarm: &Alarm, now: u64) -> Vec<(Style, String)> {
    let style = if alarm.critical() { BAD } else { ODD };
    let mut pieces = vec![
        (style, cell(&alarm.severity, 9, true)),
        (PLAIN, cell(&text::age(now.saturating_sub(alarm.since)), 6, false) + "  "),
        (PLAIN, alarm.text.clone()),
    ];
    if let Some(by) = &alarm.acknowledged_by {
        pieces.push((FAINT, format!("  acknowledged by {by}")));
    }
    pieces
}

/// Columns of the three numbers of a room.
const ROOM_NUMBERS: [(&str, usize); 3] = [("msg/s", 8), ("subs", 8), ("dlv/s", 8)];

/// Columns of a room's name: what the numbers leave, and no more than it takes to find them.
fn room_name(columns: usize) -> usize {
    columns.saturating_sub(ROOM_NUMBERS.iter().map(|(_, width)| width).sum()).min(56)
}

fn room_title(columns: usize) -> String {
    let numbers: String = ROOM_NUMBERS.iter().map(|(title, width)| cell(title, *width, false)).collect();
    cell("busiest rooms", room_name(columns), true) + &numbers
}

fn room_line(room: &Room, columns: usize) -> Vec<(Style, String)> {
    let values = [room.messages_per_s, room.subscribers, room.delivered_per_s];
    let mut pieces = vec![(PLAIN, cell(&room.name, room_name(columns), true))];
    for (value, (_, width)) in values.into_iter().zip(ROOM_NUMBERS) {
        pieces.push((PLAIN, cell(&text::count(value), width, false)));
    }
    pieces
}

fn event_line(event: &Event) -> Vec<(Style, String)> {
    let style = match event.name.as_str() {
        "node_lost" | "gateway_lost" => BAD,
        "node_draining" | "node_left" | "gateway_left" => ODD,
        _ => PLAIN,
    };
    let pieces = [
        (FAINT, text::clock(event.at) + "  "),
        (style, cell(&event.name, 14, true) + "  "),
        (PLAIN, event.text.clone()),
    ];
    pieces.into()
}

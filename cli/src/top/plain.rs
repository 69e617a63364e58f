//! Blocks of plain lines for what is no terminal.
//!
//! The first word of a line says what it is; a line that begins with `#` names the columns of those that follow. Columns
//! are separated by white space, numbers are in base units, `-` is what is not known, and only the last may be of several
//! words. An empty line ends the block.

use std::io;

use super::columns::{Column, Field, Sorting};
use super::model::Model;
use super::text::word;

/// Events of the first block.
const FIRST_EVENTS: usize = 10;
/// Rooms of a block.
const ROOMS: usize = 10;

/// What was told already.
#[derive(Debug)]
pub(super) struct Plain {
    sorting: Sorting,
    /// The newest event that was told.
    told: Option<u64>,
}

impl Plain {
    pub(super) fn new(sorting: Sorting) -> Self {
        Self { sorting, told: None }
    }

    /// Writes a block, with the events that were in none before it.
    pub(super) fn write(&mut self, out: &mut impl io::Write, model: &mut Model, now: u64) -> io::Result<()> {
        self.sorting.sort(&mut model.processes);
        let totals = &model.totals;
        let firing = model.firing.as_deref();
        let (p99, whose) =
            totals.worst_p99.clone().map_or_else(Default::default, |(p99, id)| (Some(p99), id));
        writeln!(
            out,
            "#cluster at nodes gateways not_up clients published_per_s delivered_per_s sent_bytes_per_s worst_p99_ms \
             worst_p99_id alarms alarms_critical"
        )?;
        writeln!(
            out,
            "cluster {now} {} {} {} {} {} {} {} {} {} {} {}",
            totals.nodes,
            totals.gateways,
            totals.not_up,
            number(Some(totals.clients)),
            number(totals.published_per_s),
            number(totals.delivered_per_s),
            number(totals.bytes_per_s),
            number(p99),
            word(&whose),
            number(firing.map(|firing| firing.len() as f64)),
            number(firing.map(|firing| firing.iter().filter(|alarm| alarm.critical()).count() as f64)),
        )?;
        processes(out, model)?;
        if !model.rooms.is_empty() {
            writeln!(out, "#room name messages_per_s subscribers delivered_per_s")?;
        }
        for room in model.rooms.iter().take(ROOMS) {
            let (rate, delivered) = (number(Some(room.messages_per_s)), number(Some(room.delivered_per_s)));
            writeln!(out, "room {} {rate} {} {delivered}", word(&room.name), number(Some(room.subscribers)))?;
        }
        self.events(out, model)?;
        if firing.is_some_and(|firing| !firing.is_empty()) {
            writeln!(out, "#alarm severity since id acknowledged_by text")?;
        }
        for alarm in model.firing.iter().flatten() {
            let by = word(alarm.acknowledged_by.as_deref().unwrap_or_default());
            let (severity, id) = (word(&alarm.severity), word(&alarm.id));
            writeln!(out, "alarm {severity} {} {id} {by} {}", alarm.since, alarm.text)?;
        }
        writeln!(out)?;
        out.flush()
    }

    fn events(&mut self, out: &mut impl io::Write, model: &Model) -> io::Result<()> {
        let Some(newest) = model.events.first().map(|event| event.seq) else {
            self.told.get_or_insert(0);
            return Ok(());
        };
        // A log that began anew counts from 1 again.
        let told = self.told.map(|told| if told > newest { 0 } else { told });
        let fresh = model.events.iter().filter(|event| told.is_none_or(|told| event.seq > told));
        let mut fresh: Vec<_> = fresh.take(if told.is_none() { FIRST_EVENTS } else { usize::MAX }).collect();
        fresh.reverse();
        if !fresh.is_empty() {
            writeln!(out, "#event at name id text")?;
        }
        for event in fresh {
            writeln!(out, "event {} {} {} {}", event.at, word(&event.name), word(&event.id), event.text)?;
        }
        self.told = Some(newest);
        Ok(())
    }
}

fn processes(out: &mut impl io::Write, model: &Model) -> io::Result<()> {
    write!(out, "#process")?;
    for column in Column::ALL {
        write!(out, " {}", column.name())?;
    }
    writeln!(out)?;
    for process in &model.processes {
        write!(out, "process")?;
        for column in Column::ALL {
            match column.field(process) {
                Field::Text(text) => write!(out, " {}", word(text))?,
                Field::Number(value) => write!(out, " {}", number(value))?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// At most three decimals, and no more than it takes.
fn number(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".into() };
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::columns::Column;
    use super::super::fixture::{NOW, answers, log, small, vitals};
    use super::super::model::{Answers, Liveness};
    use super::*;

    fn block(plain: &mut Plain, answers: &Answers) -> String {
        let mut out = Vec::new();
        let mut model = Model::of(answers, &mut Liveness::default(), NOW);
        plain.write(&mut out, &mut model, NOW).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_block_has_the_columns_that_it_names() {
        let mut plain = Plain::new(Sorting::by(Column::Cpu));
        let first = block(&mut plain, &small());
        let expected = format!(
            "\
#cluster at nodes gateways not_up clients published_per_s delivered_per_s sent_bytes_per_s worst_p99_ms worst_p99_id alarms alarms_critical
cluster {NOW} 2 1 1 1220 200 100000 18000000 123.4 b 2 1
#process id kind state clients cpu_percent memory_bytes memory_percent published_per_s delivered_per_s sent_bytes_per_s conflated_per_s p50_ms p95_ms p99_ms queue_delay_ms quality started_at
process a node up 1200 42.5 83886080 15.625 100 50000 9000000 0 1.2 4 9 0.4 97.1 {started}
process g1 gateway up 1100 42.5 83886080 15.625 - - - - - - - 0.4 97.1 {started}
process b node draining 20 7 83886080 15.625 100 50000 9000000 0 0.5 1 123.4 0.4 97.1 {started}
#room name messages_per_s subscribers delivered_per_s
room market_EURUSD 10 1000 10000
room market_USDJPY 2 3 6
#event at name id text
event {joined} node_joined b node b has joined
event {lost} node_lost c node c is lost
#alarm severity since id acknowledged_by text
alarm critical {since} node_lost:c - node c is lost
alarm warning {since} latency:b - node b is slow

",
            started = NOW - 3_600_000,
            joined = NOW - 9_000,
            lost = NOW - 7_000,
            since = NOW - 12_000,
        );
        assert_eq!(first, expected);
        let second = block(&mut plain, &small());
        assert!(
            !second.contains("event") && second.contains("alarm critical"),
            "an event is told once: {second}"
        );
    }

    #[test]
    fn events_are_told_once_and_again_when_their_log_began_anew() {
        let mut plain = Plain::new(Sorting::by(Column::Id));
        let mut told = |count: u64| {
            let mut answers = answers(&[]);
            let events = (1..=count).map(|n| (0, json!({"id": n.to_string(), "at": NOW, "text": "x"})));
            answers.events = Some(log("moved", events));
            let block = block(&mut plain, &answers);
            block.lines().filter(|line| line.starts_with("event ")).count()
        };
        assert_eq!(told(30), FIRST_EVENTS, "not all that ever was");
        assert_eq!((told(30), told(33), told(0), told(33)), (0, 3, 0, 0), "and not again after a gap");
        assert_eq!((told(2), told(3)), (2, 1));
    }

    #[test]
    fn a_name_is_one_word_and_a_line_is_one_line() {
        let mut answers = answers(&[vitals("node", "a b\nc", json!({}))]);
        answers.events = Some(log("x y", [(0, json!({"id": "", "text": "two\nlines"}))]));
        let block = block(&mut Plain::new(Sorting::by(Column::Id)), &answers);
        assert!(block.contains("\nprocess a_b·c node "), "{block}");
        assert!(block.contains(&format!("\nevent {NOW} x_y - two·lines\n")), "{block}");
    }
}

//! The screen: what a key does to it, and how it is drawn.
//!
//! Invariant: whatever the size and whatever the names, every cell is where its column is: text is cut, columns and sections
//! are left out, nothing wraps. It knows no HTTP and no clock.

mod draw;
#[cfg(test)]
mod tests;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::columns::{Column, Sorting};
use super::model::{Answers, Liveness, Model};

/// What is to be done after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Draw,
    Quit,
}

/// Why there is nothing new.
#[derive(Debug)]
struct Trouble {
    /// UTC milliseconds.
    since: u64,
    text: String,
}

/// What is on the screen.
#[derive(Debug)]
pub(super) struct View {
    /// Whom it asks.
    via: String,
    model: Model,
    liveness: Liveness,
    /// When the model was told, in UTC milliseconds; none before the first answer.
    told_at: Option<u64>,
    trouble: Option<Trouble>,
    sorting: Sorting,
    /// Processes above the first that is shown.
    scroll: usize,
    /// Processes that had room when it was drawn last.
    page: usize,
    help: bool,
}

impl View {
    pub(super) fn new(via: &str, sorting: Sorting) -> Self {
        Self {
            via: super::text::clean(via),
            model: Model::default(),
            liveness: Liveness::default(),
            told_at: None,
            trouble: None,
            sorting,
            scroll: 0,
            page: 1,
            help: false,
        }
    }

    /// Shows what was answered. A part that failed is told, as the rest is shown.
    pub(super) fn tell(&mut self, answers: &Answers, now: u64) {
        self.model = Model::of(answers, &mut self.liveness, now);
        self.told_at = Some(now);
        match &answers.trouble {
            Some(text) => self.fail(text, now),
            None => self.trouble = None,
        }
        self.sorting.sort(&mut self.model.processes);
    }

    /// Shows why there was no answer, beside what there was before.
    pub(super) fn fail(&mut self, text: &str, now: u64) {
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { since, text: super::text::clean(text) });
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Then {
        let last = self.model.processes.len().saturating_sub(self.page);
        match key.code {
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => return Then::Quit,
            _ if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => {}
            KeyCode::Char('?') => self.help = !self.help,
            KeyCode::Char('q') | KeyCode::Esc if self.help => self.help = false,
            KeyCode::Char('q') | KeyCode::Esc => return Then::Quit,
            KeyCode::Char('r') => self.sort_by(Sorting { reversed: !self.sorting.reversed, ..self.sorting }),
            KeyCode::Char(letter) => match Column::by_key(letter) {
                // The same again turns it round.
                Some(column) if column == self.sorting.column => {
                    self.sort_by(Sorting { column, reversed: !self.sorting.reversed });
                }
                Some(column) => self.sort_by(Sorting::by(column)),
                None => {}
            },
            KeyCode::Left => self.sort_by(Sorting::by(beside(self.sorting.column, Column::ALL.len() - 1))),
            KeyCode::Right => self.sort_by(Sorting::by(beside(self.sorting.column, 1))),
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Down => self.scroll = (self.scroll + 1).min(last),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(self.page),
            KeyCode::PageDown => self.scroll = (self.scroll + self.page).min(last),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = last,
            _ => {}
        }
        Then::Draw
    }

    fn sort_by(&mut self, sorting: Sorting) {
        self.sorting = sorting;
        self.sorting.sort(&mut self.model.processes);
        self.scroll = 0;
    }
}

/// So many columns to the right, and round.
fn beside(column: Column, steps: usize) -> Column {
    let at = Column::ALL.iter().position(|one| *one == column).unwrap_or(0);
    Column::ALL[(at + steps) % Column::ALL.len()]
}

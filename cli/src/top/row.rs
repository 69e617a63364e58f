//! A line of the screen: pieces of text with their styles.
//!
//! Invariant: it takes exactly the columns that it was made for, and has no control character.

use std::io::{self, Write};

use crossterm::queue;
use crossterm::style::{Attribute, Print, SetAttribute, SetForegroundColor};

use super::text::{clean, head, width};

pub(super) use crossterm::style::Color;

/// How a piece of text looks. What is not set is as the terminal has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) color: Option<Color>,
    pub(super) bold: bool,
    pub(super) dim: bool,
    pub(super) reversed: bool,
}

impl Style {
    /// As the terminal has it.
    pub(super) const fn new() -> Self {
        Self { color: None, bold: false, dim: false, reversed: false }
    }

    /// This one, with what the other sets.
    fn with(self, over: Self) -> Self {
        Self {
            color: over.color.or(self.color),
            bold: self.bold || over.bold,
            dim: self.dim || over.dim,
            reversed: self.reversed || over.reversed,
        }
    }
}

/// See the module's documentation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row(Vec<(Style, String)>);

impl Row {
    /// Pieces beside each other, cut where the columns end, and space behind them.
    pub(super) fn new(columns: usize, base: Style, pieces: &[(Style, String)]) -> Self {
        let mut left = columns;
        let mut row = Vec::with_capacity(pieces.len() + 1);
        for (style, piece) in pieces {
            let text = head(&clean(piece), left);
            left = left.saturating_sub(width(&text));
            row.push((base.with(*style), text));
        }
        row.push((base, " ".repeat(left)));
        Self(row)
    }

    /// Writes it where the cursor is. Nothing is flushed.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (style, text) in &self.0 {
            queue!(out, SetAttribute(Attribute::Reset))?;
            if let Some(color) = style.color {
                queue!(out, SetForegroundColor(color))?;
            }
            let attributes = [
                (style.bold, Attribute::Bold),
                (style.dim, Attribute::Dim),
                (style.reversed, Attribute::Reverse),
            ];
            for (_, attribute) in attributes.into_iter().filter(|(set, _)| *set) {
                queue!(out, SetAttribute(attribute))?;
            }
            queue!(out, Print(text))?;
        }
        queue!(out, SetAttribute(Attribute::Reset))
    }

    /// Its text, without the looks.
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }
}

//! Text on standard output. A reader that is gone, such as `head`, is no fault of the command: what it does goes on.

use std::fmt::Display;
use std::io::Write as _;

/// Writes a line.
pub fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes text that has its own line breaks.
pub fn text(text: impl Display) {
    let _ = write!(std::io::stdout(), "{text}");
}

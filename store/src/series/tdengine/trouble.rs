//! What the driver says is wrong, as what a store may say.
//!
//! Of what the server says only its number leaves this module; its text goes to the log, and not even there if it names the
//! credentials.

use taos::RawError;

use crate::StoreError;

/// Why a step failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The driver or the server says so.
    Driver(RawError),
    /// We do.
    Store(StoreError),
}

impl From<RawError> for Trouble {
    fn from(error: RawError) -> Self {
        Self::Driver(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The driver's: the connection could not be made, or broke.
pub(super) const CONNECTION: i32 = 0xE001;
/// The driver's: no answer.
pub(super) const NO_ANSWER: i32 = 0xE004;
const NOT_SENT: i32 = 0xE003;
const UNAUTHORIZED: i32 = 0xE006;
/// A row's time is before what is kept, or too far ahead.
const TIME_OUT_OF_RANGE: i32 = 0x060B;
const SYNTAX: i32 = 0x0216;
/// A value can be no time, or is too long for its column: said of a row, however the table is.
const BAD_VALUE: [i32; 2] = [0x2635, 0x2653];
/// What the server's parser says: from bad syntax to values that are too long.
const PARSER: std::ops::RangeInclusive<i32> = 0x2600..=0x26FF;
/// The table is not there; said by the parser, the vnode, the mnode.
const NO_TABLE: [i32; 3] = [0x2603, 0x0618, 0x0362];
const NO_DATABASE: i32 = 0x0388;

fn code(error: &RawError) -> i32 {
    *error.code()
}

/// Whether it is only that nothing was ever written there.
pub(super) fn is_missing_table(error: &RawError) -> bool {
    NO_TABLE.contains(&code(error))
}

/// Whether the server does not understand the statement, or an option in it.
pub(super) fn is_not_understood(error: &RawError) -> bool {
    !is_missing_table(error) && (code(error) == SYNTAX || PARSER.contains(&code(error)))
}

/// What to tell, and what to log.
pub(super) fn told(trouble: Trouble, secrets: &[String]) -> StoreError {
    let error = match trouble {
        Trouble::Store(error) => return error,
        Trouble::Driver(error) => error,
    };
    let code = code(&error);
    // The driver quotes what it wraps.
    let text = error.message();
    let text =
        text.strip_prefix("Internal error: `").and_then(|text| text.strip_suffix('`')).unwrap_or(&text);
    let text = if secrets.iter().any(|secret| text.contains(secret.as_str())) {
        "(its text names the credentials)".to_owned()
    } else {
        text.to_owned()
    };
    let told = match code {
        NOT_SENT | NO_ANSWER => StoreError::Timeout,
        TIME_OUT_OF_RANGE => StoreError::Refused("a row's time is outside of what is kept".into()),
        UNAUTHORIZED => StoreError::Unavailable("the credentials are not accepted".into()),
        NO_DATABASE => StoreError::Unavailable("the database is not there".into()),
        _ if is_missing_table(&error) => StoreError::Unavailable("the tables are not there".into()),
        _ if BAD_VALUE.contains(&code) => {
            StoreError::Refused(format!("a value is not accepted ({code:#06x})"))
        }
        // Such as a column that is not there: the tables are not those that this version makes. No row is to blame.
        _ if is_not_understood(&error) => {
            tracing::warn!(code = format_args!("{code:#06x}"), error = %text, "tdengine does not accept a statement");
            StoreError::Unavailable(format!("the statement is not accepted ({code:#06x})"))
        }
        // The driver's own, such as "connection refused".
        CONNECTION..=0xFFFF => StoreError::Unavailable(text),
        _ => StoreError::Unavailable(format!("error {code:#06x}")),
    };
    tracing::debug!(code = format_args!("{code:#06x}"), error = %told, "tdengine");
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_and_name_no_credentials() {
        let told = |code: i32, text: &str| {
            told(Trouble::Driver(RawError::new(code, text)), &["s3cret".to_owned(), "tok".to_owned()])
        };
        assert_eq!(told(0xE004, "x"), StoreError::Timeout);
        assert!(matches!(told(0x060B, "x"), StoreError::Refused(_)));
        assert!(matches!(told(0x2653, "x"), StoreError::Refused(_)));
        assert!(matches!(told(0x2635, "x"), StoreError::Refused(_)));
        // Of the tables, and no fault of a row: it would be let go of.
        for code in [0x0216, 0x2600, 0x2602, 0x2605, 0x260D, 0x2617, 0x263F] {
            assert!(matches!(told(code, "x"), StoreError::Unavailable(_)), "{code:#06x}");
        }
        assert!(matches!(told(0x2603, "x"), StoreError::Unavailable(_)));
        assert!(matches!(told(0x0388, "x"), StoreError::Unavailable(_)));
        assert_eq!(told(0x0357, "s3cret"), StoreError::Unavailable("error 0x0357".into()));
        for code in [0xE001, 0xE006, 0xFFFF] {
            let error = told(code, "ws://h/ws?token=tok with s3cret").to_string();
            assert!(!error.contains("tok ") && !error.contains("s3cret"), "{error}");
        }
        assert_eq!(told(0xE001, "refused"), StoreError::Unavailable("refused".into()));
    }
}

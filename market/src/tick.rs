//! What a message of a market's room says: its time and its figures.
//!
//! A message's data may name `price` and `volume` (a trade), `bid_price`, `bid_volume`, `ask_price`, `ask_volume` (a quote),
//! `exchange`, and `ts`, its own time. A figure is a number that is finite and above 0 (a volume: at least 0). Without
//! `price` the price is the middle of bid and ask, or the one of the two that is there. What has no price is no tick, but a
//! message all the same.

use serde::Deserialize;
use tickmesh_protocol::error::Failure;
use tickmesh_protocol::message::Message;

/// Largest data of a message that is recorded, in bytes: what a row of the time-series store holds.
pub const MAX_DATA_LEN: usize = 32_000;
/// Longest name of an exchange in bytes.
pub const MAX_EXCHANGE_LEN: usize = 32;

/// The figures of a message; none where it has none, or none that can be one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Last price, as the message has it.
    pub price: Option<f64>,
    /// Volume of the trade.
    pub volume: Option<f64>,
    /// Best bid.
    pub bid_price: Option<f64>,
    /// Its volume.
    pub bid_volume: Option<f64>,
    /// Best ask.
    pub ask_price: Option<f64>,
    /// Its volume.
    pub ask_volume: Option<f64>,
}

impl Figures {
    /// What bars and alerts on `price` go by: the price, or else the middle of bid and ask, or the one there is.
    #[must_use]
    pub fn mark(&self) -> Option<f64> {
        self.price.or(match (self.bid_price, self.ask_price) {
            (Some(bid), Some(ask)) => Some(f64::midpoint(bid, ask)),
            (bid, ask) => bid.or(ask),
        })
    }
}

/// What is read of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// UTC milliseconds: `ts` of its data, or else the message's.
    pub at: u64,
    /// Its numbers.
    pub figures: Figures,
    /// Where it is traded; empty if it does not say.
    pub exchange: String,
}

/// Data as it comes: of every field any type.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    price: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow, default)]
    volume: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow, default)]
    bid_price: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow, default)]
    bid_volume: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow, default)]
    ask_price: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow, default)]
    ask_volume: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow, default)]
    exchange: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow, default)]
    ts: Option<&'a serde_json::value::RawValue>,
}

fn number(raw: Option<&serde_json::value::RawValue>) -> Option<f64> {
    // Numbers only: text that looks like one is none.
    serde_json::from_str::<f64>(raw?.get()).ok().filter(|number| number.is_finite())
}

impl Tick {
    /// Reads a message; what cannot be a figure counts as not there.
    #[must_use]
    pub fn read(message: &Message) -> Self {
        let raw: Option<Raw<'_>> = serde_json::from_str(message.data.get()).ok();
        let Some(raw) = raw else {
            return Self { at: message.timestamp, figures: Figures::default(), exchange: String::new() };
        };
        let price = |raw| number(raw).filter(|price| *price > 0.0);
        let volume = |raw| number(raw).filter(|volume| *volume >= 0.0);
        let exchange = raw.exchange.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let named = |name: &String| {
            name.len() <= MAX_EXCHANGE_LEN
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b))
        };
        Self {
            at: raw.ts.and_then(|raw| raw.get().parse().ok()).unwrap_or(message.timestamp),
            figures: Figures {
                price: price(raw.price),
                volume: volume(raw.volume),
                bid_price: price(raw.bid_price),
                bid_volume: volume(raw.bid_volume),
                ask_price: price(raw.ask_price),
                ask_volume: volume(raw.ask_volume),
            },
            exchange: exchange.filter(named).unwrap_or_default(),
        }
    }

    /// The numbers under top-level keys of a message's data, as alerts compare them; `price` is the
    /// [mark](Figures::mark) where the data has none. The data is read once, however many are asked for.
    #[must_use]
    pub fn fields(&self, message: &Message, names: &[String]) -> Vec<Option<f64>> {
        type Data<'a> = std::collections::BTreeMap<&'a str, &'a serde_json::value::RawValue>;
        let all_price = names.iter().all(|name| name == "price");
        let data: Option<Data<'_>> =
            if all_price { None } else { serde_json::from_str(message.data.get()).ok() };
        let field = |name: &String| match (name.as_str(), &data) {
            ("price", _) => self.figures.mark(),
            (name, Some(data)) => number(data.get(name).copied()),
            (_, None) => None,
        };
        names.iter().map(field).collect()
    }
}

/// Whether a publisher may put this data into a room that is recorded.
///
/// # Errors
/// [`ErrorCode::InvalidParameters`](tickmesh_protocol::error::ErrorCode::InvalidParameters) when it is too long for a row,
/// or a figure is not a number, or not above 0 (a volume: below 0).
pub fn check(data: &serde_json::value::RawValue) -> Result<(), Failure> {
    let text = data.get();
    if text.len() > MAX_DATA_LEN {
        let length = text.len();
        return Err(Failure::parameters(format!(
            "data has {length} bytes; recorded are at most {MAX_DATA_LEN}"
        )));
    }
    // What is no object has no figures.
    let Ok(raw) = serde_json::from_str::<Raw<'_>>(text) else { return Ok(()) };
    for (name, value, least) in [
        ("price", raw.price, f64::MIN_POSITIVE),
        ("bid_price", raw.bid_price, f64::MIN_POSITIVE),
        ("ask_price", raw.ask_price, f64::MIN_POSITIVE),
        ("volume", raw.volume, 0.0),
        ("bid_volume", raw.bid_volume, 0.0),
        ("ask_volume", raw.ask_volume, 0.0),
    ] {
        let given = value.filter(|raw| raw.get() != "null");
        if given.is_some() && !number(given).is_some_and(|number| number >= least) {
            let allowed = if least > 0.0 { "above 0" } else { "from 0" };
            return Err(Failure::parameters(format!("data.{name} is not a number {allowed}")));
        }
    }
    Ok(())
}

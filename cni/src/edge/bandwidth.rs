//! `runtimeConfig.bandwidth`: reads and checks how much the pod may receive and send.

use ferrule_model::json;
use serde_json::Value;

use crate::edge::error::Error;
use crate::edge::fields::{clipped, only};

/// `runtimeConfig.bandwidth`. The directions are the pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bandwidth {
    /// The limit of what the pod receives.
    pub ingress: Option<Rate>,
    /// The limit of what the pod sends.
    pub egress: Option<Rate>,
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bits a second.
    pub bits: u64,
    /// Bits that may be sent at once.
    pub burst_bits: u64,
}

impl Rate {
    /// Bursts that mean "nobody has chosen one". Kubelet's annotations have no burst, but containerd always sends one:
    /// the largest number of one of Go's types, which depends on its version. Taken literally, such a burst would let
    /// up to 512 MB through before anything is limited.
    const NOT_CHOSEN: [u64; 4] = [i32::MAX as u64, u32::MAX as u64, i64::MAX as u64, u64::MAX];
    /// A burst that nobody has chosen is the rate divided by this. A fortieth of a second has two good sides: the first
    /// second has only 2.5 % more than each other, and the time is longer than a busy node ever waits for its turn.
    const BURSTS_A_SECOND: u64 = 40;

    /// A rate whose burst nobody has chosen.
    const fn of(bits: u64) -> Self {
        Self { bits, burst_bits: bits / Self::BURSTS_A_SECOND }
    }
}

impl Bandwidth {
    /// Whether nothing is limited.
    pub const fn is_none(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

/// Reads `runtimeConfig.bandwidth`.
///
/// # Errors
/// A field is wrong. The error names it, and says what to write.
pub fn read(value: &Value) -> Result<Bandwidth, Error> {
    if let Some(fields) = value.as_object() {
        only(
            fields,
            "runtimeConfig.bandwidth",
            &["ingressRate", "ingressBurst", "egressRate", "egressBurst"],
        )?;
    } else if !value.is_null() {
        return Err(wrong("", "expected an object with rates and bursts".to_owned()));
    }
    Ok(Bandwidth {
        ingress: rate(value, "ingressRate", "ingressBurst")?,
        egress: rate(value, "egressRate", "egressBurst")?,
    })
}

fn rate(value: &Value, rate: &'static str, burst: &'static str) -> Result<Option<Rate>, Error> {
    let number = |field: &'static str| match value.as_object().and_then(|fields| json::field(fields, field)) {
        None => Ok(0),
        Some(Value::Number(number)) if number.as_u64().is_some() => Ok(number.as_u64().unwrap_or_default()),
        Some(other) => {
            let found = other.to_string();
            Err(wrong(field, format!("{} is not a whole number of bits", clipped(&found))))
        }
    };
    let missing = |field, other| {
        Err(wrong(field, format!("it is missing or 0, and {other} is not: write both or none")))
    };
    match (number(rate)?, number(burst)?) {
        (0, 0) => Ok(None),
        (_, 0) => missing(burst, rate),
        (0, _) => missing(rate, burst),
        (bits, _) if bits < 8 => Err(wrong(rate, format!("{bits} is less than 8 bits a second"))),
        (bits, burst) if Rate::NOT_CHOSEN.contains(&burst) => Ok(Some(Rate::of(bits))),
        (bits, burst_bits) => Ok(Some(Rate { bits, burst_bits })),
    }
}

fn wrong(field: &str, reason: String) -> Error {
    let dot = if field.is_empty() { "" } else { "." };
    Error::Config { field: format!("runtimeConfig.bandwidth{dot}{field}"), reason }
}

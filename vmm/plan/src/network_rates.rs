//! Limits of the network's rate, as annotations give them.

use std::num::NonZeroU64;

use vmrun_spec::{NetworkRates, RateSpec};

use crate::Bundle;
use crate::validate::PlanError;

/// Annotation with what each interface may receive.
pub(crate) const RX_RATE_ANNOTATION: &str = "dev.vmrun.network.rx-rate";

/// Annotation with what each interface may send.
pub(crate) const TX_RATE_ANNOTATION: &str = "dev.vmrun.network.tx-rate";

/// Units of bytes with their bits, so that a rate in bits a second is one as well.
const UNITS: &[(&str, u128)] = &[
    ("", 8),
    ("B/s", 8),
    ("kB/s", 8_000),
    ("MB/s", 8_000_000),
    ("GB/s", 8_000_000_000),
    ("KiB/s", 8 << 10),
    ("MiB/s", 8 << 20),
    ("GiB/s", 8 << 30),
    ("bit/s", 1),
    ("kbit/s", 1_000),
    ("Mbit/s", 1_000_000),
    ("Gbit/s", 1_000_000_000),
];

/// Frames a second.
const PACKETS: &str = "pps";

/// More digits than a number needs that fits.
const MOST_DIGITS: usize = 20;

const FORM: &str =
    "bytes a second, packets a second, or both, like 10MiB/s, 100Mbit/s, 5000pps or 10MiB/s,5000pps";

/// The limits that `bundle` asks for.
pub(crate) fn network_rates(bundle: &Bundle) -> Result<NetworkRates, PlanError> {
    Ok(NetworkRates { rx: rate(bundle, RX_RATE_ANNOTATION)?, tx: rate(bundle, TX_RATE_ANNOTATION)? })
}

fn rate(bundle: &Bundle, key: &str) -> Result<Option<RateSpec>, PlanError> {
    let Some(text) = bundle.spec.annotations().as_ref().and_then(|annotations| annotations.get(key)) else {
        return Ok(None);
    };
    parsed(text).map(Some).map_err(|why| {
        PlanError::invalid(
            format!("annotations[{key:?}]"),
            format!("{text:?} is no rate: {why}; write {FORM}"),
        )
    })
}

/// Bytes and packets, each at most once, in any order.
fn parsed(text: &str) -> Result<RateSpec, String> {
    let mut rate = RateSpec::default();
    for part in text.split(',').map(str::trim) {
        let (number, unit) = part.split_at(number_length(part));
        let unit = unit.trim_start();
        let (place, bits) =
            if unit == PACKETS { (&mut rate.packets, 8) } else { (&mut rate.bytes, bits(unit)?) };
        let value =
            scaled(number, bits).ok_or_else(|| format!("{part:?} is no number that can be counted"))?;
        if place.is_some() {
            return Err(format!("{part:?} limits the same as what is before it"));
        }
        *place = Some(value.ok_or_else(|| format!("with {part:?} nothing would ever pass"))?);
    }
    Ok(rate)
}

fn number_length(part: &str) -> usize {
    part.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(part.len())
}

fn bits(unit: &str) -> Result<u128, String> {
    let found = UNITS.iter().find(|(name, _)| *name == unit);
    found.map(|(_, bits)| *bits).ok_or_else(|| format!("{unit:?} is no unit of it"))
}

/// A decimal number of so many bits, in bytes; the inner nothing is zero.
fn scaled(number: &str, bits: u128) -> Option<Option<NonZeroU64>> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = [whole, fraction];
    if digits.iter().any(|part| part.is_empty() || part.contains('.')) || number.len() > MOST_DIGITS {
        return None;
    }
    let decimals = u32::try_from(fraction.len()).ok()?;
    let number: u128 = digits.concat().parse().ok()?;
    let bytes = number.checked_mul(bits)? / 10u128.checked_pow(decimals)? / 8;
    Some(NonZeroU64::new(u64::try_from(bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(text: &str) -> (u64, u64) {
        let rate = parsed(text).unwrap();
        let figure = |given: Option<NonZeroU64>| given.map_or(0, NonZeroU64::get);
        (figure(rate.bytes), figure(rate.packets))
    }

    #[test]
    fn bytes_bits_and_packets_are_read_with_their_units() {
        for (text, expected) in [
            ("10MiB/s", (10 << 20, 0)),
            ("10MiB/s,5000pps", (10 << 20, 5000)),
            ("5000pps, 1.5 kB/s", (1500, 5000)),
            ("100Mbit/s", (12_500_000, 0)),
            ("0.5Gbit/s", (62_500_000, 0)),
            ("800bit/s", (100, 0)),
            ("1234", (1234, 0)),
            ("1B/s", (1, 0)),
            ("1GiB/s", (1 << 30, 0)),
            ("18446744073709551615", (u64::MAX, 0)),
        ] {
            assert_eq!(figures(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_with_what_is_wrong() {
        for (text, why) in [
            ("", "\"\" is no number"),
            ("fast", "\"fast\" is no unit"),
            ("-1", "\"-1\" is no unit"),
            ("0", "nothing would ever pass"),
            ("0pps", "nothing would ever pass"),
            ("7bit/s", "nothing would ever pass"),
            ("0.4pps", "nothing would ever pass"),
            ("10Mb/s", "\"Mb/s\" is no unit"),
            ("10mb", "\"mb\" is no unit"),
            ("MiB/s", "\"MiB/s\" is no number"),
            ("1..5MB/s", "is no number"),
            (".5MB/s", "is no number"),
            ("5.MB/s", "is no number"),
            ("10MiB/s,", "is no number"),
            ("10MiB/s,20MB/s", "\"20MB/s\" limits the same"),
            ("1pps,1pps", "\"1pps\" limits the same"),
            ("18446744073709551616", "is no number that can be counted"),
            ("18446744073709551615GiB/s", "is no number that can be counted"),
            ("99999999999999999999999999999999999999999", "is no number that can be counted"),
            ("\u{0661}pps", "is no unit"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(why), "{text:?} gives {error:?}");
        }
    }
}

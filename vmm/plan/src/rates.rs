//! Limits of rates of networks and disks, as annotations give them.

use std::num::NonZeroU64;

use vmrun_spec::{NetworkRates, RateSpec};

use crate::Bundle;
use crate::validate::PlanError;

/// Annotation with what each interface may receive.
pub(crate) const RX_RATE_ANNOTATION: &str = "dev.vmrun.network.rx-rate";

/// Annotation with what each interface may send.
pub(crate) const TX_RATE_ANNOTATION: &str = "dev.vmrun.network.tx-rate";

/// Annotation with what is read from and written to each disk, both together.
pub(crate) const DISK_RATE_ANNOTATION: &str = "dev.vmrun.disk.rate";

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

/// What is counted beside bytes, and an example for messages.
struct Counted {
    unit: &'static str,
    form: &'static str,
}

/// Frames a second.
const FRAMES: Counted = Counted {
    unit: "pps",
    form: "bytes a second, packets a second, or both, like 10MiB/s, 100Mbit/s, 5000pps or 10MiB/s,5000pps",
};

/// Requests a second.
const REQUESTS: Counted = Counted {
    unit: "iops",
    form: "bytes a second, requests a second, or both, like 10MiB/s, 500iops or 10MiB/s,500iops",
};

/// More digits than a number needs that fits.
const MOST_DIGITS: usize = 20;

/// The limits that `bundle` asks for.
pub(crate) fn network_rates(bundle: &Bundle) -> Result<NetworkRates, PlanError> {
    let rate = |key| rate(bundle, key, &FRAMES);
    Ok(NetworkRates { rx: rate(RX_RATE_ANNOTATION)?, tx: rate(TX_RATE_ANNOTATION)? })
}

/// The limit of each disk.
pub(crate) fn disk_rate(bundle: &Bundle) -> Result<Option<RateSpec>, PlanError> {
    rate(bundle, DISK_RATE_ANNOTATION, &REQUESTS)
}

fn rate(bundle: &Bundle, key: &str, counted: &Counted) -> Result<Option<RateSpec>, PlanError> {
    let Some(text) = bundle.spec.annotations().as_ref().and_then(|annotations| annotations.get(key)) else {
        return Ok(None);
    };
    parsed(text, counted).map(Some).map_err(|why| {
        PlanError::invalid(
            format!("annotations[{key:?}]"),
            format!("{text:?} is not a valid rate: {why}; write {}", counted.form),
        )
    })
}

/// Bytes, and what is counted beside them, each at most once, in any order.
fn parsed(text: &str, counted: &Counted) -> Result<RateSpec, String> {
    let mut rate = RateSpec::default();
    for part in text.split(',').map(str::trim) {
        let (number, unit) = part.split_at(number_length(part));
        let unit = unit.trim_start();
        let (place, bits) =
            if unit == counted.unit { (&mut rate.packets, 8) } else { (&mut rate.bytes, bits(unit)?) };
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
    found.map(|(_, bits)| *bits).ok_or_else(|| format!("{unit:?} is an unknown unit"))
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
        let rate = parsed(text, &FRAMES).unwrap();
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
    fn disks_count_requests_where_networks_count_packets() {
        let rate = parsed("1MiB/s,500iops", &REQUESTS).unwrap();
        assert_eq!((rate.bytes, rate.packets), (NonZeroU64::new(1 << 20), NonZeroU64::new(500)));
        assert!(parsed("5pps", &REQUESTS).is_err() && parsed("5iops", &FRAMES).is_err());
    }

    #[test]
    fn what_is_no_rate_is_refused_with_what_is_wrong() {
        for (text, why) in [
            ("", "\"\" is no number"),
            ("fast", "\"fast\" is an unknown unit"),
            ("-1", "\"-1\" is an unknown unit"),
            ("0", "nothing would ever pass"),
            ("0pps", "nothing would ever pass"),
            ("7bit/s", "nothing would ever pass"),
            ("0.4pps", "nothing would ever pass"),
            ("10Mb/s", "\"Mb/s\" is an unknown unit"),
            ("10mb", "\"mb\" is an unknown unit"),
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
            ("\u{0661}pps", "is an unknown unit"),
        ] {
            let error = parsed(text, &FRAMES).unwrap_err();
            assert!(error.contains(why), "{text:?} gives {error:?}");
        }
    }
}

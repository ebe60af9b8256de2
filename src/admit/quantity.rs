//! Kubernetes' quantities (`apimachinery/pkg/api/resource/quantity.go`): `100m`, `1.5Gi`, `12e6`. Exact, never a float.

/// An amount, exact to a billionth; what is finer is rounded away from zero, as Kubernetes does ("if you asked for
/// something, you get something"). Capped at ±(2^63 - 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: i128,
}

/// Not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

const NANO: i128 = 1_000_000_000;
const CAP: i128 = (i64::MAX as i128) * NANO;
/// Beyond this many powers of ten every amount is either capped or the smallest one.
const MAX_EXPONENT: i32 = 100;

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0 };

    /// Reads one quantity: `<sign><digits>[.<digits>]<suffix>`.
    ///
    /// # Errors
    /// [`QuantityError`] where Kubernetes' parser refuses as well.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError);
        }
        let (binary, decimal) = scale(suffix)?;
        let magnitude = magnitude(whole, fraction, binary, decimal).min(CAP);
        Ok(Self {
            nanos: if negative { -magnitude } else { magnitude },
        })
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// No part of it is finer than one.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// In whole units (bytes), rounded up; 0 for a negative amount.
    pub fn units(self) -> u64 {
        self.rounded_up(NANO)
    }

    /// In thousandths (of a core), rounded up; 0 for a negative amount. Capped at `u64::MAX`.
    pub fn millis(self) -> u64 {
        self.rounded_up(NANO / 1_000)
    }

    /// The sum, within the bounds of every amount.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            nanos: (self.nanos + other.nanos).clamp(-CAP, CAP),
        }
    }

    fn rounded_up(self, unit: i128) -> u64 {
        let positive = self.nanos.max(0);
        u64::try_from((positive + unit - 1) / unit).unwrap_or(u64::MAX)
    }
}

/// A suffix as powers of two and of ten.
fn scale(suffix: &str) -> Result<(u32, i32), QuantityError> {
    Ok(match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
            let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(QuantityError);
            }
            // Kubernetes reads the exponent as an int64 and refuses what does not fit.
            let exponent: i64 = exponent.parse().map_err(|_| QuantityError)?;
            let limit = i64::from(MAX_EXPONENT);
            (0, i32::try_from(exponent.clamp(-limit, limit)).unwrap_or(MAX_EXPONENT))
        }
    })
}

/// `whole.fraction * 2^binary * 10^decimal` in billionths, rounded up.
fn magnitude(whole: &str, fraction: &str, binary: u32, decimal: i32) -> i128 {
    // Move the decimal point first, so that what is left is a plain number times a power of two.
    let shift = usize::try_from(decimal.unsigned_abs()).unwrap_or(usize::MAX);
    let (whole, fraction) = if decimal >= 0 {
        let moved: String = fraction.chars().chain(std::iter::repeat('0')).take(shift).collect();
        (
            format!("{whole}{moved}"),
            fraction.get(shift..).unwrap_or("").to_owned(),
        )
    } else {
        let padded = format!("{}{whole}", "0".repeat(shift));
        let (kept, moved) = padded.split_at(padded.len() - shift);
        (kept.to_owned(), format!("{moved}{fraction}"))
    };
    let unit = NANO << binary;
    let mut total = 0_i128;
    for digit in whole.bytes() {
        total = total.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
    }
    total = total.saturating_mul(unit);
    // From the last digit to the first: rounding down at each step rounds the sum down once, since floors compose;
    // what was cut off anywhere makes it one more.
    let mut part = 0_i128;
    let mut cut = false;
    for digit in fraction.bytes().rev() {
        part += i128::from(digit - b'0') * unit;
        cut |= part % 10 != 0;
        part /= 10;
    }
    total.saturating_add(part).saturating_add(i128::from(cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> i128 {
        Quantity::parse(text)
            .unwrap_or_else(|_| panic!("{text} is a quantity"))
            .nanos
    }

    /// Values as Kubernetes' own parser gives them (`quantity_test.go` and arithmetic).
    #[test]
    fn reads_what_kubernetes_reads() {
        for (text, expected) in [
            ("0", 0),
            ("0n", 0),
            ("1n", 1),
            ("1u", 1_000),
            ("100m", 100_000_000),
            ("1", NANO),
            ("+1", NANO),
            ("-1", -NANO),
            ("1.", NANO),
            (".5", NANO / 2),
            ("1.5", 3 * NANO / 2),
            ("0.5", NANO / 2),
            ("1k", 1_000 * NANO),
            ("1M", 1_000_000 * NANO),
            ("1G", 1_000_000_000 * NANO),
            ("1T", 1_000_000_000_000 * NANO),
            ("1P", 1_000_000_000_000_000 * NANO),
            ("1E", 1_000_000_000_000_000_000 * NANO),
            ("1Ki", 1024 * NANO),
            ("1.5Ki", 1536 * NANO),
            ("64Mi", 67_108_864 * NANO),
            ("1.5Gi", 1_610_612_736 * NANO),
            ("1Ti", (1_i128 << 40) * NANO),
            ("1Pi", (1_i128 << 50) * NANO),
            ("1Ei", (1_i128 << 60) * NANO),
            ("12e6", 12_000_000 * NANO),
            ("1E3", 1_000 * NANO),
            ("1e-3", NANO / 1_000),
            ("1.25e+1", 12_500_000_000),
            ("001.500", 3 * NANO / 2),
            ("0.1n", 1),
            ("0.0000000001", 1),
            ("1e-50", 1),
            ("-0.1n", -1),
            ("9.01n", 10),
            ("0.1Ki", 102_400_000_000),
            ("0.3333333333333333333333333333333333333333Ki", 341_333_333_334),
            ("8Ei", CAP),
            ("1e99", CAP),
            ("1e9223372036854775807", CAP),
            ("-1e99", -CAP),
            ("0e99", 0),
            ("123456789012345678901234567890", CAP),
        ] {
            assert_eq!(nanos(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_kubernetes_refuses() {
        for text in [
            "",
            ".",
            "+",
            "-",
            "1.2.3",
            "1Kb",
            "1 Gi",
            " 1",
            "1 ",
            "Gi",
            "1gi",
            "1K",
            "1mi",
            "1e",
            "1e+",
            "1ex",
            "1e9223372036854775808",
            "--1",
            "+-1",
            "1Mi1",
            "0x10",
            "1,5",
            "½",
            "1٣",
            "1m1",
            "NaN",
            "inf",
            "1Ee3",
        ] {
            assert_eq!(Quantity::parse(text), Err(QuantityError), "{text}");
        }
    }

    #[test]
    fn rounds_up_to_the_unit_asked_for() {
        let of = |text| Quantity::parse(text).expect("a quantity");
        assert_eq!(of("100m").millis(), 100);
        assert_eq!(of("0.1m").millis(), 1);
        assert_eq!(of("2.5").millis(), 2500);
        assert_eq!(
            of("1E").millis(),
            1_000_000_000_000_000_000_000_u128.try_into().unwrap_or(u64::MAX)
        );
        assert_eq!(of("100m").units(), 1);
        assert_eq!(of("1Gi").units(), 1 << 30);
        assert_eq!(of("8Ei").units(), i64::MAX.unsigned_abs());
        assert_eq!(of("-5").units(), 0);
        assert!(of("-1n").is_negative() && !of("0").is_negative());
        assert!(of("1500m").nanos == of("1.5").nanos && !of("1500m").is_whole() && of("2000m").is_whole());
        assert!(of("1Gi") > of("1G") && of("1") == of("1000m"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn plain_numbers_are_exact(whole in 0_u64..(1 << 62), milli in 0_u64..1000) {
            let q = Quantity::parse(&format!("{whole}.{milli:03}")).expect("a quantity");
            proptest::prop_assert_eq!(q.nanos, i128::from(whole) * NANO + i128::from(milli) * 1_000_000);
        }

        #[test]
        fn anything_that_looks_like_one_never_panics(text in "[+-]?[0-9.]{0,60}[eEinumkKMGTP]{0,3}[+-]?[0-9]{0,25}") {
            let _ = Quantity::parse(&text);
        }
    }
}

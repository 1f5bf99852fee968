//! Kubernetes quantities: `250m`, `64Mi`, `0.5`, `1e3`.

/// How much of something, exactly, in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity(u128);

const NANO: u32 = 9;

impl Quantity {
    pub(super) const MEBIBYTE: Quantity = Quantity((1 << 20) * 10_u128.pow(NANO));
    pub(super) const MILLI: Quantity = Quantity(10_u128.pow(NANO - 3));

    /// None: not a quantity, a negative one, or one finer than a billionth.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let end = (text.find(|c: char| c != '.' && !c.is_ascii_digit())).unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let (power, factor) = unit(suffix)?;
        // number * 10^power * factor, in billionths: the digits as one integer, and how far their point is to move.
        let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
        let exponent = i32::try_from(NANO).ok()? + power - i32::try_from(fraction.len()).ok()?;
        let scaled = digits.checked_mul(factor)?;
        let moved = 10_u128.checked_pow(exponent.unsigned_abs())?;
        if exponent >= 0 {
            scaled.checked_mul(moved).map(Self)
        } else {
            (scaled % moved == 0).then_some(Self(scaled / moved))
        }
    }

    pub(super) fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// The power of ten and the factor that a suffix stands for.
fn unit(suffix: &str) -> Option<(i32, u128)> {
    let decimal = |power| Some((power, 1));
    let binary = |power: u32| Some((0, 1_u128 << (10 * power)));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let power: i32 = digits.parse().ok()?;
            (-18..=18).contains(&power).then_some((power, 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact() {
        let nano = |text| Quantity::parse(text).map(|quantity| quantity.0);
        assert_eq!(nano("1"), Some(1_000_000_000));
        assert_eq!(nano("0.7"), nano("700m"));
        assert_eq!(nano(".5"), nano("500m"));
        assert_eq!(nano("1."), nano("1"));
        assert_eq!(nano("1e3"), nano("1k"));
        assert_eq!(nano("1E3"), nano("1k"));
        assert_eq!(nano("1E"), nano("1e18"));
        assert_eq!(nano("1.5Ki"), nano("1536"));
        assert_eq!(nano("64Mi"), Some(64 * Quantity::MEBIBYTE.0));
        assert!(Quantity::parse("0").unwrap().is_zero());
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            ".",
            "-1",
            "+1",
            "1 Gi",
            "1Kb",
            "64mb",
            "1..2",
            "1.2.3",
            "e3",
            "1e",
            "1e99",
            "0.1n",
            "ten",
            "99999999999999999999999999999999999999999",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }
}

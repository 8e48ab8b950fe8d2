//! **P** Kubernetes quantities as numbers of bytes.

/// Reads a quantity (`10Mi`, `1.5G`, `2e9`, `1024`) as a whole number of bytes, rounded up as Kubernetes does. The error
/// says what is wrong.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "not a size; write 1024, 10Mi, 1.5Gi or 2G".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(wrong());
    }
    let (factor, divisor) = factor(suffix).ok_or_else(wrong)?;
    let too_large = || "larger than a size can be".to_owned();

    // whole.fraction × factor ÷ divisor, in one fraction of integers, so that nothing is rounded twice.
    let digits = format!("{whole}{fraction}");
    let digits: u128 = digits.parse().map_err(|_| too_large())?;
    let scale = u32::try_from(fraction.len()).ok().and_then(|places| 10_u128.checked_pow(places)).ok_or_else(wrong)?;
    let numerator = digits.checked_mul(factor).ok_or_else(too_large)?;
    let denominator = scale.checked_mul(divisor).ok_or_else(too_large)?;
    u64::try_from(numerator.div_ceil(denominator)).map_err(|_| too_large())
}

/// What a suffix multiplies with, and what it divides by.
fn factor(suffix: &str) -> Option<(u128, u128)> {
    let power = |base: u128, exponent: u32| Some((base.checked_pow(exponent)?, 1));
    match suffix {
        "" => Some((1, 1)),
        "m" => Some((1, 1000)),
        "k" => power(1000, 1),
        "M" => power(1000, 2),
        "G" => power(1000, 3),
        "T" => power(1000, 4),
        "P" => power(1000, 5),
        "E" => power(1000, 6),
        "Ki" => power(1024, 1),
        "Mi" => power(1024, 2),
        "Gi" => power(1024, 3),
        "Ti" => power(1024, 4),
        "Pi" => power(1024, 5),
        "Ei" => power(1024, 6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: u32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
            power(10, exponent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;
    use proptest::prelude::*;

    #[test]
    fn the_forms_that_kubernetes_knows() {
        for (text, expected) in [
            ("0", 0),
            ("1024", 1024),
            ("10Mi", 10 << 20),
            ("1.5Gi", 3 << 29),
            (".5Ki", 512),
            ("5.Ki", 5120),
            ("2G", 2_000_000_000),
            ("2e9", 2_000_000_000),
            ("1E3", 1000),
            ("1E", 1_000_000_000_000_000_000),
            ("1500m", 2),
            ("0.1", 1),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size() {
        for text in
            ["", ".", "-1", "+1", "1.2.3", "1KiB", "Mi", "1 Mi", "1e", "1e-3", "one", "1e99", "99999999999999999999Ei"]
        {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_are_themselves(number: u64) {
            prop_assert_eq!(bytes(&number.to_string()), Ok(number));
        }

        #[test]
        fn suffixes_multiply(number in 0_u64..1 << 20) {
            prop_assert_eq!(bytes(&format!("{number}Gi")), Ok(number << 30));
            prop_assert_eq!(bytes(&format!("{number}k")), Ok(number * 1000));
        }

        #[test]
        fn nothing_panics(text in ".{0,40}") {
            let _ = bytes(&text);
        }
    }
}

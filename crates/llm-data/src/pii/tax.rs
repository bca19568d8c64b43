//! German tax identification numbers: eleven digits, one digit of the first ten repeated, check digit by ISO 7064 mod 11,10.

/// True for a valid number.
pub(super) fn is_tax_id(digits: &[u8]) -> bool {
    if digits.len() != 11 || digits[0] == b'0' {
        return false;
    }
    let mut counts = [0u8; 10];
    for d in &digits[..10] {
        counts[usize::from(d - b'0')] += 1;
    }
    // One digit twice or thrice, eight or seven once (the law allowed only "twice" before 2016).
    let repeated = counts.iter().filter(|c| **c > 1).count();
    if repeated != 1 || counts.iter().any(|c| *c > 3) {
        return false;
    }
    let product = digits[..10].iter().fold(10u32, |product, d| {
        let sum = (u32::from(d - b'0') + product) % 10;
        (if sum == 0 { 10 } else { sum } * 2) % 11
    });
    let check = match 11 - product {
        10 => 0,
        check => check,
    };
    check == u32::from(digits[10] - b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn official_examples_pass() {
        // Published by the tax offices as test numbers.
        for id in ["86095742719", "65929970489", "47036892816", "57549285017", "25768131411"] {
            assert!(is_tax_id(id.as_bytes()), "{id}");
        }
        for id in ["86095742718", "06095742719", "12345678901", "11111111111"] {
            assert!(!is_tax_id(id.as_bytes()), "{id}");
        }
    }
}

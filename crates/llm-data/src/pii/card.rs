//! Payment cards (ISO/IEC 7812): issuer ranges with their lengths, and the Luhn check.

/// True for a number of a known issuer whose check digit holds.
pub(super) fn is_card(digits: &[u8]) -> bool {
    issued(digits) && luhn(digits) && digits.iter().any(|d| *d != digits[0])
}

/// Groups as printed on cards: fours and a rest, or 4-6-5 and 4-6-4.
pub(super) fn is_grouped(groups: &[usize]) -> bool {
    match groups {
        [_] | [4, 6, 4 | 5] => true,
        [4, 4, 4, last] => (1..=4).contains(last),
        [4, 4, 4, 4, 3] => true,
        _ => false,
    }
}

fn issued(digits: &[u8]) -> bool {
    let n = digits.len();
    if !(13..=19).contains(&n) {
        return false;
    }
    let prefix = |k: usize| digits[..k].iter().fold(0u32, |p, d| p * 10 + u32::from(d - b'0'));
    match prefix(4) {
        4000..=4999 => matches!(n, 13 | 16 | 19),
        5100..=5599 | 2221..=2720 => n == 16,
        3400..=3499 | 3700..=3799 => n == 15,
        3000..=3059 | 3095 | 3600..=3699 | 3800..=3999 => (14..=19).contains(&n) && (n == 14 || n == 16),
        3528..=3589 => n >= 16,
        6011 | 6440..=6599 | 6200..=6299 => n >= 16,
        5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763 => true,
        _ => false,
    }
}

/// From the right every second digit is doubled; the digits of the products sum to a multiple of ten.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| {
            let d = u32::from(d - b'0') << (i & 1);
            d / 10 + d % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_test_numbers_pass() {
        for (number, issuer) in [
            ("4111111111111111", "Visa"),
            ("4222222222222", "Visa of 13"),
            ("5555555555554444", "Mastercard"),
            ("2223003122003222", "Mastercard 2-series"),
            ("378282246310005", "American Express"),
            ("30569309025904", "Diners"),
            ("6011111111111117", "Discover"),
            ("3530111333300000", "JCB"),
            ("6240008631401148", "UnionPay"),
        ] {
            assert!(is_card(number.as_bytes()), "{issuer} {number}");
        }
        assert!(!is_card(b"4111111111111112"), "check digit");
        assert!(!is_card(b"1111111111111117"), "no issuer");
        assert!(!is_card(b"0000000000000000"));
        // By hand: 7,9,9,2,7,3,9,8,7,1,3 -> 3 + 2 + 7 + 7 + 9 + 6 + 7 + 4 + 9 + 9 + 7 = 70.
        assert!(luhn(b"79927398713"));
    }
}

//! The orientation that cameras note: tag 0x0112 of the first directory (EXIF 2.32, section 4.6.4; TIFF 6.0, section 2).

/// 1 to 8; 1, upright, where there is none.
pub(crate) fn orientation(exif: &[u8]) -> u8 {
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    find(exif).filter(|o| (1..=8).contains(o)).map_or(1, |o| o as u8)
}

fn find(exif: &[u8]) -> Option<u16> {
    let little = match exif.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes: [u8; 2] = exif.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let (high, low) = if little { (short(6)?, short(4)?) } else { (short(4)?, short(6)?) };
    let directory = usize::from(high) << 16 | usize::from(low);
    let entries = usize::from(short(directory)?);
    (0..entries).map(|i| directory + 2 + 12 * i).find(|&at| short(at) == Some(0x0112)).and_then(|at| short(at + 8))
}

//! The record format of TensorFlow (`TFRecord`): length, its checksum, bytes, their checksum; all numbers little-endian.
//!
//! The checksum is CRC-32C (Castagnoli, the polynomial of iSCSI: RFC 3720, appendix B.4), rotated and shifted by a constant so that the
//! checksum of data that holds checksums is no trivial one (`masked_crc32c` of TensorFlow's `lib/hash/crc32c.h`).

use std::io::{self, Write};

/// The polynomial 0x1EDC6F41, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const MASK_DELTA: u32 = 0xa282_ead8;

/// Remainders of eight bytes at a time ("slicing by 8", Kounavis & Berry 2005).
const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let (mut remainder, mut bit) = (i as u32, 0);
        while bit < 8 {
            remainder = if remainder & 1 == 1 { remainder >> 1 ^ POLYNOMIAL } else { remainder >> 1 };
            bit += 1;
        }
        tables[0][i] = remainder;
        i += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut i = 0;
        while i < 256 {
            let before: u32 = tables[table - 1][i];
            tables[table][i] = before >> 8 ^ tables[0][(before & 255) as usize];
            i += 1;
        }
        table += 1;
    }
    tables
}

/// CRC-32C.
pub fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    let mut chunks = data.chunks_exact(8);
    for chunk in &mut chunks {
        let mut next = 0;
        for (i, &byte) in chunk.iter().enumerate() {
            let byte = if i < 4 { byte ^ (crc >> (8 * i)) as u8 } else { byte };
            next ^= TABLES[7 - i][usize::from(byte)];
        }
        crc = next;
    }
    for &byte in chunks.remainder() {
        crc = crc >> 8 ^ TABLES[0][usize::from(byte ^ crc as u8)];
    }
    !crc
}

fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(MASK_DELTA)
}

/// Append one record.
pub fn write(file: &mut impl Write, data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    file.write_all(&length)?;
    file.write_all(&masked(&length).to_le_bytes())?;
    file.write_all(data)?;
    file.write_all(&masked(data).to_le_bytes())
}

/// All records of a file; the error says at which byte it is damaged.
pub fn read(mut bytes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let all = bytes.len();
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let at = all - bytes.len();
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("record at byte {at}: {what}"));
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| bad("its length is cut off"))?;
        let (check, rest) = rest.split_first_chunk::<4>().ok_or_else(|| bad("its length is cut off"))?;
        if masked(length) != u32::from_le_bytes(*check) {
            return Err(bad("the checksum of its length does not match"));
        }
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (data, rest) = rest.split_at_checked(length).ok_or_else(|| bad("it is cut off"))?;
        let (check, rest) = rest.split_first_chunk::<4>().ok_or_else(|| bad("its checksum is cut off"))?;
        if masked(data) != u32::from_le_bytes(*check) {
            return Err(bad("its checksum does not match"));
        }
        records.push(data.to_vec());
        bytes = rest;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The vectors of RFC 3720, appendix B.4, and the usual check value.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(&(0..32).rev().collect::<Vec<u8>>()), 0x113f_db5c);
        assert_eq!(crc32c(b""), 0);
    }

    proptest! {
        /// If this fails, a reader refuses what we wrote, or takes what was damaged.
        #[test]
        fn records_come_back_and_damage_is_found(records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..5), at: prop::sample::Index, bit in 0u8..8) {
            let mut file = Vec::new();
            for record in &records {
                write(&mut file, record).unwrap();
            }
            prop_assert_eq!(&read(&file).unwrap(), &records);
            let at = at.index(file.len());
            let mut damaged = file.clone();
            damaged[at] ^= 1 << bit;
            prop_assert!(read(&damaged).is_err());
            let cut = read(&file[..at]);
            prop_assert!(cut.map_or(true, |r| r.len() < records.len()));
        }
    }
}

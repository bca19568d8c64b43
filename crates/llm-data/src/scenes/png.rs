//! PNG files of 8-bit colours (ISO/IEC 15948): header, one compressed block, end. No filters: noise does not predict.

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use std::io::Write;

/// Encode rows of red, green, blue. Writing into memory does not fail.
pub(super) fn encode(size: usize, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let side = (size as u32).to_be_bytes();
    // 8 bits a channel, colours without transparency, the only compression, the only filter method, no interlacing.
    let header = [&side[..], &side[..], &[8, 2, 0, 0, 0]].concat();
    let mut rows = ZlibEncoder::new(Vec::with_capacity(data.len() / 2), Compression::new(6));
    for row in data.chunks_exact(size * 3) {
        rows.write_all(&[0])?;
        rows.write_all(row)?;
    }
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, body) in [(b"IHDR", header), (b"IDAT", rows.finish()?), (b"IEND", Vec::new())] {
        let mut crc = Crc::new();
        crc.update(name);
        crc.update(&body);
        png.extend((body.len() as u32).to_be_bytes());
        png.extend(name);
        png.extend(&body);
        png.extend(crc.sum().to_be_bytes());
    }
    Ok(png)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_file_is_what_the_specification_says() {
        let data: Vec<u8> = (0..3 * 40 * 40).map(|i| (i % 251) as u8).collect();
        let png = encode(40, &data).unwrap();
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        // The check sum of an empty IEND is the same in every PNG file.
        assert_eq!(&png[png.len() - 12..], b"\0\0\0\0IEND\xae\x42\x60\x82");
        let length = u32::from_be_bytes(png[33..37].try_into().unwrap()) as usize;
        let mut rows = Vec::new();
        flate2::read::ZlibDecoder::new(&png[41..41 + length]).read_to_end(&mut rows).unwrap();
        let pixels: Vec<u8> = rows.chunks_exact(121).flat_map(|row| row[1..].to_vec()).collect();
        assert_eq!(pixels, data);
    }
}

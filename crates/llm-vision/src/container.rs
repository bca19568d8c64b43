//! What image files promise, read before a decoder is let at them: sizes, orientation, whether the end is there.
//!
//! Decoders read all of a file's headers before they can be asked for the size, and some of them unpack text and colour profiles on the
//! way, a gigabyte each if a file says so. So files are walked first: PNG (W3C specification, section 5), JPEG (ITU T.81, annex B) and WebP
//! (RFC 9649, section 2). Of a PNG only the chunks that make pixels go on.

use crate::decode::{check_size, damaged};
use crate::exif;
use crate::{Error, Result};

fn cut_off(what: &str) -> Error {
    Error::Image(format!("cut off inside {what}: the file is truncated or damaged; copy or download it again"))
}

fn big32(bytes: &[u8], at: usize) -> Option<usize> {
    let word: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(word) as usize)
}

fn little(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    Some(bytes.get(at..at + width)?.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b)))
}

/// A PNG file without what pixels do not need: profiles, texts, transparency, frames after the first.
pub(crate) struct Png {
    pub width: usize,
    pub height: usize,
    pub orientation: u8,
    pub essential: Vec<u8>,
}

pub(crate) fn png(bytes: &[u8], max_pixels: usize) -> Result<Png> {
    const SIGNATURE: usize = 8;
    const IHDR: usize = 13;
    let header = bytes.get(SIGNATURE..SIGNATURE + 8 + IHDR).ok_or_else(|| cut_off("the header"))?;
    if &header[..8] != b"\0\0\0\rIHDR" {
        return Err(damaged("the first chunk is not the header"));
    }
    let (width, height) = (big32(header, 8).unwrap_or(0), big32(header, 12).unwrap_or(0));
    check_size(width, height, max_pixels, "the PNG image")?;
    let (depth, colour) = (usize::from(header[16]), header[17]);
    let channels = match colour {
        0 | 3 => 1,
        2 => 3,
        4 => 2,
        6 => 4,
        other => return Err(damaged(format!("colour type {other}"))),
    };
    // Sixteen bits a channel count as two pixels of eight.
    let (size, limit) = (width * height * channels * depth.div_ceil(8), max_pixels.saturating_mul(4));
    if size > limit {
        let message = format!("the PNG image of {width} x {height} pixels takes {size} bytes, more than the limit of {limit}; make it smaller first");
        return Err(Error::Image(message));
    }
    let (mut essential, mut orientation, mut at, mut data) = (bytes[..SIGNATURE].to_vec(), 1, SIGNATURE, false);
    loop {
        let length = big32(bytes, at).ok_or_else(|| cut_off("the chunks; there is no end mark"))?;
        let kind = bytes.get(at + 4..at + 8).ok_or_else(|| cut_off("a chunk"))?;
        let name = || format!("the chunk {}, which should have {length} bytes", String::from_utf8_lossy(kind));
        let end = length.checked_add(at + 12).filter(|&end| end <= bytes.len()).ok_or_else(|| cut_off(&name()))?;
        match kind {
            b"IHDR" | b"PLTE" | b"IDAT" | b"IEND" => essential.extend_from_slice(&bytes[at..end]),
            b"eXIf" => orientation = exif::orientation(&bytes[at + 8..end - 4]),
            _ => {}
        }
        data |= kind == b"IDAT";
        if kind == b"IEND" {
            break;
        }
        at = end;
    }
    if !data {
        return Err(damaged("it holds no image data"));
    }
    Ok(Png { width, height, orientation, essential })
}

/// The size that a JPEG file announces.
pub(crate) fn jpeg(bytes: &[u8], max_pixels: usize) -> Result<(usize, usize)> {
    let (mut at, mut size, mut scans, mut progressive) = (2, None, 0usize, false);
    let word = |at: usize| Some(usize::from(*bytes.get(at)?) << 8 | usize::from(*bytes.get(at + 1)?));
    loop {
        // Fill bytes may come before a marker, and stray ones are skipped, as decoders do.
        let found =
            bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xFF)).ok_or_else(|| cut_off("the segments; there is no end mark"))?;
        at += found + 1;
        let marker = *bytes.get(at).ok_or_else(|| cut_off("a segment"))?;
        at += 1;
        match marker {
            // Data, fill, marks without content.
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            0xFF => {
                at -= 1;
                continue;
            }
            0xD9 => break,
            _ => {}
        }
        let length = word(at).filter(|n| *n >= 2).ok_or_else(|| cut_off("a segment"))?;
        if at + length > bytes.len() {
            return Err(cut_off(&format!("a segment, which should have {length} bytes")));
        }
        match marker {
            // Frame headers; the three in between are tables.
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                let (Some(height), Some(width)) = (word(at + 3), word(at + 5)) else { return Err(cut_off("the header")) };
                check_size(width, height, max_pixels, "the JPEG image")?;
                progressive |= matches!(marker, 0xC2 | 0xC6 | 0xCA | 0xCE);
                size = size.or(Some((width, height)));
            }
            0xDA => scans += 1,
            _ => {}
        }
        at += length;
    }
    let Some((width, height)) = size else { return Err(damaged("it holds no frame header")) };
    if scans == 0 {
        return Err(damaged("it holds no image data"));
    }
    /// Of a progressive file each scan runs over the whole image, and a scan can be a few bytes. Cameras and encoders write ten or so.
    const SCANS: usize = 16;
    if progressive && scans > SCANS && width * height > max_pixels / scans * SCANS {
        let message = format!("the JPEG image of {width} x {height} pixels comes in {scans} passes, more than the limit allows; save it again");
        return Err(Error::Image(message));
    }
    Ok((width, height))
}

/// Check the canvas and every frame of a WebP file.
pub(crate) fn webp(bytes: &[u8], max_pixels: usize) -> Result<()> {
    let length = little(bytes, 4, 4).ok_or_else(|| cut_off("the header"))?;
    if length + 8 > bytes.len() {
        return Err(cut_off(&format!("the RIFF container, which should have {length} bytes")));
    }
    webp_chunks(bytes.get(12..length + 8).ok_or_else(|| cut_off("the header"))?, max_pixels, true)
}

fn webp_chunks(mut rest: &[u8], max_pixels: usize, outer: bool) -> Result<()> {
    while rest.len() >= 8 {
        let (kind, length) = (&rest[..4], little(rest, 4, 4).unwrap_or(0));
        let name = || format!("the chunk {}, which should have {length} bytes", String::from_utf8_lossy(kind).trim_end());
        let data = rest.get(8..8 + length).ok_or_else(|| cut_off(&name()))?;
        let number = |at: usize, width: usize| little(data, at, width).ok_or_else(|| cut_off(&name()));
        match kind {
            b"VP8X" => check_size(number(4, 3)? + 1, number(7, 3)? + 1, max_pixels, "the WebP image")?,
            b"VP8 " => check_size(number(6, 2)? & 0x3FFF, number(8, 2)? & 0x3FFF, max_pixels, "the WebP image")?,
            b"VP8L" => {
                let sizes = number(1, 4)?;
                check_size((sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1, max_pixels, "the WebP image")?;
            }
            b"ANMF" if outer => {
                check_size(number(6, 3)? + 1, number(9, 3)? + 1, max_pixels, "a frame of the WebP image")?;
                webp_chunks(data.get(16..).unwrap_or_default(), max_pixels, false)?;
            }
            _ => {}
        }
        rest = rest.get(8 + length.next_multiple_of(2)..).unwrap_or_default();
    }
    Ok(())
}

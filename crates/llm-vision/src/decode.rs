//! Image files to pixels: PNG, JPEG and WebP, recognised by their first bytes.
//!
//! Colours are taken as they are, transparency is dropped, as Pillow's `convert("RGB")` does; the orientation that cameras note in EXIF is
//! applied. A few kilobytes can promise billions of pixels, so sizes are checked before any pixel is decoded.

use crate::{Error, Result};
use image_webp::WebPDecoder;
use std::io::{Cursor, Read};
use std::path::Path;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_png::PngDecoder;

/// Pixels of the largest image that is accepted: that of Pillow.
pub const MAX_PIXELS: usize = 89_478_485;

/// Rows of red, green, blue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]`.
    pub data: Vec<u8>,
}

/// Largest file that is read.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

impl RgbImage {
    /// Read and decode a file, whatever its name ends with. Errors name it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bad = |e: std::io::Error| Error::file(path, format!("cannot read: {e}"));
        // Pipes and devices have no length: what is read is limited, not what is announced.
        let mut bytes = Vec::new();
        std::fs::File::open(path).map_err(bad)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(bad)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(Error::file(path, format!("larger than the limit of {MAX_FILE_BYTES} bytes; make the image smaller first")));
        }
        Self::decode(&bytes).map_err(|e| match e {
            Error::Image(message) => Error::file(path, message),
            other => other,
        })
    }

    /// Decode a file's bytes, at most [`MAX_PIXELS`] large.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_limited(bytes, MAX_PIXELS)
    }

    /// [`RgbImage::decode`] with another limit.
    pub fn decode_limited(bytes: &[u8], max_pixels: usize) -> Result<Self> {
        let decoder = match bytes {
            [0x89, b'P', b'N', b'G', ..] => png,
            [0xFF, 0xD8, 0xFF, ..] => jpeg,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp,
            _ => return Err(Error::Image("not a PNG, JPEG or WebP file; convert it to one of these".into())),
        };
        // A damaged file must not end the process, whatever it trips over inside a decoder.
        let outcome = std::panic::catch_unwind(|| decoder(bytes, max_pixels));
        let (image, orientation) = outcome.unwrap_or_else(|_| Err(damaged("the decoder gave up")))?;
        Ok(image.oriented(orientation))
    }

    /// Turned as EXIF's orientation 1 to 8 asks.
    pub fn oriented(self, orientation: u8) -> Self {
        let (w, h) = (self.width, self.height);
        // Where the pixel at (x, y) of the upright image lies in the stored one.
        let source = |x: usize, y: usize| match orientation {
            2 => (w - 1 - x, y),
            3 => (w - 1 - x, h - 1 - y),
            4 => (x, h - 1 - y),
            5 => (y, x),
            6 => (y, h - 1 - x),
            7 => (w - 1 - y, h - 1 - x),
            8 => (w - 1 - y, x),
            _ => (x, y),
        };
        let (width, height) = match orientation {
            2..=4 => (w, h),
            5..=8 => (h, w),
            _ => return self,
        };
        let mut data = Vec::with_capacity(self.data.len());
        for y in 0..height {
            for x in 0..width {
                let (sx, sy) = source(x, y);
                data.extend_from_slice(&self.data[(sy * w + sx) * 3..][..3]);
            }
        }
        Self { width, height, data }
    }
}

fn damaged(reason: impl std::fmt::Debug) -> Error {
    Error::Image(format!("cannot be decoded ({reason:?}); the file is damaged or of an unsupported kind"))
}

/// Refuse an image before it is decoded.
pub(crate) fn check_size(width: usize, height: usize, max_pixels: usize, what: &str) -> Result<()> {
    match width.checked_mul(height) {
        Some(0) => Err(Error::Image(format!("{what} is empty: {width} x {height}"))),
        Some(n) if n <= max_pixels => Ok(()),
        _ => Err(Error::Image(format!("{what} has {width} x {height} pixels, more than the limit of {max_pixels}; make it smaller first"))),
    }
}

/// 1 to 4 channels of 8 bits to three.
fn rgb(width: usize, height: usize, data: Vec<u8>, channels: usize) -> Result<RgbImage> {
    if data.len() != width * height * channels {
        return Err(damaged(format!("{} bytes for {width} x {height} x {channels}", data.len())));
    }
    let data = match channels {
        3 => data,
        4 => data.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        1 | 2 => data.chunks_exact(channels).flat_map(|p| [p[0]; 3]).collect(),
        n => return Err(damaged(format!("{n} channels"))),
    };
    Ok(RgbImage { width, height, data })
}

/// The largest side that decoders accept; the area is checked by us.
const MAX_SIDE: usize = 1 << 20;

fn png(bytes: &[u8], max_pixels: usize) -> Result<(RgbImage, u8)> {
    let options = DecoderOptions::default().set_max_width(MAX_SIDE).set_max_height(MAX_SIDE).png_set_strip_to_8bit(true);
    let mut decoder = PngDecoder::new_with_options(ZCursor::new(bytes), options.png_set_decode_animated(false));
    decoder.decode_headers().map_err(damaged)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("no header"))?;
    check_size(width, height, max_pixels, "the PNG image")?;
    let orientation = decoder.info().and_then(|info| info.exif.as_deref()).map_or(1, orientation);
    let data = decoder.decode_raw().map_err(damaged)?;
    let channels = data.len() / (width * height);
    Ok((rgb(width, height, data, channels)?, orientation))
}

fn jpeg(bytes: &[u8], max_pixels: usize) -> Result<(RgbImage, u8)> {
    let options = DecoderOptions::default().set_max_width(MAX_SIDE).set_max_height(MAX_SIDE).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(damaged)?;
    let info = decoder.info().ok_or_else(|| damaged("no header"))?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    check_size(width, height, max_pixels, "the JPEG image")?;
    let orientation = decoder.exif().map_or(1, |exif| orientation(exif));
    let data = decoder.decode().map_err(damaged)?;
    let channels = data.len() / (width * height);
    Ok((rgb(width, height, data, channels)?, orientation))
}

fn webp(bytes: &[u8], max_pixels: usize) -> Result<(RgbImage, u8)> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height, max_pixels, "the WebP image")?;
    decoder.set_memory_limit(max_pixels.saturating_mul(16));
    let orientation = decoder.exif_metadata().ok().flatten().map_or(1, |exif| orientation(&exif));
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut data = vec![0; width * height * channels];
    decoder.read_image(&mut data).map_err(damaged)?;
    Ok((rgb(width, height, data, channels)?, orientation))
}

/// Tag 0x0112 of the first directory (EXIF 2.32, section 4.6.4; TIFF 6.0, section 2). 1, upright, where there is none.
fn orientation(exif: &[u8]) -> u8 {
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    find_orientation(exif).filter(|o| (1..=8).contains(o)).map_or(1, |o| o as u8)
}

fn find_orientation(exif: &[u8]) -> Option<u16> {
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

//! Image files to pixels: PNG, JPEG and WebP, recognised by their first bytes.
//!
//! Colours are taken as they are, transparency is dropped, as Pillow's `convert("RGB")` does; the orientation that cameras note in EXIF is
//! applied. Of an animation the first frame counts. A few kilobytes can promise billions of pixels, so files are walked and sizes checked
//! before a decoder sees them (`container`).

use crate::{Error, Result, container, exif};
use image_webp::WebPDecoder;
use std::io::{Cursor, Read};
use std::path::Path;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_png::PngDecoder;

/// Pixels of the largest image that is accepted: that of Pillow. While it is decoded an image takes up to eight bytes a pixel, 720 MB.
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
            _ => return Err(unknown(bytes)),
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

pub(crate) fn damaged(reason: impl std::fmt::Debug) -> Error {
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
fn rgb(width: usize, height: usize, mut data: Vec<u8>, channels: usize) -> Result<RgbImage> {
    if data.len() != width * height * channels {
        return Err(damaged(format!("{} bytes for {width} x {height} x {channels}", data.len())));
    }
    match channels {
        3 => {}
        4 => {
            // In place: every pixel moves towards the front.
            for i in 1..width * height {
                data.copy_within(4 * i..4 * i + 3, 3 * i);
            }
            data.truncate(3 * width * height);
        }
        1 | 2 => {
            let mut wide = Vec::with_capacity(3 * width * height);
            data.chunks_exact(channels).for_each(|p| wide.extend_from_slice(&[p[0]; 3]));
            data = wide;
        }
        n => return Err(damaged(format!("{n} channels"))),
    }
    Ok(RgbImage { width, height, data })
}

/// The largest side that decoders accept; the area is checked by us.
const MAX_SIDE: usize = 1 << 20;

fn png(bytes: &[u8], max_pixels: usize) -> Result<(RgbImage, u8)> {
    let container::Png { width, height, orientation, essential } = container::png(bytes, max_pixels)?;
    let options = DecoderOptions::default().set_max_width(MAX_SIDE).set_max_height(MAX_SIDE).png_set_strip_to_8bit(true);
    let mut decoder = PngDecoder::new_with_options(ZCursor::new(essential.as_slice()), options.png_set_decode_animated(false));
    let data = decoder.decode_raw().map_err(damaged)?;
    let channels = data.len() / (width * height);
    Ok((rgb(width, height, data, channels)?, orientation))
}

fn jpeg(bytes: &[u8], max_pixels: usize) -> Result<(RgbImage, u8)> {
    let (width, height) = container::jpeg(bytes, max_pixels)?;
    let options = DecoderOptions::default().set_max_width(MAX_SIDE).set_max_height(MAX_SIDE).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(damaged)?;
    let info = decoder.info().ok_or_else(|| damaged("no header"))?;
    if (usize::from(info.width), usize::from(info.height)) != (width, height) {
        return Err(damaged("it announces two sizes"));
    }
    let orientation = decoder.exif().map_or(1, |exif| exif::orientation(exif));
    let data = decoder.decode().map_err(damaged)?;
    let channels = data.len() / (width * height);
    Ok((rgb(width, height, data, channels)?, orientation))
}

fn webp(bytes: &[u8], max_pixels: usize) -> Result<(RgbImage, u8)> {
    container::webp(bytes, max_pixels)?;
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height, max_pixels, "the WebP image")?;
    decoder.set_memory_limit(max_pixels.saturating_mul(16));
    let orientation = decoder.exif_metadata().ok().flatten().map_or(1, |exif| exif::orientation(&exif));
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut data = vec![0; width * height * channels];
    decoder.read_image(&mut data).map_err(damaged)?;
    Ok((rgb(width, height, data, channels)?, orientation))
}

/// What a file that cannot be read seems to be, by its first bytes.
fn unknown(bytes: &[u8]) -> Error {
    let text = String::from_utf8_lossy(bytes.get(..64).unwrap_or(bytes)).trim_start().to_lowercase();
    let kind = match bytes {
        [] => return Error::Image("the file is empty; expected a PNG, JPEG or WebP file".into()),
        [b'G', b'I', b'F', b'8', ..] => "a GIF file",
        [b'B', b'M', ..] => "a BMP file",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "a TIFF file",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "a HEIC, AVIF or video file",
        [b'%', b'P', b'D', b'F', ..] => "a PDF file",
        _ if text.starts_with("<svg") || text.starts_with("<?xml") => "an SVG or XML file",
        _ if text.starts_with('<') => "a web page",
        [0x89, b'P', ..] | [0xFF, 0xD8, ..] | [b'R', b'I', b'F', b'F', ..] => "the beginning of an image file that is damaged there",
        _ => "not an image that is known here",
    };
    Error::Image(format!("not a PNG, JPEG or WebP file but {kind}; convert it to one of these"))
}

//! From `image_url` parts to images for the engine: `data:` URLs, and `http:` URLs of hosts that were allowed.
//!
//! Everything here comes from outside. The number of images, the bytes of each and its pixels are bounded, the bounds are checked before
//! memory is taken, and only a few images are decoded or fetched at the same time, whoever asks.

use crate::api::messages::ImageSource;
use crate::error::ApiError;
use crate::fetch::{AllowedHost, fetch};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use llm_infer::{Image, ImageReader, Vision};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Largest image in pixels, more than an 8K screen: 0.4 GB while it is decoded, padded to a square and resized.
pub const MAX_PIXELS: usize = 40_000_000;
/// Images decoded at the same time.
const DECODING: usize = 2;
/// Images fetched at the same time.
const FETCHING: usize = 8;

/// Bounds of what a request may bring.
#[derive(Debug, Clone)]
pub struct ImageLimits {
    /// Bytes of one file.
    pub max_bytes: usize,
    /// Images of one request.
    pub max_images: usize,
    /// Hosts that images are fetched from; none by default.
    pub allowed_hosts: Vec<AllowedHost>,
    /// Time that one of them has.
    pub fetch_timeout: Duration,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_bytes: 8 << 20, max_images: 4, allowed_hosts: Vec::new(), fetch_timeout: Duration::from_secs(10) }
    }
}

impl ImageLimits {
    /// What the images of one request take in its body, in base64.
    pub fn body_bytes(&self) -> usize {
        self.max_bytes.div_ceil(3).saturating_mul(4).saturating_mul(self.max_images)
    }
}

/// What the handlers know of a model's eyes. It has no weights.
#[derive(Debug, Clone)]
pub struct Eyes {
    /// Files to images.
    pub reader: ImageReader,
    /// The placeholder.
    pub image_token_id: u32,
    /// Tokens of an image.
    pub tokens_per_image: usize,
}

impl Eyes {
    /// Of a model.
    pub fn of(vision: &Vision) -> Self {
        Self { reader: vision.reader(), image_token_id: vision.image_token_id(), tokens_per_image: vision.tokens_per_image() }
    }
}

/// Loads the images of all requests.
#[derive(Debug)]
pub struct ImageLoader {
    limits: ImageLimits,
    decoding: Arc<Semaphore>,
    fetching: Arc<Semaphore>,
}

impl Default for ImageLoader {
    fn default() -> Self {
        Self::new(ImageLimits::default())
    }
}

enum File {
    /// From a `data:` URL, with the type it claims to be.
    Encoded { kind: &'static str, base64: String },
    /// From a host.
    Bytes(Vec<u8>),
}

impl ImageLoader {
    /// With these bounds.
    pub fn new(limits: ImageLimits) -> Self {
        Self { limits, decoding: Arc::new(Semaphore::new(DECODING)), fetching: Arc::new(Semaphore::new(FETCHING)) }
    }

    /// An error before anything is decoded if these images cannot be taken at all.
    pub fn check(&self, eyes: Option<&Eyes>, sources: &[&ImageSource]) -> Result<(), ApiError> {
        let Some(first) = sources.first() else { return Ok(()) };
        if eyes.is_none() {
            return Err(ApiError::unsupported(&first.param, "this model reads text only; it cannot take images"));
        }
        match sources.get(self.limits.max_images) {
            Some(extra) => {
                let message = format!("the request has {} images; this server takes at most {}", sources.len(), self.limits.max_images);
                Err(ApiError::invalid(&extra.param, message))
            }
            None => Ok(()),
        }
    }

    /// Fetch and decode, one after the other.
    pub async fn load(&self, eyes: Option<&Eyes>, sources: Vec<ImageSource>) -> Result<Vec<Image>, ApiError> {
        let Some(eyes) = eyes else { return Ok(Vec::new()) };
        let mut images = Vec::with_capacity(sources.len());
        for ImageSource { url, param, .. } in sources {
            let file = match data_url(url).map_err(|e| e.at(&param))? {
                Ok(file) => file,
                Err(url) => File::Bytes(self.fetch(url).await.map_err(|e| e.at(&param))?),
            };
            images.push(self.decode(eyes, file).await.map_err(|e| e.at(&param))?);
        }
        Ok(images)
    }

    async fn fetch(&self, url: String) -> Result<Vec<u8>, Refusal> {
        let busy = || Refusal { code: "invalid_image_url", message: "the image could not be fetched".into() };
        let permit = Arc::clone(&self.fetching).acquire_owned().await.map_err(|_| busy())?;
        let limits = self.limits.clone();
        let fetched = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            fetch(&url, &limits.allowed_hosts, limits.max_bytes, limits.fetch_timeout)
        });
        // A resolver has its own idea of time; the thread goes on for a while, the client does not wait for it.
        let fetched = tokio::time::timeout(self.limits.fetch_timeout * 2, fetched).await.map_err(|_| busy())?;
        fetched.map_err(|_| busy())?.map_err(|message| Refusal { code: "invalid_image_url", message })
    }

    async fn decode(&self, eyes: &Eyes, file: File) -> Result<Image, Refusal> {
        let gone = || Refusal { code: "invalid_image", message: "the image could not be decoded".into() };
        let permit = Arc::clone(&self.decoding).acquire_owned().await.map_err(|_| gone())?;
        let (reader, max_bytes) = (eyes.reader.clone(), self.limits.max_bytes);
        let decoded = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let bytes = match file {
                File::Bytes(bytes) => bytes,
                File::Encoded { kind, base64 } => decode_base64(kind, &base64, max_bytes)?,
            };
            reader.read(&bytes, MAX_PIXELS).map_err(|e| Refusal { code: "invalid_image", message: e.to_string() })
        });
        decoded.await.map_err(|_| gone())?
    }
}

/// Why an image is not taken.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: &'static str,
    message: String,
}

impl Refusal {
    fn at(self, param: &str) -> ApiError {
        ApiError::invalid(param, self.message).with_code(self.code)
    }
}

/// `data:image/png;base64,...` (RFC 2397), or the URL back if it is none.
fn data_url(url: String) -> Result<Result<File, String>, Refusal> {
    let refused = |message: String| Refusal { code: "invalid_image_url", message };
    if !url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
        return Ok(Err(url));
    }
    let comma = url.find(',').ok_or_else(|| refused("a data: URL needs a comma before its data: data:image/png;base64,...".into()))?;
    let head = url[5..comma].to_ascii_lowercase();
    let mut words = head.split(';').map(str::trim);
    let kind = match words.next().unwrap_or_default() {
        "image/png" => "PNG",
        "image/jpeg" | "image/jpg" => "JPEG",
        "image/webp" => "WebP",
        other => {
            let other: String = other.chars().take(80).collect();
            return Err(refused(format!("a data: URL of type '{other}' is not supported; expected image/png, image/jpeg or image/webp")));
        }
    };
    if words.next_back() != Some("base64") {
        return Err(refused("a data: URL must say that its data are base64: data:image/png;base64,...".into()));
    }
    let mut base64 = url;
    base64.drain(..=comma);
    Ok(Ok(File::Encoded { kind, base64 }))
}

/// Browsers ignore blanks and a missing `=` (WHATWG Infra, forgiving-base64), so do we.
fn decode_base64(kind: &str, base64: &str, max_bytes: usize) -> Result<Vec<u8>, Refusal> {
    const FORGIVING: GeneralPurpose = {
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        GeneralPurpose::new(&STANDARD, config)
    };
    let too_large = || Refusal { code: "image_too_large", message: format!("the image is larger than {max_bytes} bytes, the limit of this server") };
    let blanks = base64.bytes().filter(u8::is_ascii_whitespace).count();
    if (base64.len() - blanks) / 4 > max_bytes.div_ceil(3) {
        return Err(too_large());
    }
    let stripped: String;
    let base64 = if blanks > 0 {
        stripped = base64.split_ascii_whitespace().collect();
        &stripped
    } else {
        base64
    };
    let bytes =
        FORGIVING.decode(base64).map_err(|e| Refusal { code: "invalid_base64_image", message: format!("the image is not valid base64: {e}") })?;
    if bytes.len() > max_bytes {
        return Err(too_large());
    }
    match found(&bytes) {
        Some(other) if other != kind => {
            Err(Refusal { code: "invalid_image", message: format!("the data: URL says {kind}, but the image is a {other} file; correct its type") })
        }
        _ => Ok(bytes),
    }
}

/// What the first bytes say; the decoder has words for anything else.
fn found(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("PNG"),
        [0xFF, 0xD8, 0xFF, ..] => Some("JPEG"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("WebP"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(url: &str, max_bytes: usize) -> Result<Vec<u8>, String> {
        let refused = |r: Refusal| format!("{}: {}", r.code, r.message);
        match data_url(url.to_string()).map_err(refused)? {
            Ok(File::Encoded { kind, base64 }) => decode_base64(kind, &base64, max_bytes).map_err(refused),
            Ok(File::Bytes(_)) => Err("bytes without a fetch".into()),
            Err(url) => Err(format!("not data: {url}")),
        }
    }

    #[test]
    fn data_urls_are_read_as_browsers_do() {
        for url in ["data:image/png;base64,iVBORw==", "DATA:Image/PNG;charset=x;BASE64,iVBORw", "data:image/png;base64,iVB\nORw =="] {
            assert_eq!(decoded(url, 100).unwrap(), b"\x89PNG", "{url}");
        }
        for (url, says) in [
            ("data:image/png;base64", "comma"),
            ("data:image/png,abc", "base64"),
            ("data:text/html;base64,iVBORw==", "text/html"),
            ("data:,x", "''"),
            ("data:image/jpeg;base64,iVBORw==", "is a PNG file"),
            ("data:image/png;base64,iVB*Rw==", "invalid_base64_image"),
            ("data:image/png;base64,iVBOR", "invalid_base64_image"),
            ("data:image/png;base64,iVBORwAA", "image_too_large"),
            ("http://x", "not data"),
        ] {
            let message = decoded(url, 4).unwrap_err();
            assert!(message.contains(says), "{url}: {message}");
        }
    }
}

//! Image files that lie, are cut, or are no images. If one of these fails, a stranger's file ends the process, fills the memory, or is
//! refused without a reason.

use llm_vision::decode::MAX_PIXELS;
use llm_vision::{ImageProcessor, RgbImage};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

fn message(bytes: &[u8]) -> String {
    RgbImage::decode(bytes).unwrap_err().to_string()
}

fn says(bytes: &[u8], parts: &[&str]) {
    let message = message(bytes);
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

/// PNG's checksum (specification, annex D), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &b| (0..8).fold(crc ^ u32::from(b), step))
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind.as_slice(), data].concat();
    [&(data.len() as u32).to_be_bytes(), body.as_slice(), &crc32(&body).to_be_bytes()].concat()
}

fn header(width: u32, height: u32, colour: u8) -> Vec<u8> {
    chunk(b"IHDR", &[&width.to_be_bytes(), &height.to_be_bytes(), &[8, colour, 0, 0, 0][..]].concat())
}

fn png(chunks: &[Vec<u8>]) -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n".as_slice(), &chunks.concat(), &chunk(b"IEND", &[])].concat()
}

/// Zeros, `1 + 258 * n` of them, packed as hard as deflate can: 13 bits for 258 (RFC 1951, fixed codes; RFC 1950 around it).
fn zeros(n: usize) -> Vec<u8> {
    let (mut out, mut word, mut bits) = (vec![0x78, 0x01], 0u32, 0);
    let mut put = |value: u32, count: u32| {
        word |= value << bits;
        bits += count;
        while bits >= 8 {
            out.push(word as u8);
            word >>= 8;
            bits -= 8;
        }
    };
    // Last block, fixed codes; the literal 0; then length 258 at distance 1; end. Codes are written from their highest bit.
    put(0b011, 3);
    put(0b0000_1100, 8);
    (0..n).for_each(|_| put(0b1010_0011, 13));
    put(0, 7);
    put(0, 7);
    // Adler-32 of zeros: the sums are 1 and their number.
    let count = ((1 + 258 * n) % 65_521) as u32;
    [out, (count << 16 | 1).to_be_bytes().to_vec()].concat()
}

#[test]
fn sizes_are_checked_before_anything_is_decoded() {
    let started = Instant::now();
    let huge = 60_000u16;
    says(&png(&[header(huge.into(), huge.into(), 2), chunk(b"IDAT", &zeros(10))]), &["60000 x 60000", "limit of 89478485"]);
    says(&png(&[header(u32::MAX, u32::MAX, 6), chunk(b"IDAT", &zeros(10))]), &["4294967295 x 4294967295", "limit"]);
    says(&png(&[header(0, 7, 2), chunk(b"IDAT", &zeros(10))]), &["empty: 0 x 7"]);

    let mut jpeg = bytes("files/progressive.jpg");
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC2]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&huge.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&huge.to_be_bytes());
    says(&jpeg, &["60000 x 60000", "limit"]);
    // No frame, and a second one that says more than the first.
    says(&[0xFF, 0xD8, 0xFF, 0xD9], &["no frame header"]);
    let grey = bytes("files/grey.jpg");
    let second = [&[0xFF, 0xC0, 0, 11, 8], &huge.to_be_bytes()[..], &huge.to_be_bytes()[..], &[1, 1, 0x11, 0]].concat();
    says(&[&grey[..grey.len() - 2], &second, &[0xFF, 0xD9]].concat(), &["60000 x 60000"]);

    // WebP cannot say 60000 in a frame, but on its canvas; and a frame of 16383 under a small canvas.
    let riff = |chunks: &[u8]| [b"RIFF".as_slice(), &(chunks.len() as u32 + 4).to_le_bytes(), b"WEBP", chunks].concat();
    let piece = |kind: &[u8; 4], data: &[u8]| [kind.as_slice(), &(data.len() as u32).to_le_bytes(), data].concat();
    let canvas = |side: u32| piece(b"VP8X", &[&[0, 0, 0, 0], &(side - 1).to_le_bytes()[..3], &(side - 1).to_le_bytes()[..3]].concat());
    let lossy = piece(b"VP8 ", &[0x10, 0, 0, 0x9D, 0x01, 0x2A, 0xFF, 0x3F, 0xFF, 0x3F, 0, 0]);
    let lossless = piece(b"VP8L", &[0x2F, 0xFF, 0xFF, 0xFF, 0x0F, 0]);
    says(&riff(&[canvas(60_000), lossy.clone()].concat()), &["60000 x 60000", "limit"]);
    says(&riff(&lossy), &["16383 x 16383", "limit"]);
    says(&riff(&lossless), &["16384 x 16384", "limit"]);
    says(&riff(&[canvas(8), lossy.clone()].concat()), &["16383 x 16383", "limit"]);
    let frame = piece(b"ANMF", &[&[0; 16], lossless.as_slice()].concat());
    says(&riff(&[canvas(8), piece(b"ANIM", &[0; 6]), frame].concat()), &["16384 x 16384"]);
    says(&riff(&piece(b"ANMF", &[0xFF; 12])), &["a frame of the WebP image"]);
    says(&riff(&[]), &["WebP"].map(|_| "damaged"));

    // The limit is the caller's.
    let message = RgbImage::decode_limited(&bytes("files/rgb.png"), 100).unwrap_err().to_string();
    assert!(message.contains("36 x 24") && message.contains("limit of 100"), "{message}");
    // 16 bits a channel: half as many pixels.
    let deep = RgbImage::decode_limited(&bytes("formats/rgba16.png"), 19 * 13).unwrap_err().to_string();
    assert!(deep.contains("takes 1976 bytes, more than the limit of 988"), "{deep}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// A line that becomes a gigapixel when resized or padded.
#[test]
fn resizing_has_a_limit() {
    let line = RgbImage { width: 1_000_000, height: 1, data: vec![0; 3_000_000] };
    for json in [serde_json::json!({}), serde_json::json!({"image_aspect_ratio": "pad"})] {
        let message = ImageProcessor::from_json(&json).unwrap().resized(&line).unwrap_err().to_string();
        assert!(message.contains("limit"), "{message}");
    }
}

#[cfg(target_os = "linux")]
fn peak_kilobytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Texts and profiles that unpack to gigabytes, pixel data that unpacks to more than was announced, sizes without data, hundreds of passes.
#[test]
#[cfg(target_os = "linux")]
fn bombs_neither_fill_the_memory_nor_take_minutes() {
    let bomb = zeros(800_000);
    assert!(bomb.len() < 1_400_000 && 258 * 800_000 > 200_000_000);
    // The packing itself is sound: a black line.
    let line = RgbImage::decode(&png(&[header(860, 1, 2), chunk(b"IDAT", &zeros(10))])).unwrap();
    assert_eq!(line, RgbImage { width: 860, height: 1, data: vec![0; 3 * 860] });
    let named = |kind: &[u8; 4]| chunk(kind, &[b"name\0\0".as_slice(), &bomb].concat());
    let good = bytes("files/rgb.png");
    let ends_header = 8 + 12 + 13;
    let texts: Vec<u8> = std::iter::repeat_n(named(b"zTXt"), 6).flatten().collect();
    let with_texts = [&good[..ends_header], &named(b"iCCP"), &texts, &good[ends_header..]].concat();
    let small = png(&[header(64, 64, 2), chunk(b"IDAT", &bomb)]);
    let empty = png(&[header(9000, 9000, 2), chunk(b"IDAT", &zeros(2))]);
    // A progressive file of 81 megapixels whose scans hold next to nothing.
    let progressive = bytes("files/progressive.jpg");
    let at = |from: usize, mark: [u8; 2]| from + progressive[from..].windows(2).position(|w| w == mark).unwrap();
    let (frame, scan) = (at(0, [0xFF, 0xC2]), at(0, [0xFF, 0xDA]));
    let scan_end = scan + 2 + usize::from(progressive[scan + 3]);
    let mut long = progressive[..scan].to_vec();
    long[frame + 5..frame + 7].copy_from_slice(&9000u16.to_be_bytes());
    long[frame + 7..frame + 9].copy_from_slice(&9000u16.to_be_bytes());
    long.extend(std::iter::repeat_n(&progressive[scan..scan_end + 1], 90).flatten());
    long.extend([0xFF, 0xD9]);

    let (before, started) = (peak_kilobytes(), Instant::now());
    assert_eq!(RgbImage::decode(&with_texts).unwrap(), RgbImage::decode(&good).unwrap());
    says(&small, &["damaged"]);
    says(&empty, &["damaged"]);
    says(&long, &["9000 x 9000", "90 passes"]);
    let (grown, took) = (peak_kilobytes() - before, started.elapsed());
    println!("{grown} kB, {took:?}");
    assert!(grown < 150_000, "{grown} kB");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn what_is_no_image_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let kinds: [(&str, &[u8], &str); 9] = [
        ("empty.png", b"", "the file is empty"),
        ("text.jpg", b"hello, world", "not an image that is known"),
        ("a.gif", b"GIF89a....", "a GIF file"),
        ("a.bmp", b"BM....", "a BMP file"),
        ("a.tiff", b"II*\0....", "a TIFF file"),
        ("a.heic", b"\0\0\0\x18ftypheic", "HEIC, AVIF"),
        ("a.svg", b"<svg xmlns=", "an SVG"),
        ("a.html", b"<!DOCTYPE html><html>", "a web page"),
        ("a.pdf", b"%PDF-1.7", "a PDF file"),
    ];
    for (name, content, part) in kinds {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let message = RgbImage::open(&path).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains(name), "{message}");
    }
    let message = RgbImage::open(dir.path().join("none.png")).unwrap_err().to_string();
    assert!(message.contains("none.png") && message.contains("cannot read"), "{message}");
    assert!(RgbImage::open(dir.path()).is_err());
    // The content counts, not the name.
    let wrong = dir.path().join("photo.jpg");
    std::fs::copy(fixture("files/rgb.png"), &wrong).unwrap();
    assert_eq!(RgbImage::open(&wrong).unwrap(), RgbImage::open(fixture("files/rgb.png")).unwrap());
    // What is wrong inside a file is told with its name.
    std::fs::write(&wrong, &bytes("files/rgb.png")[..500]).unwrap();
    let message = RgbImage::open(&wrong).unwrap_err().to_string();
    assert!(message.contains("photo.jpg") && message.contains("truncated"), "{message}");
}

const FILES: [&str; 12] = [
    "files/rgb.png",
    "files/palette.png",
    "files/orientation5.png",
    "files/orientation6.jpg",
    "files/progressive.jpg",
    "files/cmyk.jpg",
    "files/alpha.webp",
    "files/lossy.webp",
    "files/orientation3.webp",
    "formats/interlaced.png",
    "formats/animated.webp",
    "formats/animated.png",
];

/// As Pillow does it: half a picture is no picture. (Pillow alone is content with a PNG without its end mark.)
#[test]
fn a_cut_file_is_an_error_wherever_it_is_cut() {
    for name in FILES {
        let bytes = bytes(name);
        assert!(RgbImage::decode(&bytes).is_ok(), "{name}");
        for cut in (0..bytes.len()).filter(|c| c % 5 == 0 || c + 40 > bytes.len()) {
            assert!(RgbImage::decode(&bytes[..cut]).is_err(), "{name}, {cut} of {} bytes", bytes.len());
        }
    }
}

/// The eight orientations in all three kinds of files.
#[test]
fn orientations_of_png_and_webp() {
    let upright = |name: &str| RgbImage::open(fixture(name)).unwrap();
    for o in 1..=8u8 {
        for exif in [
            vec![b'M', b'M', 0, 42, 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, o, 0, 0],
            vec![b'I', b'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 0x01, 3, 0, 1, 0, 0, 0, o, 0, 0, 0],
        ] {
            let png = bytes("files/rgb.png");
            let end = png.len() - 12;
            // Before and after the pixels.
            for at in [33, end] {
                let file = [&png[..at], &chunk(b"eXIf", &exif), &png[at..]].concat();
                assert_eq!(RgbImage::decode(&file).unwrap(), upright("files/rgb.png").oriented(o), "PNG, {o}");
            }
            // A simple WebP file, put into the extended container.
            let webp = bytes("formats/lossless.webp");
            let image = upright("formats/lossless.webp");
            let side = |n: usize| (n as u32 - 1).to_le_bytes()[..3].to_vec();
            let extended = [&[8, 0, 0, 0][..], &side(image.width), &side(image.height)].concat();
            let mut note = [b"EXIF".as_slice(), &(exif.len() as u32).to_le_bytes(), &exif].concat();
            note.resize(note.len().next_multiple_of(2), 0);
            let chunks = [b"VP8X".as_slice(), &10u32.to_le_bytes(), &extended, &webp[12..], &note].concat();
            let file = [b"RIFF".as_slice(), &(chunks.len() as u32 + 4).to_le_bytes(), b"WEBP", &chunks].concat();
            assert_eq!(RgbImage::decode(&file).unwrap(), image.oriented(o), "WebP, {o}");
        }
    }
    // JPEG: Pillow's own files, all of the same picture.
    let picture = upright("files/orientation1.jpg");
    for o in 2..=8u8 {
        let turned = upright(&format!("files/orientation{o}.jpg"));
        let sides = if o < 5 { (picture.width, picture.height) } else { (picture.height, picture.width) };
        assert_eq!((turned.width, turned.height), sides, "JPEG, {o}");
    }
}

#[derive(Debug, Clone)]
enum Damage {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, prop::sample::Index),
    Remove(prop::sample::Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(a, b)| Damage::Set(a, b)),
        1 => at().prop_map(Damage::Cut),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(a, b)| Damage::Insert(a, b)),
        1 => (at(), at()).prop_map(|(a, b)| Damage::Repeat(a, b)),
        1 => (at(), any::<u8>()).prop_map(|(a, n)| Damage::Remove(a, n)),
    ]
}

fn apply(mut bytes: Vec<u8>, damages: Vec<Damage>) -> Vec<u8> {
    for damage in damages.into_iter() {
        if bytes.is_empty() {
            break;
        }
        let n = bytes.len();
        match damage {
            Damage::Set(at, value) => bytes[at.index(n)] = value,
            Damage::Cut(at) => bytes.truncate(at.index(n)),
            Damage::Insert(at, piece) => drop(bytes.splice(at.index(n)..at.index(n), piece)),
            Damage::Repeat(a, b) => {
                let (a, b) = (a.index(n).min(b.index(n)), a.index(n).max(b.index(n)));
                let piece = bytes[a..b].to_vec();
                drop(bytes.splice(b..b, piece));
            }
            Damage::Remove(at, count) => drop(bytes.drain(at.index(n)..(at.index(n) + usize::from(count)).min(n))),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to a file, it is an image of at most so many pixels or an error that says something.
    #[test]
    fn damaged_files_are_images_or_errors(name in prop::sample::select(FILES.to_vec()), damages in prop::collection::vec(damage(), 1..6), repair in any::<bool>()) {
        let mut damaged = apply(bytes(name), damages);
        if repair {
            repair_checksums(&mut damaged);
        }
        let limit = 1 << 20;
        match RgbImage::decode_limited(&damaged, limit) {
            Ok(image) => {
                prop_assert!(image.width * image.height <= limit.min(MAX_PIXELS));
                prop_assert_eq!(image.data.len(), image.width * image.height * 3);
            }
            Err(e) => prop_assert!(e.to_string().len() > 20, "{}", e),
        }
    }

    #[test]
    fn noise_behind_a_signature_is_an_error(kind in 0..3usize, noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let start: &[u8] = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10".as_slice(), &[0xFF, 0xD8, 0xFF], b"RIFF\xFF\0\0\0WEBPVP8 "][kind];
        prop_assert!(RgbImage::decode_limited(&[start, &noise].concat(), 1 << 20).is_err());
    }
}

/// Damage behind checksums is not found by them.
fn repair_checksums(png: &mut [u8]) {
    let mut at = 8;
    while png.starts_with(b"\x89PNG") && at + 12 <= png.len() {
        let length = u32::from_be_bytes([png[at], png[at + 1], png[at + 2], png[at + 3]]) as usize;
        let Some(end) = at.checked_add(12 + length).filter(|end| *end <= png.len()) else { return };
        let crc = crc32(&png[at + 4..end - 4]);
        png[end - 4..end].copy_from_slice(&crc.to_be_bytes());
        at = end;
    }
}

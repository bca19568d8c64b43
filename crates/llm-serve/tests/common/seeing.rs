//! A small model that sees: the LLaVA fixture with a vocabulary of the words `w0` to `w119` and `<image>`, and image files for it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const TEMPLATE: &str = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
    {% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}";

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// A folder as published ones are.
pub fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "generation_config.json"] {
        std::fs::copy(fixtures().join("vision/llava15").join(file), dir.path().join(file)).unwrap();
    }
    let write = |name: &str, value: Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    let vocab: serde_json::Map<String, Value> = (0..120).map(|i| (format!("w{i}"), json!(i))).collect();
    let image =
        json!({"id": 120, "content": "<image>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    write(
        "tokenizer.json",
        json!({
            "version": "1.0", "added_tokens": [image], "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
        }),
    );
    write("tokenizer_config.json", json!({"chat_template": TEMPLATE}));
    write("preprocessor_config.json", json!({"image_processor_type": "CLIPImageProcessor", "size": 28, "crop_size": 28}));
    dir
}

pub fn file(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join("images").join(name)).unwrap()
}

pub fn data_url(kind: &str, bytes: &[u8]) -> String {
    format!("data:image/{kind};base64,{}", STANDARD.encode(bytes))
}

pub fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

pub fn image(url: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": url, "detail": "auto"}})
}

pub fn ask(parts: Value) -> Value {
    json!({"messages": [{"role": "user", "content": parts}], "max_tokens": 12, "temperature": 0})
}

/// A PNG of these dimensions whose data, once inflated, are `inflated` zero bytes, whatever the dimensions say.
pub fn png(width: u32, height: u32, inflated: usize) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), inflated as u64), &mut encoder).unwrap();
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, data) in [(b"IHDR", header), (b"IDAT", encoder.finish().unwrap()), (b"IEND", vec![])] {
        let body = [&name[..], &data].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&body);
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(body);
        png.extend(crc.sum().to_be_bytes());
    }
    png
}

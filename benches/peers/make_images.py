#!/usr/bin/env python3
"""Writes fixtures/images/formats: kinds of image files that Pillow reads, and expected_u8.safetensors with the pixels it finds.

    python make_images.py [--out fixtures/images/formats]

Made with Pillow 13.0.0, whose `Image.open(...).convert("RGB")` is the reference. Pillow does not write interlaced PNG, 16-bit colour or
colours marked as transparent; those are written here.
"""

import argparse
import pathlib
import struct
import zlib

import numpy
from PIL import Image
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2] / "fixtures/images/formats"
# Adam7: first column and row, steps (PNG specification, section 8.2).
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(pixels, colour, interlaced=False, chunks=()):
    """Rows of channels, without filters. 16 bits where the array says so."""
    height, width = pixels.shape[:2]
    wide = pixels.astype(">u2") if pixels.dtype == numpy.uint16 else pixels
    parts = [wide[y::dy, x::dx] for x, y, dx, dy in PASSES] if interlaced else [wide]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, colour, 0, 0, int(interlaced))
    body = b"".join(chunk(kind, data) for kind, data in [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + body


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    y, x = numpy.mgrid[0:13, 0:19]
    rgb16 = numpy.stack([x * 3449, y * 5041, (x * y * 277 + 131) % 65536], -1).astype(numpy.uint16)
    rgb = (rgb16 >> 8).astype(numpy.uint8)
    alpha = ((x + y) * 8).astype(numpy.uint8)[..., None]
    files = {
        "rgb16.png": png(rgb16, 2),
        "rgba16.png": png(numpy.concatenate([rgb16, alpha.astype(numpy.uint16) * 257], -1), 6),
        "grey_alpha16.png": png(numpy.concatenate([rgb16[..., :1], alpha.astype(numpy.uint16) * 257], -1), 4),
        "interlaced.png": png(rgb, 2, interlaced=True),
        "interlaced_grey_alpha.png": png(numpy.concatenate([rgb[..., :1], alpha], -1), 4, interlaced=True),
        "transparent_colour.png": png(rgb, 2, chunks=[(b"tRNS", struct.pack(">HHH", *map(int, rgb[3, 4])))]),
        "gamma_and_profile.png": png(rgb, 2, chunks=[(b"gAMA", struct.pack(">I", 100000)), (b"iCCP", b"x\0\0" + zlib.compress(b"no profile" * 50))]),
    }
    for name, data in files.items():
        (out / name).write_bytes(data)
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    frames[0].save(out / "animated.webp", save_all=True, append_images=frames[1:], duration=50, lossless=True)
    frames[0].save(out / "animated.png", save_all=True, append_images=frames[1:], duration=50)
    frames[0].save(out / "lossless.webp", lossless=True)
    frames[0].convert("L").save(out / "grey_progressive.jpg", progressive=True, quality=90)
    frames[0].save(out / "restart.jpg", quality=95, subsampling=0, restart_marker_blocks=1)
    expected = {}
    for path in sorted(out.iterdir()):
        if path.suffix != ".safetensors":
            expected[path.name] = numpy.asarray(Image.open(path).convert("RGB")).copy()
    save_file(expected, out / "expected_u8.safetensors")
    print(f"{len(expected)} files, {sum(f.stat().st_size for f in out.iterdir())} bytes")


if __name__ == "__main__":
    main()

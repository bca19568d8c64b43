#!/usr/bin/env python3
"""Writes fixtures/data/ngram anew: a small model of ours, KenLM's own binary of it, and KenLM's scores.

    pip install kenlm==0.3.0
    python benches/peers/make_ngram_fixtures.py LLM_DATA ALICE.TXT fixtures/data/ngram [BUILD_BINARY]

LLM_DATA is the program, ALICE.TXT a book in the public domain, BUILD_BINARY KenLM's program (without it `alice.kenlm` stays).
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import kenlm


def main() -> None:
    program, book, out = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    text = " ".join(book.read_text(encoding="utf-8").split()).lower()
    lines = [s for s in re.split(r"(?<=[.!?]) ", text) if 30 <= len(s) <= 200][100:400]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "book.txt").write_text("\n".join(lines[:45]) + "\n", encoding="utf-8")
        read = ["read", "--out", f"{folder}/read", "--set", 'sources=["paths"]', "--set", f'paths.include=["{folder}/book.txt"]']
        train = ["train-ngram", "--out", f"{folder}/lm", "--set", f'input="{folder}/read"', "--set", "reference=0.0", "--set", "arpa=true",
                 "--set", "model.order=3", "--set", "units.normalise=false"]
        for command in (read, train):
            subprocess.run([program, *command], check=True, stdout=subprocess.DEVNULL)
        (out / "alice.arpa").write_bytes((folder / "lm/model.arpa").read_bytes())
        ours = kenlm.Model(f"{folder}/lm/model.kenlm")
    theirs = kenlm.Model(str(out / "alice.arpa"))
    asked = lines[::8] + ["", "alice", "zebra zebra alice said the", "the the the the", "<s> alice </s> said"]
    expected = [{"text": t, "log10": theirs.score(t)} for t in asked]
    worst = max(abs(ours.score(t) - theirs.score(t)) for t in asked)
    print(f"{len(asked)} texts; KenLM reading our binary and our ARPA: largest difference {worst:.2e}")
    assert worst < 1e-4
    (out / "expected.json").write_text("[\n" + ",\n".join(map(json.dumps, expected)) + "\n]\n", encoding="utf-8")
    if len(sys.argv) > 4:
        subprocess.run([sys.argv[4], "probing", str(out / "alice.arpa"), str(out / "alice.kenlm")], check=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes fixtures/data/fasttext anew: small models of the reference fastText, trained on free books, and what they answer.

    pip install fasttext-wheel==0.9.2 'numpy<3'
    python benches/peers/make_fasttext_fixtures.py CORPORA fixtures/data/fasttext

CORPORA holds `en/alice_in_wonderland.txt`, `de/kafka_verwandlung.txt` and `es/cervantes_don_quijote.txt` (public domain).
"""

import json
import pathlib
import re
import sys
import tempfile

import fasttext

BOOKS = {"en": "en/alice_in_wonderland.txt", "de": "de/kafka_verwandlung.txt", "es": "es/cervantes_don_quijote.txt"}
# name: (labels per language, arguments of train_supervised, arguments of quantize or None)
MODELS = {
    "softmax_words.bin": (1, dict(dim=10, minCount=8, loss="softmax"), None),
    "softmax_ngrams.bin": (1, dict(dim=6, minCount=10, wordNgrams=2, minn=2, maxn=4, bucket=2000, loss="softmax"), None),
    "hs_ngrams.bin": (4, dict(dim=5, minCount=10, wordNgrams=3, minn=3, maxn=3, bucket=1500, loss="hs"), None),
    "ova.bin": (4, dict(dim=8, minCount=8, wordNgrams=2, bucket=1000, loss="ova"), None),
    "ns.bin": (2, dict(dim=8, minCount=8, loss="ns"), None),
    "softmax.ftz": (1, dict(dim=8, minCount=10, wordNgrams=2, minn=2, maxn=3, bucket=3000, loss="softmax"), dict(qnorm=False, dsub=2)),
    "softmax_qnorm_pruned.ftz": (
        1, dict(dim=9, minCount=2, wordNgrams=2, minn=2, maxn=4, bucket=20000, loss="softmax"), dict(qnorm=True, dsub=2, cutoff=2500)),
    "hs_qnorm_odd.ftz": (4, dict(dim=7, minCount=5, minn=2, maxn=4, bucket=4000, loss="hs"), dict(qnorm=True, dsub=3)),
    "softmax_qout.ftz": (
        90, dict(dim=6, minCount=10, wordNgrams=2, bucket=1000, loss="softmax"), dict(qnorm=True, qout=True, dsub=2, cutoff=600)),
    "words_pruned.ftz": (1, dict(dim=8, minCount=2, loss="ova"), dict(qnorm=True, dsub=2, cutoff=400)),
}


def sentences(path: pathlib.Path) -> list[str]:
    text = " ".join(path.read_text(encoding="utf-8").split())
    return [s for s in re.split(r"(?<=[.!?]) ", text) if 40 <= len(s) <= 250][200:1200]


def main() -> None:
    corpora, out = map(pathlib.Path, sys.argv[1:])
    books = {lang: sentences(corpora / name) for lang, name in BOOKS.items()}
    held = [s for lines in books.values() for s in lines[::100]]
    odd = ["", "  ", "你好 世界", "\u00e9t\u00e9 __label__en déjà </s> after the end", "x" * 300, "the\tthe\x0bthe", "no-break\u00a0space"]
    expected = []
    for name, (parts, arguments, quantise) in MODELS.items():
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            for lang, lines in books.items():
                for i, line in enumerate(lines):
                    if i % 50:
                        label = lang if parts == 1 else f"{lang}{i % parts}"
                        file.write(f"__label__{label} {line}\n")
            file.flush()
            model = fasttext.train_supervised(file.name, epoch=15, lr=0.5, thread=1, verbose=0, **arguments)
            if quantise:
                model.quantize(file.name, verbose=0, **quantise)
        model.save_model(str(out / name))
        # As it is read back: what is saved is the contract.
        model = fasttext.load_model(str(out / name))
        for text in held + odd:
            found = model.f.predict(text + "\n", 5, 0.0, "strict")
            expected.append({"model": name, "text": text, "labels": [l for _, l in found], "probabilities": [round(p, 8) for p, _ in found]})
        print(f"{name}: {(out / name).stat().st_size} bytes, {len(model.labels)} labels, {len(model.words)} words")
    lines = ",\n".join(json.dumps(e, ensure_ascii=False) for e in expected)
    (out / "expected.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()

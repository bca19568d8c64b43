#!/usr/bin/env python3
"""Numbers of datatrove's filters for the tests of llm-data: fixtures/data/filters.json.

    pip install 'datatrove[processing]==0.10.1' spacy
    python make_data_fixtures.py --docs README.md docs/*.md --out fixtures/data/filters.json

The texts are pieces of this repository's own documentation and lines made here to be difficult (contractions, addresses, units, emoticons,
quotation marks, scripts, control characters). For each: what every datatrove filter measures and says. `words` has spaCy's words.
"""

import argparse
import json
import pathlib
import random
import re

import numpy
from data import REASONS, datatrove_filters
from datatrove.data import Document
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate, find_duplicates, find_top_duplicate, get_n_grams
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION, split_into_sentences, split_into_words

NASTY = [
    "Don't you'll we've it's can't cannot shouldn't've o'clock ma'am I'm i'd y'all who're let's",
    "He said: \"(Well...) it's 'fine',\" didn't he?! ...and left. [sic] {x} <y> «z» „a“ ‚b‘ “c”—d–e",
    "Mr. Smith vs. Dr. Jones, Ph.D., of the U.S.A. and U.K., Inc. at 10 a.m. on Jan. 5th; e.g., i.e. etc. Q.E.D.",
    "See https://www.example.org/a?b=c#d, http://10.0.0.1/x and www.example.com. Mail a.b@example.co.uk! 8.8.8.8 192.168.1.1 localhost:80",
    "It costs $5.99, US$10, C$3, €20, 20€, 30% or 5km, 10kg, 3m², 7GB, 20°C. 9+ +49 -3 1-2 3*4 5^6 a+b =x",
    "state-of-the-art well-known--really x—y end.Start a,b c:d e/f g=h <i>j</i> a--b a---b 5-a b-5 co-op. re-",
    ":) :-( ;D <3 :P (: =] o_O ^_^ (^_^) foo:) bar:-/baz ¯\\(ツ)/¯ -_- :'( >.< XD",
    "中文没有空格。日本語です！한국어 문장. Русский текст, и ещё? Ελληνικά; العربية، نص. עברית. हिन्दी। ไทย",
    "a\u00a0b\u2003c\u3000d\u200be\x1cf\x1fg\x85h\u2028i\tj\r\nk",
    "😀😀 ✓ done ™ © 2024 ° § 5 ¶ † ‡ • bullet · dot … …… ... .... ..",
    "C++ C# F# .NET node.js std::vec::Vec<T> fn(x) -> y; x != y && z || !w; #[derive(Debug)] // no",
    "U.S. economy U.N. E.U. A.B.C. x.y.z Foo.Bar foo.Bar foo.bar Foo.bar. 3.14 1,000,000 1.000,50 12:30 a. b.",
    "'Tis 'twas rock'n'roll '90s O'Brien's cats' \"'nested'\" ''double'' ``ticks`` 's 'S ’s ’ll n’t won’t",
    "ÀÉÎ straße Ǆ ǅ ǆ ﬁ ŉ İ ı ſ K Å Ⅷ ⅷ ² ³ ¼ ª º µm µ",
    "gonna wanna gotta dunno lemme c'mon Cause 'cause em 'em ol' nothin' goin nuff w/o and/or",
    "Ill ill its Its well Well were shed id Id im Im dont cant wont thats whats hes shes theyre",
    "[1] [edit] [citation needed] x[12]y [ ] [] [a] lorem ipsum JavaScript privacy policy {",
    "",
    " ",
    "\n\n\n",
    ".",
    "...",
    "word",
    "\x00\x01 control \x7f",
]


def measures(text):
    """Every signal of the filters, by the name llm-data gives it, from datatrove's own functions."""
    m = {"chars": len(text)}
    if text:
        for name, pieces in (("para", re.split(r"\n{2,}", text.strip())), ("line", re.split("\n+", text))):
            n, chars = find_duplicates(pieces)
            m[f"dup_{name}_frac"], m[f"dup_{name}_char_frac"] = n / len(pieces), chars / len(text)
        words = split_into_words(text)
        for n in (2, 3, 4):
            grams = get_n_grams(words, n)
            m[f"top_{n}_gram"] = find_top_duplicate(grams) / len(text) if grams else 0
        for n in range(5, 11):
            m[f"dup_{n}_gram"] = find_all_duplicate(words, n) / len(text)
    words = split_into_words(text)
    plain = [w for w in words if any(c not in PUNCTUATION_SET for c in w)]
    m["words"] = len(plain)
    lines = text.splitlines()
    if plain and lines:
        m["mean_word_chars"] = float(numpy.mean([len(w) for w in plain]))
        m["hash_ratio"] = text.count("#") / len(words)
        m["ellipsis_ratio"] = (text.count("...") + text.count("…")) / len(words)
        m["bullet_lines"] = sum(s.lstrip().startswith(("•", "-")) for s in lines) / len(lines)
        m["ellipsis_lines"] = sum(s.rstrip().endswith(("...", "…")) for s in lines) / len(lines)
        m["alpha_words"] = sum(any(c.isalpha() for c in w) for w in words) / len(words)
        m["stop_words"] = len(set(STOP_WORDS) & set(words))
    lines = [line for line in text.split("\n") if line.strip()]
    f = {"lines": len(lines)}
    if lines:
        f["line_punct"] = sum(line.endswith(tuple(TERMINAL_PUNCTUATION)) for line in lines) / len(lines)
        f["short_lines"] = sum(len(line) <= 30 for line in lines) / len(lines)
        f["dup_line_char_frac"] = find_duplicates(lines)[1] / len(text.replace("\n", ""))
        f["newlines_per_word"] = text.count("\n") / len(words)
    return {"gopher:datatrove": m, "fineweb": f}


def verdict(peer, text):
    document = Document(text=text, id="x")
    try:
        result = peer.filter(document)
    except (ZeroDivisionError, IndexError) as error:  # e.g. no line at all
        return {"fails": type(error).__name__}
    if isinstance(result, tuple):
        return {"keep": result[0], "reason": REASONS.get(result[1], result[1])}
    return {"keep": bool(result)} | ({"text": document.text} if document.text != text else {})


def pieces(paths, rng):
    for path in paths:
        text = path.read_text(encoding="utf-8")
        lines = text.split("\n")
        for _ in range(3):
            start = rng.randrange(max(1, len(lines) - 12))
            yield "\n".join(lines[start : start + rng.randrange(3, 14)])
    # The same lines again, so that repetition has something to find.
    text = paths[0].read_text(encoding="utf-8").split("\n")
    for copies in (1, 2, 3):
        part = [line for line in text if len(line) > 40][:6]
        yield "\n".join(part + part[:copies])
        yield "\n\n".join(part + part[:copies])
        yield "\n".join(part) + "\n" + " ".join(part[0].split()[:9] * copies)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", nargs="+", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    filters = datatrove_filters()
    texts = NASTY + [t[:1200] for t in pieces(args.docs, random.Random(7))]
    rows = []
    for text in texts:
        row = {"text": text, "sentences": len(split_into_sentences(text))} | measures(text)
        row["verdicts"] = {name: verdict(peer, text) for name, peer in filters.items()}
        rows.append(row)
    words = [{"text": t, "words": split_into_words(t)} for t in NASTY]
    text = json.dumps({"datatrove": "0.10.1", "words": words, "documents": rows}, ensure_ascii=False, separators=(",", ":"))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text + "\n", encoding="utf-8")
    print(f"{args.out}: {len(rows)} texts, {len(text.encode())} bytes")


if __name__ == "__main__":
    main()

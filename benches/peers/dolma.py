#!/usr/bin/env python3
"""The profiles gopher:dolma, url:dolma and url of llm-data against Dolma itself: every signal and every verdict.

    pip install dolma==1.2.1 pyarrow==17.0.0
    python dolma.py --llm-data target/debug/llm-data --data ../shared/data/corpora [--out benches/results/dolma.json]

Gopher: the pieces of real texts of data.py, some of them again with a part repeated, and strings made of what is treated oddly (white space, line ends, bullets, ellipses, short
texts). `dolma tag --taggers gopher_v1` tags them and `dolma mix` filters them, once with Gopher's limits and once with those that
the mixers of Dolma 1.5 and 1.6 publish; ours is `llm-data filter` with all signals stored. A signal is the same if both store the
same 32-bit number, or both none.

Addresses: those of the web archives and pages, and variations of them, against lists in all forms that Dolma's taggers read.
The taggers are the classes of taggers/url.py with local lists. An address that Dolma's parser refuses is an error there.
"""

import argparse
import gzip
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version

import data as peers

# This file has the name of the package that it imports.
sys.path.remove(str(pathlib.Path(__file__).resolve().parent))

GRAMS = {f"top_{n}_gram": f"fraction_of_characters_in_most_common_{n}grams" for n in (2, 3, 4)}
GRAMS |= {f"dup_{n}_gram": f"fraction_of_characters_in_duplicate_{n}grams" for n in range(5, 11)}
SIGNALS = {
    "words": "word_count",
    "median_word_chars": "median_word_length",
    "symbol_ratio": "symbol_to_word_ratio",
    "alpha_words": "fraction_of_words_with_alpha_character",
    "stop_words": "required_word_count",
    "bullet_lines": "fraction_of_lines_starting_with_bullet_point",
    "ellipsis_lines": "fraction_of_lines_ending_with_ellipsis",
    "dup_line_frac": "fraction_of_duplicate_lines",
    "dup_line_char_frac": "fraction_of_characters_in_duplicate_lines",
    **GRAMS,
}
LIMITS = {
    "words": (50, 100000), "median_word_chars": (3, 10), "symbol_ratio": (None, 0.1), "alpha_words": (0.8, None), "stop_words": (2, None),
    "bullet_lines": (None, 0.9), "ellipsis_lines": (None, 0.3), "dup_line_frac": (None, 0.3), "dup_line_char_frac": (None, 0.2),
    "top_2_gram": (None, 0.2), "top_3_gram": (None, 0.18), "top_4_gram": (None, 0.16), "dup_5_gram": (None, 0.15), "dup_6_gram": (None, 0.14),
    "dup_7_gram": (None, 0.13), "dup_8_gram": (None, 0.12), "dup_9_gram": (None, 0.11), "dup_10_gram": (None, 0.10),
}  # fmt: skip
# configs/dolma-v1_5/mixing and dolma-v1_6/mixing: all of cc-head, cc-middle, cc-tail, c4.
PUBLISHED = {
    "limits": LIMITS | {"dup_line_char_frac": (None, 0.3)},
    "names": SIGNALS | {k: v[:-1] for k, v in GRAMS.items() if k.startswith("top")},
    "ours": ["gopher:dolma.max_dup_line_char_frac=0.3", *(f"gopher:dolma.max_top_{n}_gram=inf" for n in (2, 3, 4))],
}
EXPERIMENT = "gopher_rules"


def stored(program, rows, folder, scratch):
    """A folder of documents with exactly these ids, texts and addresses, in the columns that `read` writes."""
    import pyarrow
    import pyarrow.parquet

    one = scratch / "one.jsonl"
    one.write_text('{"id": "one", "text": "One document for its columns."}\n', encoding="utf-8")
    sets = ["sources=['paths']", f"paths.include=['{one}']"]
    subprocess.run([program, "read", "--out", scratch / "one", *[a for s in sets for a in ("--set", s)]], check=True, capture_output=True)
    like = peers.table(scratch / "one" / "documents")
    row = like.to_pylist()[0]
    folder.mkdir()
    table = pyarrow.Table.from_pylist([row | r for r in rows], schema=like.schema)
    pyarrow.parquet.write_table(table, folder / "part-00000.parquet", row_group_size=4096)
    return folder


def odd_texts(count=1500, seed=8):
    """Strings of pieces that the rules treat oddly."""
    rng = random.Random(seed)
    parts = ["the", "of", "and", "The", "#", "#tag", "wait…", "…", "...", "don't", "é", "ª", "²", "٣", "漢字", "Ⅷ", "🙂", "12", "x" * 12, "a", "\u200b", "- ", "* ", "• "]
    spaces = [" ", " ", " ", "  ", "\n", "\n", "\n\n", "\t", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0", "\u2028", "\u2029", "\u202f", "\u3000", "\ufeff"]
    lines = ["- the same line again\n", "and so it goes on…\n", "* of the\n", "\n", " \n", "to be or not to be that is "]
    yield from ["", " ", "\n", "\n\n", " \n \n", "…", "#", "-", "*", "a\n", "\na", "the the", "\r", "\ufeff"]
    for _ in range(count):
        pool = rng.sample(parts, rng.randint(1, len(parts)))
        text = ""
        for _ in range(int(2 ** (rng.random() * 8.5))):
            text += rng.choice(lines) if rng.random() < 0.1 else rng.choice(pool) + rng.choice(spaces if rng.random() < 0.4 else [" "])
        yield text * rng.choice([1, 1, 1, 2])


def repeated_texts(texts, count=1000, seed=9):
    """Real texts of which a part stands there again, so that many are near a limit of repetition."""
    rng = random.Random(seed)
    for text in rng.sample(texts, min(count, len(texts))):
        lines = rng.random() < 0.5 and text.count("\n") > 3
        pieces = text.split("\n" if lines else " ")
        share = int(len(pieces) * rng.uniform(0.02, 0.35)) + 1
        start = rng.randrange(len(pieces))
        yield ("\n" if lines else " ").join(pieces + pieces[start : start + share] * rng.choice([1, 1, 2, 3]))


def tagged(rows, scratch):
    """id -> our name of the signal -> what `dolma tag` stores."""
    base = scratch / "dolma"
    (base / "documents").mkdir(parents=True)
    with gzip.open(base / "documents" / "all.json.gz", "wt", encoding="utf-8") as out:
        out.writelines(json.dumps({"id": r["id"], "text": r["text"], "source": "x"}) + "\n" for r in rows)
    dolma("tag", "--documents", f"{base}/documents/*.json.gz", "--taggers", "gopher_v1", "--experiment", EXPERIMENT, "--processes", "1")
    result = {}
    with gzip.open(base / "attributes" / EXPERIMENT / "all.json.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            spans = {k.removeprefix(f"{EXPERIMENT}__gopher_v1__"): v[0][2] for k, v in row["attributes"].items() if v}
            result[row["id"]] = {name: spans.get(other) for name, other in SIGNALS.items()}
    return result


def dolma(*arguments):
    program = pathlib.Path(sys.executable).with_name("dolma")
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"dolma {' '.join(map(str, arguments))}\n{done.stderr[-3000:]}")


def mixed(name, limits, names, scratch):
    """Ids that `dolma mix` keeps."""
    base, out = scratch / "dolma", scratch / f"mix-{name}"
    exclude = []
    for signal, (least, most) in limits.items():
        field = f"@.{EXPERIMENT}__gopher_v1__{names[signal]}"
        for sign, limit in (("<", least), (">", most)):
            if limit is not None:
                exclude.append(f"$.attributes[?({field} && {field}[0] && {field}[0][2] {sign} {limit})]")
    stream = {
        "name": "all",
        "documents": [f"{base}/documents/*.json.gz"],
        "attributes": [EXPERIMENT],
        "output": {"path": str(out), "max_size_in_bytes": 1 << 32, "discard_fields": ["attributes"]},
        "filter": {"include": [], "exclude": exclude},
    }
    config = scratch / f"{name}.json"
    work = {"input": str(scratch / f"{name}-in"), "output": str(scratch / f"{name}-out")}
    config.write_text(json.dumps({"streams": [stream], "work_dir": work, "processes": 1}), encoding="utf-8")
    dolma("-c", str(config), "mix")
    kept = set()
    for path in out.glob("*.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            kept |= {json.loads(line)["id"] for line in lines}
    return kept


def fails(value, limit):
    return value is not None and ((limit[0] is not None and value < limit[0]) or (limit[1] is not None and value > limit[1]))


def near(value, limit):
    return value is not None and any(bound is not None and abs(value - bound) <= 0.1 * bound for bound in limit)


def gopher(args, program, scratch, report):
    import numpy

    texts = list(dict(peers.documents(peers.whole_texts(args.data, program, [], scratch))).items())
    real = [text for _, text in peers.drawn(texts, args.documents)]
    groups = {"r": real, "p": list(repeated_texts(real)), "o": list(odd_texts())}
    rows = [{"id": f"{group}{i:05}", "text": text} for group, texts in groups.items() for i, text in enumerate(texts)]
    folder = stored(program, rows, scratch / "docs", scratch)
    theirs = tagged(rows, scratch)
    mine, _ = peers.ours(program, folder, ["profiles=['gopher:dolma']"], scratch, signals=True)
    signals = {r["id"]: r for r in peers.table(scratch / "filter" / "signals").to_pylist()}
    table = {name: {"largest_difference": 0.0, "differ": 0, "measured": 0} for name in SIGNALS}
    for row in rows:
        for name, entry in table.items():
            a, b = theirs[row["id"]][name], signals[row["id"]][f"gopher:dolma/{name}"]
            entry["measured"] += a is not None
            if a is None or b is None:
                entry["differ"] += (a is None) != (b is None)
                continue
            gap = abs(float(numpy.float32(a)) - b)
            entry["differ"] += gap > 0
            entry["largest_difference"] = max(entry["largest_difference"], gap)
            if gap and entry["differ"] < 3:
                print(f"  {row['id']} {name}: Dolma {a}, ours {b}: {row['text'][:60]!r}")
    print(f"{'signal':<20} {'measured':>9} {'differ':>7} {'largest difference':>19}")
    for name, entry in table.items():
        print(f"{name:<20} {entry['measured']:>9} {entry['differ']:>7} {entry['largest_difference']:>19.3g}")
    first = {i: next((n for n, limit in LIMITS.items() if fails(values[n], limit)), None) for i, values in theirs.items()}
    close = sum(any(near(theirs[r["id"]][n], limit) for n, limit in LIMITS.items()) for r in rows)
    verdicts = {"one by one": [r["id"] for r in rows if (mine[r["id"]][1] or None) != first[r["id"]]]}
    kept = {"one by one": sum(v is None for v in first.values())}
    reasons = Counter(v for v in first.values() if v)
    by_mixer = mixed("gopher", LIMITS, SIGNALS, scratch)
    verdicts["dolma mix, Gopher's limits"] = [r["id"] for r in rows if mine[r["id"]][0] != (r["id"] in by_mixer)]
    kept["dolma mix, Gopher's limits"] = len(by_mixer)
    by_mixer = mixed("published", PUBLISHED["limits"], PUBLISHED["names"], scratch)
    mine, _ = peers.ours(program, folder, ["profiles=['gopher:dolma']", *PUBLISHED["ours"]], scratch)
    verdicts["dolma mix, limits of 1.5 and 1.6"] = [r["id"] for r in rows if mine[r["id"]][0] != (r["id"] in by_mixer)]
    kept["dolma mix, limits of 1.5 and 1.6"] = len(by_mixer)
    size = sum(len(t.encode()) for t in real)
    print(f"{len(real)} pieces of real texts ({size / 1e6:.2f} MB), {len(groups['p'])} with a part repeated, {len(groups['o'])} odd strings; {close} within a tenth of a limit")
    for name, wrong in verdicts.items():
        print(f"{name}: {kept[name]} kept of {len(rows)}, {len(wrong)} verdicts differ {wrong[:5]}")
    report["gopher:dolma"] = {
        "real": len(real), "bytes": size, "repeated": len(groups["p"]), "odd": len(groups["o"]), "near_a_limit": close, "signals": table, "dropped_by": dict(reasons),
        "verdicts": {n: {"kept": kept[n], "differ": len(w)} for n, w in verdicts.items()},
    }  # fmt: skip
    return sum(e["differ"] for e in table.values()) + sum(map(len, verdicts.values()))


def real_addresses(data):
    """Addresses in the archives' headers and pages, and of the pages of Common Crawl."""
    found = set()
    for path in sorted(data.glob("warc/*/*")):
        raw = path.read_bytes()
        if path.suffix == ".gz":
            try:
                raw = gzip.decompress(raw)
            except (OSError, EOFError):
                continue
        text = raw.decode("latin-1")
        found |= {m.strip() for m in re.findall(r"(?:WARC-Target-URI:|https?://)[^\s\"'<>)]*", text) if m.startswith("http")}
        found |= {m.strip() for m in re.findall(r"WARC-Target-URI: *([^\r\n]*)", text)}
    for path in sorted(data.glob("web/*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found |= {u for u in (row.get("url"), row.get("id")) if isinstance(u, str) and "://" in u}
    return sorted(found)


IDN = ["bücher.de", "straße.de", "MÜNCHEN.example", "例え.テスト", "пример.рф", "παράδειγμα.gr", "xn--bcher-kva.de", "ＦＵＬＬ.com", "a。b.com", "i❤.ws", "ab--é.fr",
       "-é.fr", "e\u0301.fr", "עברית.il", "مثال.eg", "उदाहरण.in", "한국.kr", "ﬁ.com", "K.com", "l·l.cat", "ı.tr", "İ.tr"]  # fmt: skip


def variations(url, rng):
    """(kind, address) made of a real one."""
    scheme, _, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail, bare = rest[len(host) :], host.split("@")[-1].split(":")[0]
    yield "as it is", url
    yield "upper case", f"{scheme.upper()}://{host.upper()}{tail}"
    yield "trailing dot", f"{scheme}://{bare}.{tail}"
    yield "port", f"{scheme}://{bare}:{rng.choice(['80', '443', '8080', '0', '00080', '', '65535', '65536', '99999', '123456', 'x', '8 0'])}{tail}"
    yield "user", f"{scheme}://{rng.choice(['user@', 'user:pass@', 'a@b@', '@', 'ü:ß@', 'bad.com@'])}{host}{tail}"
    yield "www", f"{scheme}://{rng.choice(['www.', 'www.www.', 'ww.', 'w', 'wwww.', 'www2.', 'WWW.', '.'])}{bare}{tail}"
    yield "subdomain", f"{scheme}://{rng.choice(['m', 'a.b', 'news', 'xn--a'])}.{bare}{tail}"
    yield "without www", f"{scheme}://{bare.removeprefix('www.')}{tail}"
    yield "other scheme", f"{rng.choice(['', '//', '/', '///', 'ftp://', 'mailto:', 'http:', 'http:/', 'http:///', 'HTTPS://', 'data:', 'a+b-c://', 'a.b://', 'h_p://', ':'])}{bare}{tail}"
    yield "path", f"{scheme}://{bare}{rng.choice(['/', '//', '/../a', '/a/./b/..', '/a/..', '/%7Ea', '/100%', '/é', '/a b', '?q', '#f', '?a/b', '/;p=1', chr(92) + 'x', '/x' + chr(9), '/[a]', '/a//', '/%2f'])}"
    yield "IDN", f"{scheme}://{rng.choice(['', 'www.', 'a.'])}{rng.choice(IDN)}{tail}"
    number = rng.choice(["127.0.0.1", "0.0.0.0", "10.1.2.3", "999.1.1.1", "1.2.3", "0x7f.1", "[::1]", "[fe80::1%25eth0]", "[FE80::1%ETH0]", "[::ffff:1.2.3.4]", "[::g]", "[1:2]", "::1"])
    yield "number", f"{scheme}://{number}{rng.choice(['', ':80'])}{tail}"
    yield "odd name", rng.choice(["localhost", "localhost:80", "http://localhost:8080/x", "http://none/x", "http:///x", "http://", "http://user@/x", "http://:80/x", " ", "", "?", "#", "/", "x", "a_b.com/x", "http://a%20b.com/", "http://a%zz.com", "http://a b.com", "http://www/", "http://www.w.w.com/", " http://a.com", "http://a.com\n"]) + rng.choice(["", "", tail])  # fmt: skip


def block_list(urls, rng):
    """Lines in every form, for hosts and addresses of the list."""
    lines = ["# comment", "; comment", "! comment", "", "   ", "[Adblock Plus 2.0]", "@@||good.example^", "*.wild.example", "::1 localhost", "127.0.0.1 localhost", "127.0.0.1 localdomain"]
    lines += ["10.1.2.3 tracker.example", "face.de test.example", "999.1.1.1 bad.example", "fe80::1 six.example", "none", "a.b", "web.de", "wow.com", "x"]
    lines += [host for host in IDN if host.isascii() or host[0].isascii() and host in ("straße.de", "e\u0301.fr")]
    for url in urls:
        rest = url.partition("://")[2]
        host = re.split(r"[/?#]", rest, maxsplit=1)[0].split("@")[-1].split(":")[0]
        if not re.fullmatch(r"[A-Za-z0-9.-]{3,}", host):
            continue
        forms = [host, host, host.upper(), f"www.{host}", f"0.0.0.0 {host}", f"127.0.0.1\t{host} # why", f"||{host}^", f"||{host}^$third-party", f"|{host}^", f"{host}##.ad", f"{host} # why", f"{host}."]
        forms += [url, url, url.upper(), rest, f"{host}:8080", f"{host}/", f"  {host}  ", f"{host}/a"]
        line = rng.choice(forms)
        lines.append(line if line.isprintable() and ":x" not in line else host)
    return "\n".join(lines) + "\r\n"


def addresses(args, program, scratch, report):
    from dolma.core.data_types import DocumentWithMetadata
    from dolma.taggers import url as taggers

    rng = random.Random(3)
    real = real_addresses(args.data)
    cases = list(dict.fromkeys((kind, made) for url in real for kind, made in variations(url, rng)))
    drawn = rng.sample(real, len(real) // 8)
    lists = {name: scratch / f"{name}.txt" for name in ("domains", "urls", "links", "plain")}
    for name in ("domains", "urls", "links"):
        lists[name].write_bytes(block_list(drawn, rng).encode())
    hosts = sorted({u.partition("://")[2].split("/")[0].split(":")[0].lower().removeprefix("www.") for u in drawn if u.isascii()})
    lists["plain"].write_text("\n".join(h for h in hosts if re.fullmatch(r"[a-z0-9-]+\.[a-z0-9.-]+", h)) + "\n", encoding="utf-8")

    def tagger(parent, path):
        return type("Local", (parent,), {"BLOCKLIST_PATHS": [str(path)]})()

    ask = {
        "domain": tagger(taggers.BaseDomainTagger, lists["domains"]),
        "url": tagger(taggers.BaseUrlTagger, lists["urls"]),
        "link": tagger(taggers.LinkBlocklistPhishingTagger, lists["links"]),
    }
    plain = tagger(taggers.BaseDomainTagger, lists["plain"])

    def answer(peer, url):
        document = DocumentWithMetadata(source="x", id="x", text="text", metadata={"url": url})
        try:
            return bool(peer.predict(document).spans)
        except Exception:
            return None

    rows = [{"id": f"u{i:06}", "text": "One document.", "url": url} for i, (_, url) in enumerate(cases)]
    folder = stored(program, rows, scratch / "addresses", scratch)
    sets = ["profiles=['url:dolma']", *(f"url:dolma.{name}=['{lists[name]}']" for name in ("domains", "urls", "links"))]
    verdicts, _ = peers.ours(program, folder, sets, scratch, signals=True)
    signals = {r["id"]: r for r in peers.table(scratch / "filter" / "signals").to_pylist()}
    table = {name: {"listed": 0, "differ": 0} for name in ("domain", "url", "link", "unreadable", "verdict")}
    kinds = {kind: Counter(addresses=0, differ=0) for kind, _ in cases}
    shown = 0
    for row, (kind, url) in zip(rows, cases):
        theirs = {name: answer(peer, url) for name, peer in ask.items()}
        expected = {name: bool(value) for name, value in theirs.items()}
        expected["unreadable"] = None in theirs.values()
        got = {name: signals[row["id"]][f"url:dolma/{name}"] == 1 for name in expected}
        expected["verdict"], got["verdict"] = any(theirs.values()), not verdicts[row["id"]][0]
        kinds[kind]["addresses"] += 1
        wrong = [name for name in expected if expected[name] != got[name]]
        kinds[kind]["differ"] += bool(wrong)
        for name in table:
            table[name]["listed"] += expected[name]
            table[name]["differ"] += name in wrong
        if wrong and shown < 30:
            shown += 1
            print(f"  {url!r}: {wrong}, Dolma {theirs}")
    print(f"{len(cases)} addresses, {len(real)} of them as found; entries: {({n: len(p.blocklist) for n, p in ask.items()})}")
    for name, entry in table.items():
        print(f"url:dolma/{name:<12} {entry['listed']:>6} in Dolma, {entry['differ']:>4} differ")
    # The profile `url` is datatrove's reading: how far is it from Dolma's, with a list that means the same to both?
    mine, _ = peers.ours(program, folder, ["profiles=['url']", f"url.domains=['{lists['plain']}']"], scratch)
    apart = {kind: Counter(both=0, only_dolma=0, only_url=0, neither=0) for kind, _ in cases}
    for row, (kind, url) in zip(rows, cases):
        dolmas, ours = bool(answer(plain, url)), not mine[row["id"]][0]
        apart[kind]["both" if dolmas and ours else "only_dolma" if dolmas else "only_url" if ours else "neither"] += 1
    print(f"{'profile url and Dolma, plain hosts':<36} {'both':>6} {'only Dolma':>11} {'only url':>9} {'neither':>8}")
    for kind, counts in apart.items():
        print(f"{kind:<36} {counts['both']:>6} {counts['only_dolma']:>11} {counts['only_url']:>9} {counts['neither']:>8}")
    report["url:dolma"] = {"addresses": len(cases), "as_found": len(real), "signals": table, "kinds": {k: dict(v) for k, v in kinds.items()}}
    report["url"] = {"what": "the same addresses, one list of plain hosts, domain tagger of Dolma", "kinds": {k: dict(v) for k, v in apart.items()}}
    return sum(e["differ"] for e in table.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm-data", required=True, help="the program")
    parser.add_argument("--data", required=True, type=pathlib.Path, help="folder of corpora")
    parser.add_argument("--out", type=pathlib.Path, help="write the report as JSON")
    parser.add_argument("--documents", type=int, default=3000, help="how many pieces of real texts")
    args = parser.parse_args()
    program = str(pathlib.Path(args.llm_data).resolve())
    report = {"versions": {name: version(name) for name in ("dolma", "urllib3", "idna")}, "tagger": "gopher_v1"}
    with tempfile.TemporaryDirectory() as folder:
        wrong = gopher(args, program, pathlib.Path(folder), report)
    with tempfile.TemporaryDirectory() as folder:
        wrong += addresses(args, program, pathlib.Path(folder), report)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    start = time.time()
    status = main()
    print(f"{time.time() - start:.0f} s")
    sys.exit(status)

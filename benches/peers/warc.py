"""Iterate over a web archive with warcio and with llm-data, in one run on one machine; processor time (user + system).

    pip install warcio
    cargo build -p llm-data --example warc_iterate
    python benches/peers/warc.py TARGET/debug/examples/warc_iterate FILE.warc.gz... [--megabytes 60] [--out FILE.json]

The files are repeated in one archive until it has the asked-for size (gzip members can be joined). `raw` reads every record's
body as it lies there, `http` also undoes transfer and content encodings. Both sides read everything; counts and bytes of `raw`
must agree.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile

WARCIO = """
import json, sys
from warcio.archiveiterator import ArchiveIterator
http = sys.argv[1] == "http"
records = bytes_read = 0
with open(sys.argv[2], "rb") as stream:
    for record in ArchiveIterator(stream, no_record_parse=not http):
        records += 1
        body = record.content_stream() if http else record.raw_stream
        bytes_read += len(body.read())
print(json.dumps({"records": records, "bytes": bytes_read}))
"""


def timed(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return seconds, json.loads(output)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    with tempfile.NamedTemporaryFile(suffix=".warc.gz") as archive:
        pieces = [open(name, "rb").read() for name in arguments.files]
        size = 0
        while size < arguments.megabytes * 1e6:
            for piece in pieces:
                archive.write(piece)
                size += len(piece)
        archive.flush()
        report = {"megabytes": size / 1e6, "repeat": arguments.repeat}
        for mode in ["raw", "http"]:
            peer = [sys.executable, "-c", WARCIO, mode, archive.name]
            ours = [arguments.program, *(["--http"] if mode == "http" else []), archive.name]
            peers, owns = [], []
            for _ in range(arguments.repeat):
                peers.append(timed(peer))
                owns.append(timed(ours))
            peer_s, own_s = min(p[0] for p in peers), min(o[0] for o in owns)
            report[mode] = {
                "warcio_cpu_s": peer_s,
                "llm_data_cpu_s": own_s,
                "ratio": peer_s / own_s,
                "warcio": peers[0][1],
                "llm_data": owns[0][1],
            }
            print(f"{mode}: warcio {peer_s:.2f} s, llm-data {own_s:.2f} s, {peer_s / own_s:.1f} times; {peers[0][1]} {owns[0][1]}")
        if report["raw"]["warcio"]["records"] != report["raw"]["llm_data"]["records"]:
            sys.exit("the two do not see the same records")
    if arguments.out:
        with open(arguments.out, "w") as out:
            json.dump(report, out, indent=1)
            out.write("\n")


if __name__ == "__main__":
    main()

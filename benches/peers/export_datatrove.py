"""Are exported shards byte for byte what datatrove writes?

Writes the same documents' tokens with datatrove's own writers (TokenizedFile, MegatronTokenizedFile) and compares the
files; then reads ours with datatrove's dataset and with numpy as Megatron's reader does.

    pip install datatrove==0.10.0 numpy
    python benches/peers/export_datatrove.py DATATROVE_EXPORT MEGATRON_EXPORT

Both folders are outputs of `llm-data export` of the same shards, with `format=datatrove` and `format=megatron`, `name=tokens`.
"""

import filecmp
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile
from datatrove.pipeline.tokens.tokenizer import TokenizedFile


def documents(folder: Path):
    tokens_size = int((folder / "tokens.ds.metadata").read_text().split("\n")[0].rsplit("|", 1)[1])
    tokens = np.fromfile(folder / "tokens.ds", dtype=np.uint16 if tokens_size == 2 else np.uint32)
    ends = np.fromfile(folder / "tokens.ds.index", dtype=np.uint64).astype(np.int64)
    assert ends[-1] == len(tokens), (ends[-1], len(tokens))
    return [tokens[a:b] for a, b in zip([0, *ends[:-1]], ends)], tokens_size


def main():
    ours, megatron = Path(sys.argv[1]), Path(sys.argv[2])
    docs, size = documents(ours)
    name = (ours / "tokens.ds.metadata").read_text().split("\n")[0].rsplit("|", 1)[0]
    result = {"documents": len(docs), "tokens": int(sum(map(len, docs))), "token_size": size}
    with tempfile.TemporaryDirectory() as temp:
        # `tokenizer|size` in one: datatrove joins the two itself.
        theirs = TokenizedFile(temp, "tokens.ds", tokenizer_name_or_path=name, save_final_metadata=True, token_size=size)
        mega = MegatronTokenizedFile(temp, "tokens", token_size=size)
        for doc in docs:
            theirs.write(doc.tolist(), None)
            mega.write(doc.tolist())
        theirs.close()
        mega.close()
        for file, folder in [("tokens.ds", ours), ("tokens.ds.index", ours), ("tokens.ds.metadata", ours), ("tokens.bin", megatron), ("tokens.idx", megatron)]:
            result[file] = filecmp.cmp(Path(temp) / file, folder / file, shallow=False)

    # As Megatron's reader does: header, type, counts, lengths, pointers, document marks.
    index = (megatron / "tokens.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    count = int(np.frombuffer(index, np.uint64, 1, 18)[0])
    lengths = np.frombuffer(index, np.int32, count, 34)
    pointers = np.frombuffer(index, np.int64, count, 34 + 4 * count)
    bin_file = np.memmap(megatron / "tokens.bin", dtype=np.uint16 if index[17] == 8 else np.int32, mode="r")
    result["megatron_reads"] = all(
        np.array_equal(bin_file[p // size : p // size + n], doc) for p, n, doc in zip(pointers, lengths, docs)
    )
    print(json.dumps(result, indent=1))
    if not all(v for v in result.values() if isinstance(v, bool)):
        sys.exit("differences found")


if __name__ == "__main__":
    main()

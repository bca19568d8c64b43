"""Decoding and prompt processing on the processor, ours and llama.cpp's, on the same GGUF files in one run.

Models have random weights: a Llama of 124M parameters and one with the sizes of Llama 3.2 1B, in Q8_0 and Q4_0, written by the `gguf` package. Every
round runs both sides, ours first in one and second in the next, and what is reported is the median. The ceiling is the memory bandwidth that
`cargo bench -p llm-tensor --bench packed -- bandwidth` or the argument gives, over the bytes of the file's matrices.

    python3 -m venv venv && venv/bin/pip install gguf numpy
    mkdir llama && cd llama && npm init -y && npm install --ignore-scripts node-llama-cpp && cd ..
    venv/bin/python benches/peers/decode.py --llm-arch target/debug/llm-arch --node-folder llama --out benches/results/decode.json
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFWriter, TokenType

SIZES = {
    "124M": dict(hidden=768, layers=12, heads=12, kv=12, ffn=2048, vocab=32000, tied=False),
    "1B": dict(hidden=2048, layers=16, heads=32, kv=8, ffn=8192, vocab=128256, tied=True),
}
FORMATS = {"q8_0": Q.Q8_0, "q4_0": Q.Q4_0}


def blocks(rows, columns, kind, rng):
    """Random codes with one scale, as bytes of the file."""
    n = columns // 32
    if kind == Q.Q8_0:
        codes, scale = rng.integers(-127, 128, (rows, n, 32), dtype=np.int8).view(np.uint8), 0.02 / 73
    else:
        codes, scale = rng.integers(0, 256, (rows, n, 16), dtype=np.uint8), 0.02 / 4.6
    scales = np.full((rows, n, 1), scale, np.float16).view(np.uint8).reshape(rows, n, 2)
    return np.concatenate([scales, codes], axis=2).reshape(rows, -1)


def write(path, size, kind, seed=0):
    rng = np.random.default_rng(seed)
    w = GGUFWriter(str(path), "llama")
    w.add_name(path.stem)
    w.add_context_length(4096)
    w.add_embedding_length(size["hidden"])
    w.add_block_count(size["layers"])
    w.add_feed_forward_length(size["ffn"])
    w.add_head_count(size["heads"])
    w.add_head_count_kv(size["kv"])
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(size["vocab"])
    w.add_rope_dimension_count(size["hidden"] // size["heads"])
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tokens += [f"\u2581w{i}" for i in range(len(tokens), size["vocab"])]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256
    types += [TokenType.NORMAL] * (size["vocab"] - len(types))
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * 259 + [-float(i) for i in range(size["vocab"] - 259)])
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    h, f, g = size["hidden"], size["ffn"], size["hidden"] // size["heads"] * size["kv"]
    total = 0

    def matrix(name, rows, columns, counted=True):
        nonlocal total
        data = blocks(rows, columns, kind, rng)
        total += data.nbytes if counted else 0
        w.add_tensor(name, data, raw_dtype=kind)

    matrix("token_embd.weight", size["vocab"], h, counted=size["tied"])
    for i in range(size["layers"]):
        for name, rows, columns in [("attn_q", h, h), ("attn_k", g, h), ("attn_v", g, h), ("attn_output", h, h), ("ffn_gate", f, h), ("ffn_up", f, h), ("ffn_down", h, f)]:
            matrix(f"blk.{i}.{name}.weight", rows, columns)
        for name in ["attn_norm", "ffn_norm"]:
            w.add_tensor(f"blk.{i}.{name}.weight", np.ones(h, np.float32))
    w.add_tensor("output_norm.weight", np.ones(h, np.float32))
    if not size["tied"]:
        matrix("output.weight", size["vocab"], h)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return total


def ours(args, model, prompt, n):
    command = [args.llm_arch, "generate", str(model), prompt, "--max-new-tokens", str(n), "--min-new-tokens", str(n), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RAYON_NUM_THREADS": str(args.threads)})
    if run.returncode != 0:
        sys.exit(f"{' '.join(command[:3])}: {run.stderr}")
    return json.loads(run.stdout)


def theirs(args, model, ids, n):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(ids, file)
        file.flush()
        script = Path(__file__).with_name("decode_llama_cpp.mjs").resolve()
        run = subprocess.run(["node", script, str(model), file.name, str(n), str(args.threads)], capture_output=True, text=True, cwd=args.node_folder)
    if run.returncode != 0:
        sys.exit(f"node-llama-cpp: {run.stderr}{run.stdout}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llm-arch", default="target/debug/llm-arch")
    parser.add_argument("--node-folder", required=True)
    parser.add_argument("--models", default=None, help="folder for the files [default: a temporary one]")
    parser.add_argument("--sizes", default="124M,1B")
    parser.add_argument("--prompt", type=int, default=512, help="bytes of the long prompt, which are about as many tokens")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--bandwidth", type=float, default=None, help="read bandwidth of the memory in GB/s")
    parser.add_argument("--out", default=None)
    args = parser.parse_args()
    folder = Path(args.models or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    # Prompt processing is timed on a long prompt, decoding after a short one: as llama-bench's pp512 and tg128.
    long = ("The quick brown fox jumps over the lazy dog. " * (args.prompt // 40 + 1))[: args.prompt]
    short = long[:12]
    rows = []
    for size in args.sizes.split(","):
        for form, kind in FORMATS.items():
            model = folder / f"{size}-{form}.gguf"
            total = write(model, SIZES[size], kind)
            got = {"ours": [], "llama.cpp": []}
            ids = short_ids = None
            for round in range(args.rounds):
                for side in ["ours", "llama.cpp"] if round % 2 == 0 else ["llama.cpp", "ours"]:
                    if side == "ours":
                        reading, result = ours(args, model, long, 1), ours(args, model, short, args.tokens)
                        ids, short_ids = reading["prompt_ids"], result["prompt_ids"]
                    else:
                        reading, result = theirs(args, model, ids, 1), theirs(args, model, short_ids, args.tokens)
                    got[side].append({**result, "prefill_seconds": reading["prefill_seconds"]})
                    time.sleep(0.5)
            middle = lambda side, key: statistics.median(r[key] for r in got[side])
            row = {
                "model": size,
                "format": form,
                "matrix_bytes": total,
                "prompt_tokens": len(ids),
                "decode": {side: middle(side, "tokens_per_second") for side in got},
                "prompt_per_second": {side: len(ids) / middle(side, "prefill_seconds") for side in got},
                "same_first_tokens": next((i for i, (a, b) in enumerate(zip(got["ours"][0]["ids"], got["llama.cpp"][0]["ids"])) if a != b), args.tokens),
            }
            row["decode_ratio"] = row["decode"]["ours"] / row["decode"]["llama.cpp"]
            row["prompt_ratio"] = row["prompt_per_second"]["ours"] / row["prompt_per_second"]["llama.cpp"]
            if args.bandwidth:
                row["of_ceiling"] = row["decode"]["ours"] * total / (args.bandwidth * 1e9)
            rows.append(row)
            print(json.dumps(row), flush=True)
    report = {
        "what": "decoding and prompt processing, ours and llama.cpp (node-llama-cpp, prebuilt), same GGUF files",
        "machine": platform.processor() or platform.machine(),
        "threads": args.threads,
        "rounds": args.rounds,
        "bandwidth_gb_per_second": args.bandwidth,
        "system": got["llama.cpp"][0].get("system"),
        "rows": rows,
    }
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

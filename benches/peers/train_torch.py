#!/usr/bin/env python3
"""A training program in eager PyTorch that does what `llm-train pretrain` does: the other side of train.py.

    python train_torch.py SETTINGS.json            # train; writes metrics.jsonl and summary.json into the folder `out`
    python train_torch.py SETTINGS.json --choose   # time the ways of doing things and print the fastest as JSON

It starts from the Hugging Face folder `init`, reads the same token shards in the same order, keeps documents of a row apart and restarts
their positions, and logs a line for every step. Where PyTorch or the C library offers more than one way, each is timed as in train_step.py
and the fastest is taken. Attention over rows of several documents has three: all rows with a mask; rows of one document causally and the
rest with a mask; rows of one document causally and a call for every other document. (The sum over rows of a batch does not depend on their
order, so rows of one document come first.)
"""

import argparse
import json
import math
import pathlib
import sys
import time

import numpy
import pyarrow
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from train_step import resident_kib, set_malloc

WAYS = {
    "malloc": ["keep", "default"],
    "matrices": ["joined", "apart"],
    "norm": ["functional", "by_hand"],
    "rope": ["halves", "complex"],
    "attention": ["split", "documents", "mask"],
    "optimizer": ["fused", "foreach", "loop"],
    "clip": ["foreach", "loop"],
}
IGNORE = -100
BITS = 2**64 - 1


def blake3_word(data):
    """The first 8 bytes of BLAKE3 of at most 64 bytes, as a little-endian number (the specification, section 2)."""
    assert len(data) <= 64
    start = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
    words = [int.from_bytes(data.ljust(64, b"\0")[i : i + 4], "little") for i in range(0, 64, 4)]
    chunk_start, chunk_end, root = 1, 2, 8
    v = start + start[:4] + [0, 0, len(data), chunk_start | chunk_end | root]

    def turn(value, by):
        return (value >> by | value << (32 - by)) & 0xFFFFFFFF

    def mix_in(a, b, c, d, x, y):
        for word, first, second in ((x, 16, 12), (y, 8, 7)):
            v[a] = (v[a] + v[b] + word) & 0xFFFFFFFF
            v[d] = turn(v[d] ^ v[a], first)
            v[c] = (v[c] + v[d]) & 0xFFFFFFFF
            v[b] = turn(v[b] ^ v[c], second)

    columns = [(i, 4 + i, 8 + i, 12 + i) for i in range(4)]
    diagonals = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
    for _ in range(7):
        for i, places in enumerate(columns + diagonals):
            mix_in(*places, words[2 * i], words[2 * i + 1])
        words = [words[i] for i in (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)]
    return v[0] ^ v[8] | (v[1] ^ v[9]) << 32


def mix(z):
    """SplitMix64's finaliser."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & BITS
    z = (z ^ z >> 27) * 0x94D049BB133111EB & BITS
    return z ^ z >> 31


def stream(seed, name):
    return blake3_word(seed.to_bytes(8, "little") + name.encode())


def at(seed, index):
    return mix(seed ^ mix((index + 0x9E3779B97F4A7C15) & BITS))


def permuted(seed, index, n):
    """llm_run::seed::permuted: a Feistel network over the next even power of two, walked until it falls below n."""
    if n <= 1:
        return 0
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask, value = (1 << half) - 1, index % n
    while True:
        left, right = value >> half, value & mask
        for number in range(4):
            left, right = right, left ^ (mix(seed ^ mix(right ^ number << 56)) & mask)
        value = left << half | right
        if value < n:
            return value


class Shards:
    """Rows of T+1 tokens and the offsets at which documents begin, mapped into memory."""

    def __init__(self, folder):
        files = sorted(pathlib.Path(folder).glob("*.arrow"))
        if not files:
            sys.exit(f"{folder}: no .arrow shard")
        self.batches, self.first = [], [0]
        for path in files:
            reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
            self.length = int(reader.schema.metadata[b"sequence_length"])
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                tokens, starts = batch.column("tokens"), batch.column("document_starts")
                flat = tokens.flatten().to_numpy().reshape(batch.num_rows, self.length + 1)
                self.batches.append((flat, starts.offsets.to_numpy(), starts.values.to_numpy()))
                self.first.append(self.first[-1] + batch.num_rows)

    def __len__(self):
        return self.first[-1]

    def row(self, index):
        number = int(numpy.searchsorted(self.first, index, side="right")) - 1
        tokens, offsets, starts = self.batches[number]
        i = index - self.first[number]
        return tokens[i], starts[offsets[i] : offsets[i + 1]].tolist()


class Batch:
    """Inputs, targets, angles and what attention must not mix; rows of one document first."""

    def __init__(self, rows, turns, attention):
        rows = sorted(rows, key=lambda row: len(documents(row)) > 1)
        length = len(rows[0][0]) - 1
        tokens = torch.from_numpy(numpy.stack([tokens for tokens, _ in rows]).astype(numpy.int64))
        self.ids, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        positions = torch.arange(length).repeat(len(rows), 1)
        self.whole = sum(len(documents(row)) == 1 for row in rows)
        self.lengths = []
        for i, row in enumerate(rows):
            ends = documents(row)[1:] + [length]
            for start, end in zip(documents(row), ends):
                positions[i, start:end] -= start
                if i >= self.whole:
                    self.lengths.append(end - start)
            for start in row[1][1:]:
                self.targets[i, start - 1] = IGNORE
        self.counted = int((self.targets != IGNORE).sum())
        self.angles = [table[positions] for table in turns]
        self.mask = None
        first = {"mask": 0, "split": self.whole, "documents": len(rows)}[attention]
        if first < len(rows):
            # A position minus its place in the document is where the document begins: the same number is the same document.
            document = torch.arange(length) - positions[first:]
            seen = (document[:, :, None] == document[:, None, :]).tril()
            self.mask = torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)[:, None]


def documents(row):
    """Where documents begin among the inputs; one may begin at the last target."""
    tokens, starts = row
    return [start for start in starts if start < len(tokens) - 1]


class Model(torch.nn.Module):
    """Llama as Hugging Face lays it out, with q, k, v and gate, up in one matrix each."""

    def __init__(self, config, ways):
        super().__init__()
        self.config, self.ways = config, ways
        hidden, ffn = config["hidden_size"], config["intermediate_size"]
        empty = lambda *shape: torch.nn.Parameter(torch.empty(*shape))
        self.embed, self.head = empty(config["vocab_size"], hidden), empty(config["vocab_size"], hidden)
        self.norm = empty(hidden)
        shapes = {"norm_attention": (hidden,), "qkv": (3 * hidden, hidden), "out": (hidden, hidden)}
        shapes |= {"norm_mlp": (hidden,), "gate_up": (2 * ffn, hidden), "down": (hidden, ffn)}
        layers = range(config["num_hidden_layers"])
        self.layers = torch.nn.ModuleList(torch.nn.ParameterDict({name: empty(*shape) for name, shape in shapes.items()}) for _ in layers)
        if config["tie_word_embeddings"]:
            self.head = self.embed

    @torch.no_grad()
    def load(self, folder):
        weights = load_file(pathlib.Path(folder) / "model.safetensors")
        take = lambda name: weights.pop(name).float()
        self.embed.copy_(take("model.embed_tokens.weight"))
        self.norm.copy_(take("model.norm.weight"))
        if not self.config["tie_word_embeddings"]:
            self.head.copy_(take("lm_head.weight"))
        for i, layer in enumerate(self.layers):
            part = lambda name: take(f"model.layers.{i}.{name}.weight")
            q, k, v = (part(f"self_attn.{name}_proj") for name in "qkv")
            layer["qkv"].copy_(torch.cat((self.arranged(q), self.arranged(k), v)))
            layer["gate_up"].copy_(torch.cat((part("mlp.gate_proj"), part("mlp.up_proj"))))
            names = {"norm_attention": "input_layernorm", "out": "self_attn.o_proj"}
            names |= {"norm_mlp": "post_attention_layernorm", "down": "mlp.down_proj"}
            for ours, theirs in names.items():
                layer[ours].copy_(part(theirs))
        if weights:
            sys.exit(f"{folder}: weights that this model does not have: {sorted(weights)}")

    def arranged(self, matrix):
        """Rows of a head as the way to rotate wants them: halves, or pairs of neighbours."""
        if self.ways["rope"] == "halves":
            return matrix
        heads = self.config["num_attention_heads"]
        return matrix.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)

    def normed(self, x, weight):
        eps = self.config["rms_norm_eps"]
        if self.ways["norm"] == "functional":
            return F.rms_norm(x, weight.shape, weight, eps)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    def parts(self, x, weight, number):
        if self.ways["matrices"] == "joined":
            return F.linear(x, weight).chunk(number, -1)
        return [F.linear(x, part) for part in weight.chunk(number)]

    def turn(self, x, batch):
        if self.ways["rope"] == "complex":
            return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * batch.angles[2]).flatten(-2)
        (first, second), (cos, sin) = x.chunk(2, -1), batch.angles[:2]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    def mix(self, qkv, batch):
        """Attention of [B,T,H,K]."""
        rows, length = qkv[0].shape[:2]
        first = 0 if self.ways["attention"] == "mask" else batch.whole
        attend = lambda some, **how: F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in some), **how).transpose(1, 2)
        done = []
        if first:
            done.append(attend([x[:first] for x in qkv], is_causal=True))
        if first < rows and self.ways["attention"] != "documents":
            done.append(attend([x[first:] for x in qkv], attn_mask=batch.mask))
        elif first < rows:
            pieces = zip(*(x[first:].flatten(0, 1).split(batch.lengths) for x in qkv))
            mixed = [attend([x[None] for x in piece], is_causal=True)[0] for piece in pieces]
            done.append(torch.cat(mixed).unflatten(0, (rows - first, length)))
        return torch.cat(done) if len(done) > 1 else done[0]

    def forward(self, batch):
        """Sum of the losses of the targets that count."""
        heads = self.config["num_attention_heads"]
        x = F.embedding(batch.ids, self.embed)
        for layer in self.layers:
            q, k, v = (y.unflatten(-1, (heads, -1)) for y in self.parts(self.normed(x, layer["norm_attention"]), layer["qkv"], 3))
            mixed = self.mix((self.turn(q, batch), self.turn(k, batch), v), batch)
            x = x + F.linear(mixed.flatten(2), layer["out"])
            gate, up = self.parts(self.normed(x, layer["norm_mlp"]), layer["gate_up"], 2)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        logits = F.linear(self.normed(x, self.norm), self.head)
        return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum")


class Trainer:
    def __init__(self, settings, ways):
        self.settings, self.ways = settings, ways
        config = json.loads((pathlib.Path(settings["init"]) / "config.json").read_text())
        config.setdefault("rope_theta", config.get("rope_parameters", {}).get("rope_theta", 10000.0))
        if config["num_attention_heads"] != config["num_key_value_heads"]:
            sys.exit("this program has as many key/value heads as query heads")
        self.train, self.heldout = Shards(settings["train"]), Shards(settings["heldout"])
        self.config, self.model = config, Model(config, ways)
        self.model.load(settings["init"])
        width = config["hidden_size"] // config["num_attention_heads"]
        inverse = config["rope_theta"] ** -(torch.arange(0, width, 2) / width)
        phase = (torch.arange(self.train.length)[:, None] * inverse)[:, None]
        self.turns = [phase.cos(), phase.sin(), torch.polar(torch.ones_like(phase), phase)]
        set_malloc(ways["malloc"])
        self.set_optimizer()

    def set_optimizer(self):
        options = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False, "fused": False}}[self.ways["optimizer"]]
        self.parameters, s = list(self.model.parameters()), self.settings
        groups = [{"params": [p for p in self.parameters if (p.ndim >= 2) == matrix], "weight_decay": decay} for matrix, decay in ((True, s["weight_decay"]), (False, 0.0))]
        self.optimizer = torch.optim.AdamW(groups, lr=s["lr"], betas=tuple(s["betas"]), eps=s["eps"], **options)

    def set(self, choice, way):
        self.ways[choice] = way
        if choice == "optimizer":
            self.set_optimizer()
        if choice == "malloc":
            set_malloc(way)

    def batch(self, step):
        n, size = len(self.train), self.settings["batch_size"]
        order = stream(self.settings["seed"], "data order")
        indices = range(step * size, (step + 1) * size)
        return Batch([self.train.row(permuted(at(order, i // n), i % n, n)) for i in indices], self.turns, self.ways["attention"])

    def rate(self, step):
        """Linear warm-up from 0, then half a cosine."""
        s = self.settings
        if step < s["warmup_steps"]:
            return s["lr"] * step / s["warmup_steps"]
        progress = min(1.0, (step - s["warmup_steps"]) / max(1, s["steps"] - s["warmup_steps"]))
        return s["lr"] * (s["min_lr_ratio"] + (1 - s["min_lr_ratio"]) * 0.5 * (1 + math.cos(math.pi * progress)))

    def step(self, step):
        """Loss, gradient norm, tokens, seconds, and of these the seconds for data."""
        start = time.perf_counter()
        batch = self.batch(step)
        data = time.perf_counter() - start
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        loss = self.model(batch) / batch.counted
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["grad_clip"], foreach=self.ways["clip"] == "foreach")
        self.optimizer.step()
        return loss.item(), norm.item(), batch.ids.numel(), time.perf_counter() - start, data

    @torch.inference_mode()
    def validate(self):
        size, n = self.settings["batch_size"], len(self.heldout)
        rows = min(self.settings["eval_rows"] or n, n)
        nll = counted = 0
        for first in range(0, rows, size):
            chosen = [self.heldout.row(i * n // rows) for i in range(first, min(first + size, rows))]
            batch = Batch(chosen, self.turns, self.ways["attention"])
            nll, counted = nll + self.model(batch).item(), counted + batch.counted
        return nll / counted


def choose(trainer, rounds):
    """Time every way of every choice in turn, on rows of the data, and keep the fastest."""
    timings = {}
    for choice, ways in WAYS.items():
        seconds = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way in ways:
                trainer.set(choice, way)
                trainer.step(number)  # pays for what the way allocates first
                seconds[way].append(trainer.step(number)[3])
        timings[choice] = {way: round(min(times[1:]), 4) for way, times in seconds.items()}
        trainer.set(choice, min(timings[choice], key=timings[choice].get))
    return {"ways": trainer.ways, "choice_seconds": timings, "torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    settings = json.loads(pathlib.Path(args.settings).read_text())
    torch.set_num_threads(settings["threads"])
    torch.set_flush_denormal(True)
    start_kib = resident_kib("VmRSS")
    trainer = Trainer(settings, settings.get("ways") or {choice: ways[0] for choice, ways in WAYS.items()})
    if args.choose:
        print(json.dumps(choose(trainer, args.rounds)))
        return
    out = pathlib.Path(settings["out"])
    out.mkdir(parents=True, exist_ok=True)
    every = settings["eval_every"]
    with open(out / "metrics.jsonl", "w", buffering=1) as log:
        validate = lambda step: log.write(json.dumps({"val_loss": trainer.validate(), "step": step}) + "\n")
        if every:
            validate(0)
        clock, tokens = time.perf_counter(), 0
        for step in range(settings["steps"]):
            loss, norm, count, seconds, data = trainer.step(step)
            if not math.isfinite(loss):
                sys.exit(f"step {step}: the loss is {loss}")
            tokens += count
            record = {"step": step + 1, "loss": loss, "lr": trainer.rate(step), "grad_norm": norm, "tokens": tokens}
            record |= {"tokens_per_second": round(count / seconds), "elapsed_seconds": round(time.perf_counter() - clock, 3), "data_seconds": round(data, 6)}
            log.write(json.dumps(record) + "\n")
            if every and (step + 1 == settings["steps"] or (step + 1) % every == 0):
                validate(step + 1)
    about = {"parameters": sum(p.numel() for p in trainer.parameters), "start_mib": round(start_kib / 1024, 1), "torch": torch.__version__}
    (out / "summary.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The training step of `docs/performance.md` in eager PyTorch: how many tokens a second a careful Python user gets on the same processor.

    python train_step.py [--threads 2] [--steps 20]
    python train_step.py --memory                      # peak memory of a step at T = 512, 1024, 2048, 4096 with as many tokens each

A Llama-style decoder in float32: 4 layers, hidden 256, ffn 704, vocabulary 4096, 8 query and 8 key/value heads of 32, untied head,
5,310,720 parameters; 8 x 256 tokens; cross entropy over all of them, gradients clipped to norm 1, AdamW. The result is one line of JSON.

Meant as the fastest eager peer: attention is scaled_dot_product_attention, and where PyTorch or the C library offers more than one way,
each way is timed here and the fastest is taken (the field `ways`; an option fixes a way). The ways of one choice take turns step by step
and their least times are compared, so that other load on the machine decides as little as possible. The measured steps follow; their
median needs an otherwise idle machine.
"""

import argparse
import ctypes
import json
import math
import multiprocessing
import os
import pathlib
import platform
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F

LAYERS, HIDDEN, FFN, VOCAB, HEADS, HEAD_DIM, EPS, ROPE_THETA = 4, 256, 704, 4096, 8, 32, 1e-5, 10000.0
LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0

# Each choice and its ways; the first is tried first. What they are is said where they are used.
WAYS = {
    "malloc": ["keep", "default"],
    "matrices": ["joined", "apart"],
    "norm": ["functional", "by_hand"],
    "rope": ["halves", "complex"],
    "optimizer": ["fused", "foreach", "loop"],
    "clip": ["foreach", "loop"],
}


def set_malloc(way):
    """`keep`: glibc holds on to freed buffers; one returned to the kernel costs a page fault per 4 KiB at the next use. `default`: the
    thresholds at which glibc's own arrive in a program that frees large buffers."""
    m_trim_threshold, m_mmap_threshold, mib = -1, -3, 2**20
    trim, mmap = (2**31 - 1, 2**30) if way == "keep" else (64 * mib, 32 * mib)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(m_trim_threshold, trim)
        libc.mallopt(m_mmap_threshold, mmap)


class Norm(torch.nn.Module):
    def __init__(self, ways):
        super().__init__()
        self.weight, self.ways = torch.nn.Parameter(torch.ones(HIDDEN)), ways

    def forward(self, x):
        if self.ways["norm"] == "functional":
            return F.rms_norm(x, (HIDDEN,), self.weight, EPS)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * self.weight


def turn(x, angles, ways):
    """Rotary positions of x [B,T,H,K]; `halves` pairs element i with i + K/2, `complex` with its neighbour."""
    if ways["rope"] == "complex":
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * angles[2]).flatten(-2)
    first, second = x.chunk(2, -1)
    cos, sin = angles[:2]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Layer(torch.nn.Module):
    def __init__(self, ways):
        super().__init__()
        linear = lambda i, o: torch.nn.Linear(i, o, bias=False)
        self.ways, self.norm_attention, self.norm_mlp = ways, Norm(ways), Norm(ways)
        self.qkv, self.out = linear(HIDDEN, 3 * HEADS * HEAD_DIM), linear(HEADS * HEAD_DIM, HIDDEN)
        self.gate_up, self.down = linear(HIDDEN, 2 * FFN), linear(FFN, HIDDEN)

    def project(self, x, weight, parts):
        """`parts` equal slices of x @ weight^T: views of one product (`joined`), or a product each (`apart`: no strided inputs after it)."""
        if self.ways["matrices"] == "joined":
            return F.linear(x, weight).chunk(parts, -1)
        return [F.linear(x, part) for part in weight.chunk(parts)]

    def forward(self, x, angles):
        q, k, v = (part.unflatten(-1, (HEADS, HEAD_DIM)) for part in self.project(self.norm_attention(x), self.qkv.weight, 3))
        q, k = turn(q, angles, self.ways), turn(k, angles, self.ways)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.project(self.norm_mlp(x), self.gate_up.weight, 2)
        return x + self.down(F.silu(gate) * up)


class Decoder(torch.nn.Module):
    def __init__(self, ways):
        super().__init__()
        self.embed = torch.nn.Embedding(VOCAB, HIDDEN)
        self.layers = torch.nn.ModuleList(Layer(ways) for _ in range(LAYERS))
        self.norm, self.head = Norm(ways), torch.nn.Linear(HIDDEN, VOCAB, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, targets, angles):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, angles)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def angles(length):
    """cos, sin, and both as one complex number, each [T,1,K/2]."""
    inverse = ROPE_THETA ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    phase = (torch.arange(length)[:, None] * inverse)[:, None]
    return phase.cos(), phase.sin(), torch.polar(torch.ones_like(phase), phase)


class Trainer:
    """The model with its optimiser; `ways` may be changed between steps."""

    def __init__(self, ways, compile=False):
        torch.manual_seed(0)
        self.ways = ways
        self.decoder = Decoder(ways)
        self.parameters = list(self.decoder.parameters())
        self.forward = torch.compile(self.decoder) if compile else self.decoder
        self.set_optimizer()

    def set_optimizer(self):
        kind = self.ways["optimizer"]
        options = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False, "fused": False}}[kind]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, **options)

    def set(self, choice, way):
        self.ways[choice] = way
        if choice == "optimizer":
            self.set_optimizer()
        if choice == "malloc":
            set_malloc(way)

    def step(self, ids, targets, turns):
        """Seconds and loss of a step."""
        start = time.perf_counter()
        loss = self.forward(ids, targets, turns)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP, foreach=self.ways["clip"] == "foreach")
        self.optimizer.step()
        value = loss.item()
        return time.perf_counter() - start, value


def batch(number, rows, length):
    tokens = torch.randint(VOCAB, (rows, length + 1), generator=torch.Generator().manual_seed(number))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def choose(trainer, data, fixed, rounds):
    """Time every way of every choice that is not fixed and keep the fastest; {choice: {way: seconds}}."""
    timings = {}
    for choice, ways in WAYS.items():
        if choice in fixed:
            trainer.set(choice, fixed[choice])
            continue
        seconds = {way: [] for way in ways}
        for _ in range(rounds + 1):
            for way in ways:
                trainer.set(choice, way)
                trainer.step(*data)  # pays for what the way allocates first
                seconds[way].append(trainer.step(*data)[0])
        timings[choice] = {way: min(times[1:]) for way, times in seconds.items()}
        trainer.set(choice, min(timings[choice], key=timings[choice].get))
    return timings


def resident_kib(field):
    """`VmRSS` now or `VmHWM`, its largest so far."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(job):
    """Growth of the resident memory, in MiB, through two steps of `tokens` tokens in rows of `length`, from a process that has stepped once."""
    length, tokens, threads, ways = job
    torch.set_num_threads(threads)
    trainer = Trainer(ways)
    trainer.step(*batch(0, 1, 16), angles(16))  # optimiser state, threads, code
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    except OSError:
        pass  # then it includes the start of the process, which is below a step
    before = resident_kib("VmRSS")
    data = (*batch(1, tokens // length, length), angles(length))
    for _ in range(2):
        trainer.step(*data)
    return round((resident_kib("VmHWM") - before) / 1024, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="rows [8]")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row [256]")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the measured ones [3]")
    parser.add_argument("--steps", type=int, default=20, help="measured steps [20]")
    parser.add_argument("--rounds", type=int, default=4, help="timings of each way when choosing [4]")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model (needs a C++ compiler; no longer eager)")
    parser.add_argument("--memory", type=int, nargs="*", metavar="T", help="measure memory at these lengths [512 1024 2048 4096] instead of speed")
    parser.add_argument("--memory-tokens", type=int, default=4096, help="tokens of every batch of --memory [4096]")
    for choice, ways in WAYS.items():
        parser.add_argument(f"--{choice}", choices=ways, help="instead of the fastest")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    fixed = {choice: way for choice in WAYS if (way := getattr(args, choice)) is not None}
    ways = {choice: fixed.get(choice, options[0]) for choice, options in WAYS.items()}
    about = {"torch": torch.__version__, "threads": args.threads, "cores": os.cpu_count(), "machine": platform.machine()}

    if args.memory is not None:
        lengths = args.memory or [512, 1024, 2048, 4096]
        if bad := [length for length in lengths if length < 1 or args.memory_tokens % length]:
            parser.error(f"--memory-tokens {args.memory_tokens} is not a multiple of {bad}")
        ways |= {"malloc": "default"}
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # a process each: a peak never falls
            growth = {length: pool.apply(memory, ((length, args.memory_tokens, args.threads, ways),)) for length in lengths}
        print(json.dumps({"peak_growth_mib": growth, "tokens": args.memory_tokens, "ways": ways} | about))
        return

    trainer = Trainer(ways, args.compile)
    count = sum(parameter.numel() for parameter in trainer.parameters)
    if count != 5_310_720:
        sys.exit(f"the model has {count} parameters, not 5310720")
    turns = angles(args.length)
    if args.compile:  # a compiled model is compiled anew for each way of its inside
        fixed = {choice: ways[choice] for choice in ("matrices", "norm", "rope")} | fixed
    timings = choose(trainer, (*batch(0, args.batch, args.length), turns), fixed, args.rounds)
    results = [trainer.step(*batch(1 + number, args.batch, args.length), turns) for number in range(args.warmup + args.steps)]
    seconds, losses = zip(*results[args.warmup :])
    if not all(map(math.isfinite, losses)):
        sys.exit(f"the loss is not finite: {losses}")
    median = statistics.median(seconds)
    spread = {"median": round(median, 4), "least": round(min(seconds), 4), "most": round(max(seconds), 4)}
    report = {"tokens_per_second": round(args.batch * args.length / median), "step_seconds": spread, "steps": args.steps}
    report |= {"parameters": count, "batch": [args.batch, args.length], "compiled": args.compile, "ways": trainer.ways, "last_loss": round(losses[-1], 4)}
    report |= {"choice_seconds": {choice: {way: round(value, 4) for way, value in times.items()} for choice, times in timings.items()}} | about
    print(json.dumps(report))


if __name__ == "__main__":
    main()

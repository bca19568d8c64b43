#!/usr/bin/env python3
"""`llm-train pretrain` beside PyTorch: whole training runs of one 10 M-parameter Llama on the same shards, in turn.

    python train.py --ours target/debug/llm-train --data runs/quickstart                      # speed, memory, loop overhead: minutes
    python train.py --ours target/debug/llm-train --data runs/quickstart --learning --seeds 3 # final held-out loss over seeds
    python train.py --ours ... --quick                                                        # 20 steps of each: do the losses agree?

`--data` is a folder with pack/train, pack/heldout and tokenizer, e.g. the run folder of the quickstart (`cargo xtask quickstart`, which
may be stopped after the stage `pack`). Both sides start from the same weights (those that `llm-train` draws for the seed), read the same
rows in the same order, and have the same optimiser, schedule and clipping; train_torch.py is the other side. What is asked:

- do the losses agree? The first within 1e-4 of it, those of the first 20 steps within 1e-3. If not, the rest means nothing: status 1.
- tokens per second, by the median step (after the first 10) and over the whole loop; the rounds alternate which side comes first.
- peak resident memory of both processes, as the kernel counts it. That of Python holds its libraries; what they hold before the model is
  made is `start_mib`.
- what our loop costs beside forward, backward and optimiser: putting batches together (`data_seconds` of each step) and everything
  between the end of a step and the start of the next (logging, progress, checkpoints).

The machine must be idle otherwise. This file imports nothing large: a child's peak memory would begin with its parent's.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
MODEL = {"hidden_size": 320, "num_hidden_layers": 6, "num_attention_heads": 5, "num_key_value_heads": 5, "intermediate_size": 864}
OPTIMIZER = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "grad_clip": 1.0}
SKIPPED_STEPS, COMPARED_STEPS = 10, 20


def run(command, environment, log):
    """Seconds and peak MiB of a child that must succeed."""
    start = time.perf_counter()
    with open(log, "w") as said:
        child = subprocess.Popen([str(word) for word in command], stdout=said, stderr=subprocess.STDOUT, env=os.environ | environment)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = "".join(open(log).readlines()[-5:])
        sys.exit(f"{' '.join(map(str, command))}: status {child.returncode}\n{tail}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(v)}" for key, v in value.items()) + " }"
    return json.dumps(value)


class Bench:
    def __init__(self, args, work):
        self.args, self.work = args, work
        self.threads = {"RAYON_NUM_THREADS": str(args.threads), "OMP_NUM_THREADS": str(args.threads)}
        self.ways = None
        for name in ("pack/train", "pack/heldout", "tokenizer"):
            if not (args.data / name).is_dir():
                sys.exit(f"{args.data / name}: no such folder; see the top of this file for --data")

    def config(self, seed, steps, eval_every):
        data, args = self.args.data, self.args
        schedule = {"kind": "cosine", "warmup_steps": min(args.warmup, max(1, steps // 4)), "min_lr_ratio": 0.1}
        trainer = {"max_steps": steps, "eval_every": eval_every, "checkpoint_every": args.checkpoint_every, "optimizer": OPTIMIZER, "schedule": schedule}
        # Each thread takes its part of the rows; PyTorch takes all of them at once, which is its fastest way.
        trainer |= {"workers": args.threads}
        config = {"train": str(data / "pack/train"), "heldout": str(data / "pack/heldout"), "tokenizer": str(data / "tokenizer")}
        config |= {"batch_size": args.batch, "micro_batch_size": max(args.batch // args.threads, 1), "eval_rows": args.eval_rows, "seed": seed, "device": "cpu"}
        model = MODEL | {"max_position_embeddings": 1024, "tie_word_embeddings": False}
        return config | {"model": model, "trainer": trainer}

    def ours(self, name, seed, steps, eval_every=0):
        out = self.work / name
        config = self.config(seed, steps, eval_every)
        path = self.work / f"{name}.toml"
        path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in config.items()))
        seconds, peak = run([self.args.ours, "pretrain", "--config", path, "--out", out], self.threads, self.work / f"{name}.log")
        return {"out": out, "wall_seconds": seconds, "peak_mib": peak}

    def init(self, seed):
        """The weights that `llm-train` starts from: a run of no steps saves them."""
        return self.ours(f"init-{seed}", seed, 0)["out"] / "model"

    def theirs(self, name, seed, init, steps, eval_every=0, choose=False):
        out, config = self.work / name, self.config(seed, steps, eval_every)
        schedule = config["trainer"]["schedule"]
        settings = {key: config[key] for key in ("train", "heldout", "batch_size", "eval_rows", "seed")} | OPTIMIZER
        settings |= {"init": str(init), "out": str(out), "threads": self.args.threads, "steps": steps, "eval_every": eval_every, "ways": self.ways}
        settings |= {key: schedule[key] for key in ("warmup_steps", "min_lr_ratio")}
        path, log = self.work / f"{name}.json", self.work / f"{name}.log"
        path.write_text(json.dumps(settings))
        command = [self.args.python, HERE / "train_torch.py", path] + (["--choose", "--rounds", self.args.rounds_of_choice] if choose else [])
        seconds, peak = run(command, self.threads, log)
        return {"out": out, "wall_seconds": seconds, "peak_mib": peak, "log": log}

    def choose(self, init):
        """Fix the fastest ways of the other side, or those of an earlier report."""
        if self.args.ways:
            chosen = json.loads(self.args.ways.read_text())["chosen"]
            self.ways = chosen["ways"]
            return chosen
        log = self.theirs("choose", 0, init, 100, choose=True)["log"]
        chosen = json.loads(log.read_text().splitlines()[-1])
        self.ways = chosen["ways"]
        return chosen

    def bench(self, init, length):
        """Seconds of our step alone, on random tokens."""
        command = [self.args.ours, "bench", "--model", init, "--batch", self.args.batch, "--length", length, "--steps", 20, "--json"]
        log = self.work / "bench.log"
        with open(log, "w") as said:
            done = subprocess.run([str(w) for w in command], stdout=subprocess.PIPE, stderr=said, env=os.environ | self.threads)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, command))}: {log.read_text()[-500:]}")
        return json.loads(done.stdout)["step_seconds"]["median"]


def records(run, key="loss"):
    lines = [json.loads(line) for line in open(run["out"] / "metrics.jsonl")]
    return [line for line in lines if key in line]


def speed(run):
    """Numbers of one run from its log."""
    steps = records(run)
    counts = [now["tokens"] - before for now, before in zip(steps, [0] + [s["tokens"] for s in steps])]
    seconds = [count / step["tokens_per_second"] for count, step in zip(counts, steps)]
    later = seconds[min(SKIPPED_STEPS, len(seconds) // 2) :]
    elapsed, data = steps[-1]["elapsed_seconds"], sum(step["data_seconds"] for step in steps)
    outside = max(0.0, elapsed - sum(seconds))
    numbers = {"tokens_per_second": counts[-1] / statistics.median(later), "tokens_per_second_total": steps[-1]["tokens"] / elapsed}
    numbers |= {"median_step_seconds": statistics.median(later), "data_share": data / elapsed, "outside_steps_share": outside / elapsed}
    return numbers | {"peak_mib": run["peak_mib"], "wall_seconds": run["wall_seconds"]}


def agreement(ours, theirs):
    """Relative difference of the first loss and the largest of the first steps."""
    pairs = [(a["loss"], b["loss"]) for a, b in zip(records(ours), records(theirs))][:COMPARED_STEPS]
    worst = max(abs(a - b) for a, b in pairs)
    return {"first_relative": abs(pairs[0][0] - pairs[0][1]) / pairs[0][1], "worst_of_first_steps": worst, "steps": len(pairs)}


def agrees(difference):
    return difference["first_relative"] <= 1e-4 and difference["worst_of_first_steps"] <= 1e-3


def middle(runs):
    return {key: round(statistics.median(run[key] for run in runs), 5) for key in runs[0]}


def measure(bench, args):
    init = bench.init(0)
    chosen = bench.choose(init)
    runs, differences = {"ours": [], "pytorch": []}, []
    for number in range(args.rounds):
        made = {}
        for side in ("ours", "pytorch") if number % 2 == 0 else ("pytorch", "ours"):
            name = f"{side}-{number}"
            made[side] = bench.ours(name, 0, args.steps) if side == "ours" else bench.theirs(name, 0, init, args.steps)
            runs[side].append(speed(made[side]))
        differences.append(agreement(made["ours"], made["pytorch"]))
        here = {side: runs[side][-1] for side in runs}
        print(f"round {number + 1}: " + ", ".join(f"{side} {r['tokens_per_second']:.0f} tokens/s, {r['peak_mib']:.0f} MiB" for side, r in here.items()), flush=True)
    about = json.loads((made["pytorch"]["out"] / "summary.json").read_text())
    ours, theirs = (middle(runs[side]) for side in ("ours", "pytorch"))
    length = records(made["ours"])[0]["tokens"] // args.batch
    ratios = {key: round(ours[key] / theirs[key], 4) for key in ("tokens_per_second", "tokens_per_second_total", "peak_mib", "wall_seconds")}
    overhead = {"data": ours["data_share"], "outside_steps": ours["outside_steps_share"], "together": round(ours["data_share"] + ours["outside_steps_share"], 5)}
    bare = bench.bench(init, length)
    report = {"bench": "train", "parameters": about["parameters"], "model": MODEL, "batch": [args.batch, length], "steps": args.steps, "rounds": args.rounds}
    report |= {"ratio": ratios, "our_loop_overhead": overhead, "our_bare_step_seconds": round(bare, 5), "ours": ours, "pytorch": theirs | about}
    report |= {"losses": {"agree": all(map(agrees, differences)), "worst": max(differences, key=lambda d: d["worst_of_first_steps"])}}
    report |= {"runs": runs, "chosen": chosen}
    print(f"tokens/s, ours over PyTorch's: {ratios['tokens_per_second']:.3f} (median step), {ratios['tokens_per_second_total']:.3f} (whole loop); "
          f"peak memory {ratios['peak_mib']:.3f}; our loop outside forward, backward, optimiser: {100 * overhead['together']:.2f} %")
    return report, report["losses"]["agree"]


def learning(bench, args):
    seeds, differences = [], []
    for seed in range(args.seeds):
        init = bench.init(seed)
        if seed == 0:
            bench.choose(init)
        ours = bench.ours(f"ours-{seed}", seed, args.steps, args.steps)
        theirs = bench.theirs(f"pytorch-{seed}", seed, init, args.steps, args.steps)
        losses = {side: [r["val_loss"] for r in records(made, "val_loss")] for side, made in (("ours", ours), ("pytorch", theirs))}
        seeds.append({"seed": seed} | {side: {"first": both[0], "last": both[-1]} for side, both in losses.items()})
        differences.append(agreement(ours, theirs))
        print(f"seed {seed}: held-out loss {losses['ours'][-1]:.4f} ours, {losses['pytorch'][-1]:.4f} PyTorch", flush=True)
    spread = {}
    for side in ("ours", "pytorch"):
        last = [seed[side]["last"] for seed in seeds]
        spread[side] = {"mean": statistics.mean(last), "deviation": statistics.stdev(last) if len(last) > 1 else None}
    gap, deviation = spread["ours"]["mean"] - spread["pytorch"]["mean"], spread["pytorch"]["deviation"]
    within = deviation is not None and abs(gap) <= deviation
    report = {"bench": "train_learning", "model": MODEL, "batch": args.batch, "steps": args.steps, "seeds": seeds, "held_out_loss": spread}
    report |= {"difference_of_means": gap, "within_one_deviation": within, "losses": {"agree": all(map(agrees, differences)), "each": differences}}
    print(f"means differ by {gap:+.5f}, PyTorch's standard deviation over seeds is {'unknown (one seed)' if deviation is None else f'{deviation:.5f}'}: "
          f"{'within' if within else 'not shown to be within'} one")
    return report, within or args.seeds < 2 and report["losses"]["agree"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=pathlib.Path, required=True, help="the program llm-train")
    parser.add_argument("--data", type=pathlib.Path, default=HERE.parents[1] / "runs/quickstart", help="folder with pack/ and tokenizer/ [runs/quickstart]")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, pyarrow, safetensors [this one]")
    parser.add_argument("--learning", action="store_true", help="held-out loss over seeds instead of speed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="[200; with --learning 600]")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side [3]")
    parser.add_argument("--rounds-of-choice", type=int, default=4, help="timings of each of PyTorch's ways [4]")
    parser.add_argument("--ways", type=pathlib.Path, help="a report of this program whose ways of PyTorch are taken instead of timing them")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step [8]")
    parser.add_argument("--eval-rows", type=int, default=256, help="held-out rows of --learning [256]")
    parser.add_argument("--warmup", type=int, default=50, help="steps of rising rate [50]")
    parser.add_argument("--checkpoint-every", type=int, default=100, help="ours saves; that counts as overhead [100]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="20 steps, one round; nothing is written without --out")
    parser.add_argument("--work", type=pathlib.Path, help="keep what the runs write here; a new folder")
    parser.add_argument("--out", type=pathlib.Path, help="[benches/results/train.json or train_learning.json]")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.rounds_of_choice = 1, 1
    args.steps = args.steps or (COMPARED_STEPS if args.quick else 600 if args.learning else 200)
    args.ours, args.data = args.ours.resolve(), args.data.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        report, good = (learning if args.learning else measure)(Bench(args, work.resolve()), args)
    report |= {"threads": args.threads, "cores": os.cpu_count(), "machine": platform.machine()}
    out = args.out or (None if args.quick else HERE.parent / "results" / f"{report['bench']}.json")
    if out:
        out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written to {out}")
    if not report["losses"]["agree"]:
        print(f"the losses do not agree: {report['losses']}", file=sys.stderr)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

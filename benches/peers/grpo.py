#!/usr/bin/env python3
"""`llm-align` beside TRL: seconds per step of GRPO (rollouts and update), DPO and SFT on the processor, in one run.

    python grpo.py --ours target/debug/llm-align --model runs/quickstart/sft/model --exercises runs/quickstart/exercises/train.jsonl
    python grpo.py ... --tasks grpo --size 320,6,5,5,864      # a larger Llama with random weights and the tokenizer of --model
    python grpo.py ... --quick                                # a few steps of each: do the losses agree?

`pip install trl==1.16.0 peft==0.21.2 transformers==5.23.0 torch==2.15.0 datasets accelerate`; grpo_trl.py is the other side. Both
sides start from the same folder and have the same rows, optimiser and number of threads, and compute in float32.

- SFT and DPO: a step is the whole file, `--batch` conversations or pairs, so that the losses of the two sides are those of the same
  rows in whatever order, and must agree step by step. If not, the rest means nothing: status 1. Both sides ask the reference of DPO in
  every step; ours would by default ask it once, before training.
- GRPO: `--prompts` prompts with `--group` answers of exactly `--length` tokens: end tokens are left out of the model's configuration
  for us and forbidden to TRL. The reward grows with the characters of an answer, so that hardly any two of a group get the same: we
  leave out groups that have nothing to teach, TRL computes them. Samples differ, so the mean rewards of the first steps must only be
  near each other.
- Each side first shows which of its ways is fastest here: the size of micro-batches for TRL, that and the workers for us.
- A step is everything from the end of the one before to its own end. What is reported is the median after the first steps; rounds
  alternate which side comes first.

Bars: rollouts and update at most half of TRL's time, DPO and SFT at most TRL's. The machine must be idle otherwise.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BARS = {"grpo": 0.5, "dpo": 1.0, "sft": 1.0}
OPTIMIZER = {"lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "grad_clip": 1.0}
BETA, SKIPPED, COMPARED = 0.1, 2, 10
# An answer of so many characters has the highest reward, 0; one of none has -1.
CHARACTERS = 1000
LOSS_TOLERANCE, REWARD_TOLERANCE, LEAST_SIGNAL = 2e-3, 0.05, 0.9


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(v)}" for key, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def run(command, environment, log):
    with open(log, "w") as said:
        done = subprocess.run([str(word) for word in command], stdout=said, stderr=subprocess.STDOUT, env=os.environ | environment)
    if done.returncode:
        tail = "".join(open(log).readlines()[-8:])
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}\n{tail}")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


class Bench:
    def __init__(self, args, work):
        self.args, self.work = args, work
        self.environment = {"RAYON_NUM_THREADS": str(args.threads), "OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
        rows = [json.loads(line) for line in args.exercises.read_text(encoding="utf-8").splitlines()[:4096] if line.strip()]
        if len(rows) <= max(args.batch, args.prompts):
            sys.exit(f"{args.exercises}: {len(rows)} exercises are not enough for steps of {args.batch} and {args.prompts}")
        self.model = self.make() if args.size else args.model
        self.endless = self.without_ends()
        self.files = {
            "sft": write_rows(work / "conversations.jsonl", rows[: args.batch]),
            "dpo": write_rows(work / "pairs.jsonl", self.pairs(rows)),
            "grpo": write_rows(work / "prompts.jsonl", rows[: 8 * args.prompts]),
        }
        self.versions, self.parameters = None, None

    def pairs(self, rows):
        """The right answer, and the one to another question."""
        pairs = []
        for row, other in zip(rows, rows[1:]):
            if row["answer"] != other["answer"] and len(pairs) < self.args.batch:
                question = [m for m in row["messages"] if m["role"] != "assistant"]
                pairs.append({"prompt": question, "chosen": row["messages"][-1:], "rejected": other["messages"][-1:]})
        if len(pairs) < self.args.batch:
            sys.exit(f"{self.args.exercises}: too few different answers for {self.args.batch} pairs")
        return pairs

    def make(self):
        out = self.work / "model"
        settings = {"task": "make", "model": str(self.args.model), "size": self.args.size, "seed": 0, "out": str(out)}
        path = self.work / "make.json"
        path.write_text(json.dumps(settings))
        run([self.args.python, HERE / "grpo_trl.py", path], self.environment, self.work / "make.log")
        return out

    def without_ends(self):
        """The model for our rollouts: the same, but nothing ends an answer before its last token."""
        folder = self.work / "endless"
        shutil.copytree(self.model, folder)
        for name in ("config.json", "generation_config.json"):
            path = folder / name
            if path.exists():
                config = json.loads(path.read_text())
                config.pop("eos_token_id", None)
                path.write_text(json.dumps(config))
        return folder

    def shape(self, task):
        args = self.args
        return {"prompts": args.prompts, "group": args.group, "length": args.length} if task == "grpo" else {"batch": args.batch}

    def ours(self, task, name, steps, way):
        args, out = self.args, self.work / name
        trainer = {"max_steps": steps, "eval_every": 0, "checkpoint_every": 0, "workers": way["workers"], "optimizer": OPTIMIZER}
        trainer |= {"schedule": {"kind": "constant", "warmup_steps": 0}}
        config = {"model": str(self.endless if task == "grpo" else self.model), "train": str(self.files[task]), "seed": 0, "device": "cpu"}
        config |= {"micro_batch_tokens": way["micro_batch_tokens"]}
        if task == "grpo":
            config |= {"prompts_per_step": args.prompts, "group_size": args.group, "max_tokens": args.length, "max_batch": args.prompts * args.group}
            config |= {"rewards": [{"kind": "length", "min": CHARACTERS, "buffer": CHARACTERS, "unit": "characters", "part": "all"}]}
        else:
            config |= {"batch_size": args.batch}
        if task == "dpo":
            config |= {"beta": BETA, "reference_log_probs": "recomputed"}
        path = self.work / f"{name}.toml"
        path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in (config | {"trainer": trainer}).items()))
        run([args.ours, task, "--config", path, "--out", out], self.environment, self.work / f"{name}.log")
        steps = [json.loads(line) for line in open(out / "metrics.jsonl")]
        steps = [step for step in steps if "step_seconds" in step]
        seconds = [step["step_seconds"] + step["loop_seconds"] for step in steps]
        return {"seconds": seconds, "losses": [s["loss"] for s in steps], "rewards": [s.get("reward") for s in steps],
                "signal": [s.get("groups_with_signal", 1.0) for s in steps], "last": steps[-1]}

    def theirs(self, task, name, steps, way):
        args, out = self.args, self.work / name
        out.mkdir()
        settings = {"task": task, "model": str(self.model), "train": str(self.files[task]), "out": str(out), "steps": steps, "seed": 0}
        settings |= self.shape(task) | {"threads": args.threads, "optimizer": OPTIMIZER, "beta": BETA, "characters": CHARACTERS} | way
        path = self.work / f"{name}.json"
        path.write_text(json.dumps(settings))
        run([args.python, HERE / "grpo_trl.py", path], self.environment, self.work / f"{name}.log")
        result = json.loads((out / "steps.json").read_text())
        self.versions, self.parameters = result["versions"], result["parameters"]
        logs = [log for log in result["logs"] if "loss" in log]
        lengths = [log.get("completions/mean_length") for log in logs]
        return {"seconds": result["seconds"], "losses": [log["loss"] for log in logs], "rewards": [log.get("reward") for log in logs], "lengths": lengths}

    def ways(self, task):
        args = self.args
        if task == "grpo":
            answers = args.prompts * args.group
            per_device = [answers] + [answers // parts for parts in (4, 16) if answers % parts == 0 and answers // parts >= args.group]
            tokens = [1024, 2048, 8192]
        else:
            per_device = [args.batch] + [args.batch // 2] * (args.batch % 2 == 0)
            tokens = [512, 1024, 16384]
        ours = [{"workers": workers, "micro_batch_tokens": size} for workers in {1, args.threads} for size in tokens]
        return ours, [{"per_device": size} for size in per_device]

    def choose(self, task):
        """The fastest way of each side, by the median of a few steps."""
        chosen = []
        for side, ways in zip((self.ours, self.theirs), self.ways(task)):
            timed = []
            for number, way in enumerate(ways):
                made = side(task, f"choose-{task}-{side.__name__}-{number}", self.args.steps_of_choice, way)
                timed.append((statistics.median(made["seconds"][1:] or made["seconds"]), way))
            seconds, way = min(timed, key=lambda pair: pair[0])
            print(f"{task}: fastest way of {side.__name__}: {way}, {seconds:.3f} s a step", flush=True)
            chosen.append(way)
        return chosen


def agreement(task, ours, theirs):
    """How far losses (SFT, DPO) or mean rewards (GRPO) of the first steps are apart, and whether that is near enough."""
    if task == "grpo":
        first = [statistics.mean(side["rewards"][:3]) for side in (ours, theirs)]
        return {"mean_reward_of_first_steps": {"ours": first[0], "trl": first[1]}}, abs(first[0] - first[1]) <= REWARD_TOLERANCE
    pairs = list(zip(ours["losses"], theirs["losses"]))[:COMPARED]
    worst = max(abs(a - b) for a, b in pairs)
    return {"worst_loss_difference": worst, "steps": len(pairs), "first": {"ours": pairs[0][0], "trl": pairs[0][1]}}, worst <= LOSS_TOLERANCE


def measure(bench, args, task):
    way_ours, way_theirs = bench.choose(task)
    steps = args.steps or {"grpo": 8, "dpo": 30, "sft": 60}[task]
    medians, compared, agree = {"ours": [], "trl": []}, [], True
    for number in range(args.rounds):
        made = {}
        for side in ("ours", "trl") if number % 2 == 0 else ("trl", "ours"):
            call, way = (bench.ours, way_ours) if side == "ours" else (bench.theirs, way_theirs)
            made[side] = call(task, f"{task}-{side}-{number}", steps, way)
            later = made[side]["seconds"][min(SKIPPED, steps - 1) :]
            medians[side].append(statistics.median(later))
        difference, near = agreement(task, made["ours"], made["trl"])
        compared.append(difference)
        agree = agree and near
        print(f"{task}, round {number + 1}: ours {medians['ours'][-1]:.3f} s, TRL {medians['trl'][-1]:.3f} s a step; {difference}", flush=True)
    ours, theirs = (statistics.median(medians[side]) for side in ("ours", "trl"))
    report = {"shape": bench.shape(task), "steps": steps, "seconds_per_step": {"ours": round(ours, 5), "trl": round(theirs, 5)}}
    report |= {"ratio": round(ours / theirs, 4), "bar": BARS[task], "met": ours / theirs <= BARS[task], "agree": agree, "compared": compared}
    report |= {"ways": {"ours": way_ours, "trl": way_theirs}, "medians": medians}
    if task == "grpo":
        lengths = {"ours": made["ours"]["last"].get("completion_length"), "trl": made["trl"]["lengths"][-1]}
        signal = statistics.mean(made["ours"]["signal"])
        report |= {"answer_tokens": lengths, "groups_with_signal": signal}
        if signal < LEAST_SIGNAL:
            sys.exit(f"only {100 * signal:.0f} % of the groups differ in their rewards, and we skip the others: the comparison is not fair")
        if lengths["ours"] != args.length or lengths["trl"] != args.length:
            sys.exit(f"answers of both sides must have {args.length} tokens, but have {lengths}: the comparison is not fair")
    return report


def table(tasks):
    print(f"\n{'task':<6} {'ours, s':>9} {'TRL, s':>9} {'ratio':>7} {'bar':>5}  agree")
    for task, r in tasks.items():
        seconds = r["seconds_per_step"]
        mark = "" if r["met"] else "  MISSED"
        print(f"{task:<6} {seconds['ours']:>9.4f} {seconds['trl']:>9.4f} {r['ratio']:>7.3f} {r['bar']:>5.2f}  {'yes' if r['agree'] else 'NO'}{mark}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=pathlib.Path, required=True, help="the program llm-align")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="model folder with a chat template, e.g. runs/quickstart/sft/model")
    parser.add_argument("--exercises", type=pathlib.Path, required=True, help="JSONL of exercises, e.g. runs/quickstart/exercises/train.jsonl")
    parser.add_argument("--size", type=lambda text: [int(n) for n in text.split(",")], help="hidden,layers,heads,kv heads,ffn of a random Llama instead")
    parser.add_argument("--python", default=sys.executable, help="a Python with trl [this one]")
    parser.add_argument("--tasks", default="grpo,dpo,sft")
    parser.add_argument("--prompts", type=int, default=32, help="prompts of a GRPO step [32]")
    parser.add_argument("--group", type=int, default=8, help="answers to each [8]")
    parser.add_argument("--length", type=int, default=64, help="tokens of every answer [64]")
    parser.add_argument("--batch", type=int, default=16, help="conversations or pairs of a step [16]")
    parser.add_argument("--steps", type=int, help="steps of a run [grpo 8, dpo 30, sft 60]")
    parser.add_argument("--steps-of-choice", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of few steps; nothing is written without --out")
    parser.add_argument("--work", type=pathlib.Path, help="keep what the runs write here; a new folder")
    parser.add_argument("--out", type=pathlib.Path, help="[benches/results/alignment.json]")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps, args.steps_of_choice = 1, args.steps or 4, 2
    unknown = [task for task in args.tasks.split(",") if task not in BARS]
    if unknown:
        sys.exit(f"--tasks: {', '.join(unknown)}: expected some of {', '.join(BARS)}")
    args.ours, args.model, args.exercises = args.ours.resolve(), args.model.resolve(), args.exercises.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(args, work.resolve())
        tasks = {task: measure(bench, args, task) for task in args.tasks.split(",")}
    table(tasks)
    about = {"parameters": bench.parameters, "size": args.size, "versions": bench.versions, "threads": args.threads, "rounds": args.rounds}
    report = {"bench": "alignment"} | about | {"cores": os.cpu_count(), "machine": platform.machine(), "tasks": tasks}
    out = args.out or (None if args.quick else HERE.parent / "results" / "alignment.json")
    if out:
        out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written to {out}")
    good = all(r["agree"] and (r["met"] or args.quick) for r in tasks.values())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Draws the rewards of runs of `xtask/recipes/grpo.toml` over the steps, a line for each algorithm, its seeds as a band, and keeps the numbers.

    for a in grpo_trl gspo dr_grpo; do for s in 1 2 3; do
        cargo xtask pipeline run xtask/recipes/grpo.toml --out runs/grpo-$a-$s --set grpo.algorithm=$a --set seed=$s
    done; done
    python3 benches/grpo_curves.py runs/grpo-* --out docs/grpo.svg --json benches/results/grpo.json

No packages are needed. What is drawn is the mean reward of the sampled answers of a step, smoothed over WINDOW steps; the numbers at the
ends are those of `llm-align judge` on held-out prompts.
"""

import argparse
import json
import pathlib
import sys
import tomllib

WINDOW = 5
COLORS = ["#0f766e", "#b45309", "#4f46e5", "#be185d", "#4d7c0f", "#0369a1", "#7c2d12", "#6b21a8"]


def rate(run, stage):
    judged = json.loads((run / stage / "judge.json").read_text())["reward"]
    return {"mean": judged["mean"], "ci95": judged["ci95"], "n": judged["n"]}


def read(run):
    config = tomllib.loads((run / "configs" / "grpo.toml").read_text())
    lines = (run / "grpo" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "reward" in row]
    if not rows:
        sys.exit(f"{run}: no step with a reward in grpo/metrics.jsonl; is it a finished run of grpo.toml?")
    return {
        "run": run.name,
        "algorithm": config.get("algorithm", "grpo_trl"),
        "seed": config.get("seed", 0),
        "seconds": rows[-1]["elapsed_seconds"],
        "before": rate(run, "judge-sft"),
        "after": rate(run, "judge-grpo"),
        "reward": [round(row["reward"], 4) for row in rows],
    }


def smooth(values):
    return [sum(values[max(0, i - WINDOW + 1) : i + 1]) / (i + 1 - max(0, i - WINDOW + 1)) for i in range(len(values))]


def svg(runs):
    width, height, left, top, right, bottom = 720, 360, 52, 24, 150, 44
    steps = max(len(run["reward"]) for run in runs)
    x = lambda step: left + (width - left - right) * step / max(steps - 1, 1)
    y = lambda value: top + (height - top - bottom) * (1 - value)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for tick in range(0, 11, 2):
        at = y(tick / 10)
        parts.append(f'<path d="M{left} {at:.1f}H{width - right}" stroke="#e5e7eb"/><text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#4b5563">{tick / 10:.1f}</text>')
    for tick in range(0, steps + 1, max(1, steps // 5)):
        parts.append(f'<text x="{x(min(tick, steps - 1)):.1f}" y="{height - bottom + 18}" text-anchor="middle" fill="#4b5563">{tick}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 8}" text-anchor="middle" fill="#4b5563">step</text>')
    parts.append(f'<text x="{left}" y="14" fill="#4b5563">right answers among those sampled, by algorithm (band: seeds)</text>')
    ends = []
    for color, name in zip(COLORS, sorted({run["algorithm"] for run in runs})):
        curves = [smooth(run["reward"]) for run in runs if run["algorithm"] == name]
        n = min(map(len, curves))
        columns = [[curve[i] for curve in curves] for i in range(n)]
        if len(curves) > 1:
            edge = [f"{x(i):.1f} {y(max(c)):.1f}" for i, c in enumerate(columns)] + [f"{x(i):.1f} {y(min(c)):.1f}" for i, c in reversed(list(enumerate(columns)))]
            parts.append(f'<path d="M{"L".join(edge)}Z" fill="{color}" opacity="0.15"/>')
        mean = [sum(c) / len(c) for c in columns]
        parts.append(f'<path d="M{"L".join(f"{x(i):.1f} {y(m):.1f}" for i, m in enumerate(mean))}" fill="none" stroke="{color}" stroke-width="1.8"/>')
        ends.append([y(mean[-1]) + 4, x(n - 1) + 8, color, f"{name} {mean[-1]:.2f}"])
    # Names that would lie on each other are moved apart.
    ends.sort()
    for before, after in zip(ends, ends[1:]):
        after[0] = max(after[0], before[0] + 14)
    parts += [f'<text x="{at:.1f}" y="{row:.1f}" fill="{color}">{text}</text>' for row, at, color, text in ends]
    return "\n".join(parts) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    runs = sorted((read(run) for run in args.runs), key=lambda run: (run["algorithm"], run["seed"]))
    print(f"{'algorithm':<10} {'seed':>4} {'before':>7} {'after':>7} {'95 % interval':>15} {'steps':>6} {'seconds':>8}")
    for run in runs:
        low, high = run["after"]["ci95"]
        print(f"{run['algorithm']:<10} {run['seed']:>4} {run['before']['mean']:>7.3f} {run['after']['mean']:>7.3f} {f'{low:.3f} to {high:.3f}':>15} {len(run['reward']):>6} {run['seconds']:>8.0f}")
    if args.out:
        args.out.write_text(svg(runs))
    if args.json:
        args.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()

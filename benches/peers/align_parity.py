#!/usr/bin/env python3
"""Do peft and transformers read what `llm-align` leaves, and compute the same with it?

    python align_parity.py adapter ADAPTER --llm-eval target/debug/llm-eval --llm-arch target/debug/llm-arch
    python align_parity.py reward MODEL ROWS --llm-align target/debug/llm-align

`adapter`: ADAPTER is the folder of a run with `adapter = { .. }` in its configuration, e.g. `runs/qlora/lora/model`; its
`adapter_config.json` names the base. peft opens it, and the logits of a few prompts with the adapter, without it and merged are held
against ours: `llm-eval logits --adapter`, `llm-eval logits`, and `llm-arch merge` (left out without --llm-arch).

`reward`: MODEL is the folder of a reward model, ROWS a JSONL of preference pairs. transformers opens the folder as
AutoModelForSequenceClassification, and its scores of both answers of each pair are held against those of `llm-align score`; the chat
template of the folder makes the ids on both sides.

A tensor that is missing, left over or of another shape is an end, not a warning. Status 1 when a number differs by more than
`--tolerance` of the largest. Everything runs in float32 on the processor.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

PROMPTS = ["The borrow checker makes sure that", "What is 12 + 30?", "Anna hat 12 Äpfel und kauft 30 weitere.", "El río pasa por la ciudad y después"]


def run(command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stderr[-800:]}")
    return done.stdout


def sound(where, info):
    problems = {name: sorted(map(str, found)) for name, found in info.items() if found}
    if problems:
        sys.exit(f"{where}: not taken as it is: {problems}")


class Compared:
    def __init__(self, tolerance):
        self.tolerance, self.rows, self.failed = tolerance, [], False

    def add(self, what, ours, theirs):
        ours, theirs = torch.tensor(ours, dtype=torch.float64), theirs.double()
        if ours.shape != theirs.shape:
            sys.exit(f"{what}: {list(ours.shape)} numbers of ours, {list(theirs.shape)} of theirs")
        difference, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
        # `nan <= x` is false, so a NaN on either side fails too.
        good = difference <= self.tolerance * largest
        self.failed |= not good
        self.rows.append({"what": what, "max_abs": largest, "max_abs_diff": difference, "equal": good})
        print(f"{what:<44} largest {largest:>9.4f}  difference {difference:>9.2e}  {'equal' if good else 'DIFFERENT'}")


def ours_logits(args, model, adapter=None):
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump({"prompts": [{"text": text} for text in PROMPTS], "max_tokens": 1}, file)
        file.flush()
        command = [args.llm_eval, "logits", "--model", model, "--prompts", file.name, "--device", "cpu"]
        return json.loads(run(command + (["--adapter", adapter] if adapter else [])))["prompts"]


@torch.no_grad()
def adapter(args, compared):
    import peft

    config = json.loads((args.folder / "adapter_config.json").read_text())
    base = args.base or pathlib.Path(config["base_model_name_or_path"])
    model, info = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, output_loading_info=True)
    sound(base, info)
    model = peft.PeftModel.from_pretrained(model, args.folder).eval()
    # peft only warns about keys that it does not find; ask it what it would write, and compare with what is there.
    from safetensors import safe_open

    with safe_open(args.folder / "adapter_model.safetensors", "pt") as file:
        written = set(file.keys())
    expected = set(peft.get_peft_model_state_dict(model))
    if written != expected:
        sys.exit(f"{args.folder}: tensors differ from those peft would write: {sorted(written ^ expected)}")
    theirs = lambda ids: model(torch.tensor([ids])).logits[0]

    def hold(what, answers, call):
        for number, answer in enumerate(answers, 1):
            compared.add(f"{what}, prompt {number}", answer["logits"], call(answer["ids"]))

    hold("with the adapter", ours_logits(args, base, args.folder), theirs)
    with model.disable_adapter():
        hold("without it", ours_logits(args, base), theirs)
    if args.llm_arch:
        with tempfile.TemporaryDirectory() as temporary:
            merged = pathlib.Path(temporary) / "merged"
            run([args.llm_arch, "merge", "--model", base, "--adapter", args.folder, "--out", merged])
            answers = ours_logits(args, merged)
        model = model.merge_and_unload()
        hold("merged", answers, theirs)
    return {"peft": peft.__version__, "tensors": len(written)}


@torch.no_grad()
def reward(args, compared):
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(args.folder, dtype=torch.float32, output_loading_info=True)
    sound(args.folder, info)
    if model.config.num_labels != 1:
        sys.exit(f"{args.folder}: {model.config.num_labels} labels; a reward model has one")
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder)
    pairs = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").splitlines() if line.strip()][: args.limit]
    # The name of a control token inside a message is text to us and the token itself to transformers: such rows are other rows.
    controls = list(tokenizer.get_added_vocab())
    told = [pair for pair in pairs if not any(c in m["content"] for c in controls for m in pair["prompt"] + pair["chosen"] + pair["rejected"])]
    if len(told) < len(pairs):
        print(f"{len(pairs) - len(told)} of {len(pairs)} pairs left out: a message contains the name of a control token", file=sys.stderr)
    pairs = told
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        rows = temporary / "rows.jsonl"
        rows.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
        out = temporary / "scores.jsonl"
        run([args.llm_align, "score", "--model", args.folder, "--data", rows, "--kind", "pairs", "--out", out, "--device", "cpu"])
        scored = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    if len(scored) != len(pairs):
        sys.exit(f"llm-align score gave {len(scored)} rows for {len(pairs)} pairs")
    for side in ("chosen", "rejected"):
        theirs = []
        for pair in pairs:
            ids = tokenizer.apply_chat_template(pair["prompt"] + pair[side], tokenize=True, return_dict=False)
            theirs.append(float(model(torch.tensor([ids])).logits[0, 0]))
        compared.add(f"scores of {len(pairs)} {side} answers", [row[side] for row in scored], torch.tensor(theirs))
    return {"pairs": len(pairs)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("adapter", help="a PEFT folder of ours in peft")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("--base", type=pathlib.Path, help="folder of the model [that of adapter_config.json]")
    command.add_argument("--llm-eval", type=pathlib.Path, required=True)
    command.add_argument("--llm-arch", type=pathlib.Path, help="compare merged models as well")
    command = commands.add_parser("reward", help="a reward model of ours in transformers")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("rows", type=pathlib.Path, help="JSONL of pairs: prompt, chosen, rejected as messages")
    command.add_argument("--llm-align", type=pathlib.Path, required=True)
    command.add_argument("--limit", type=int, default=64, help="pairs [64]")
    for command in commands.choices.values():
        command.add_argument("--tolerance", type=float, default=1e-5, help="largest difference, as a part of the largest number [1e-5]")
        command.add_argument("--json", type=pathlib.Path, help="write the result there")
    args = parser.parse_args()
    compared = Compared(args.tolerance)
    about = adapter(args, compared) if args.command == "adapter" else reward(args, compared)
    about |= {"transformers": transformers.__version__, "torch": torch.__version__}
    if args.json:
        result = {"what": args.command, "tolerance": args.tolerance, "equal": not compared.failed, "compared": compared.rows, "about": about}
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'DIFFERENT' if compared.failed else 'equal'}: {len(compared.rows)} comparisons; {about}")
    sys.exit(1 if compared.failed else 0)


if __name__ == "__main__":
    main()

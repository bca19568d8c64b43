#!/usr/bin/env python3
"""TRL doing what `llm-align sft`, `dpo` and `grpo` do: the other side of grpo.py.

    python grpo_trl.py SETTINGS.json      # train; writes steps.json into the folder `out` of the settings

What TRL does by default that would cost it time here is switched off: gradient checkpointing, saving, reporting. Both sides compute in
float32. `per_device` of the settings is the size of its micro-batches; grpo.py times several and takes the fastest. Rows and model are
those of the other side. A step is the time from the end of the one before to its own end, so that everything counts: batches,
rollouts, rewards, forward, backward, optimiser.

The task `make` trains nothing: it writes a Llama of given sizes and random weights, with the tokenizer of `model`, into `out`.
"""

import json
import os
import pathlib
import resource
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DISABLE_TELEMETRY", "1")

import torch
import transformers
import trl
from datasets import Dataset
from train_step import set_malloc
from transformers import AutoTokenizer, TrainerCallback


IN_ORDER = {"train_sampling_strategy": "sequential"}


class Clock(TrainerCallback):
    """When steps end, and what was logged for them."""

    def __init__(self):
        self.ends, self.logs = [], []

    def on_train_begin(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append({"step": state.global_step} | {k: v for k, v in (logs or {}).items() if isinstance(v, (int, float))})


def rows(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def whole_file(settings, keep):
    """The file once for each step, in order, so that every step is the whole of it and no step begins an epoch, which takes TRL time."""
    once = [{key: row[key] for key in keep} for row in rows(settings["train"])]
    return Dataset.from_list(once * settings["steps"])


def common(settings, rows_per_step):
    per_device = min(settings["per_device"] or rows_per_step, rows_per_step)
    optimizer = settings["optimizer"]
    return {
        "output_dir": str(pathlib.Path(settings["out"]) / "trl"),
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": rows_per_step // per_device,
        "max_steps": settings["steps"],
        "learning_rate": optimizer["lr"],
        "lr_scheduler_type": "constant",
        "adam_beta1": optimizer["betas"][0],
        "adam_beta2": optimizer["betas"][1],
        "adam_epsilon": optimizer["eps"],
        "weight_decay": optimizer["weight_decay"],
        "max_grad_norm": optimizer["grad_clip"],
        "seed": settings["seed"],
        "use_cpu": True,
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def sft(settings, tokenizer, clock):
    data = whole_file(settings, ["messages"])
    # The template marks what the assistant says, so both sides train the same tokens.
    config = trl.SFTConfig(**common(settings, settings["batch"]), **IN_ORDER, assistant_only_loss=True, max_length=None)
    return trl.SFTTrainer(settings["model"], args=config, train_dataset=data, processing_class=tokenizer, callbacks=[clock])


def dpo(settings, tokenizer, clock):
    data = whole_file(settings, ["prompt", "chosen", "rejected"])
    config = trl.DPOConfig(**common(settings, settings["batch"]), **IN_ORDER, beta=settings["beta"], max_length=None)
    return trl.DPOTrainer(settings["model"], args=config, train_dataset=data, processing_class=tokenizer, callbacks=[clock])


def grpo(settings, tokenizer, clock):
    def question(row):
        return [message for message in row["messages"] if message["role"] != "assistant"]

    def length(completions, **kwargs):
        return [min(len(completion[0]["content"]) / settings["characters"] - 1.0, 0.0) for completion in completions]

    data = Dataset.from_list([{"prompt": question(row)} for row in rows(settings["train"])])
    answers, tokens = settings["prompts"] * settings["group"], settings["length"]
    config = trl.GRPOConfig(
        **common(settings, answers),
        num_generations=settings["group"],
        max_completion_length=tokens,
        # No end token before the last one: every answer has the same length, as on the other side.
        generation_kwargs={"min_new_tokens": tokens},
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        loss_type="dapo",
        scale_rewards="group",
    )
    return trl.GRPOTrainer(settings["model"], reward_funcs=length, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[clock])


def make(settings):
    """Weights of a given size and seed, and the tokenizer of a folder."""
    source, out = pathlib.Path(settings["model"]), pathlib.Path(settings["out"])
    known = json.loads((source / "config.json").read_text())
    hidden, layers, heads, kv_heads, ffn = settings["size"]
    torch.manual_seed(settings["seed"])
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    same = {key: known[key] for key in ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id") if key in known}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, intermediate_size=ffn, **same)).save_pretrained(out)
    AutoTokenizer.from_pretrained(source).save_pretrained(out)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    settings = json.loads(pathlib.Path(sys.argv[1]).read_text())
    if settings["task"] == "make":
        return make(settings)
    set_malloc("keep")
    torch.set_num_threads(settings["threads"])
    transformers.logging.set_verbosity_error()
    clock = Clock()
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    trainer = {"sft": sft, "dpo": dpo, "grpo": grpo}[settings["task"]](settings, tokenizer, clock)
    trainer.train()
    seconds = [after - before for before, after in zip(clock.ends, clock.ends[1:])]
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    about = {"versions": versions, "parameters": sum(p.numel() for p in trainer.model.parameters()), "peak_mib": peak}
    result = {"seconds": seconds, "logs": clock.logs} | about
    (pathlib.Path(settings["out"]) / "steps.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

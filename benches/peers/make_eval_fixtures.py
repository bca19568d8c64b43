#!/usr/bin/env python3
"""Writes fixtures/eval/lm_eval_requests.json: what lm-evaluation-harness asks about the first documents of every task.

    pip install lm_eval==0.4.13
    python benches/peers/make_eval_fixtures.py ../shared/data/benchmarks fixtures/eval/lm_eval_requests.json

The benchmark files are not in this repository, so only a hash (FNV-1a, 64 bits) of each document's requests is kept: context and
continuation of all of them, as plain text with several numbers of few-shot examples and as chats. `cargo test -p llm-eval` makes the same
requests and compares.
"""

import json
import sys

import lm_eval_local

DOCUMENTS = 30
CASES = [
    {"shots": 0, "chat": False, "multiturn": False},
    {"shots": 3, "chat": False, "multiturn": False},
    {"shots": 2, "chat": True, "multiturn": False},
    {"shots": 2, "chat": True, "multiturn": True},
]


def fnv(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{value:016x}"


def render(messages, add_generation_prompt=True):
    """A chat as text that any language can write."""
    return "".join(f"{m['role']}\x1f{m['content']}\x1d" for m in messages)


def main():
    data, out = sys.argv[1:]
    cases = []
    for case in CASES:
        for name in lm_eval_local.TASKS:
            task = lm_eval_local.task(name, data, case["shots"])
            task.build_all_requests(
                limit=DOCUMENTS,
                apply_chat_template=case["chat"],
                fewshot_as_multiturn=case["multiturn"],
                chat_template=render if case["chat"] else None,
            )
            documents = {}
            for instance in task.instances:
                documents.setdefault(instance.doc_id, []).append("\x1e".join(str(argument) for argument in instance.args))
            hashes = [fnv("\x1c".join(requests)) for _, requests in sorted(documents.items())]
            cases.append({"task": name, **case, "hashes": hashes})
    with open(out, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()

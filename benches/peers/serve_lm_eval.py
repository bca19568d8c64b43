"""Does lm-evaluation-harness get along with llm-serve, through its `local-completions` model?

    llm-serve serve --model DIR --port 8080
    python serve_lm_eval.py --url http://127.0.0.1:8080 --tokenizer DIR [--data ../shared/data/benchmarks] [--limit 20]

Multiple choice by log-likelihood (`echo` with `logprobs`) and generation, on local files. The tokenizer is the model's folder. Prints the
harness's results; the exit status is not 0 if a request failed. PyPI: lm_eval, transformers, torch, pyarrow, aiohttp, tenacity.
"""

import argparse
import json
import urllib.request

import lm_eval
import lm_eval.models  # the registry is filled by this
import lm_eval_generate  # adds its tasks to those of lm_eval_local
import lm_eval_local

parser = argparse.ArgumentParser()
parser.add_argument("--url", required=True)
parser.add_argument("--tokenizer", required=True)
parser.add_argument("--data", default="../shared/data/benchmarks")
parser.add_argument("--limit", type=int, default=20)
parser.add_argument("--tasks", default="arc_easy,hellaswag,gsm8k")
args = parser.parse_args()

name = json.load(urllib.request.urlopen(args.url.rstrip("/") + "/v1/models"))["data"][0]["id"]
model = lm_eval.api.registry.get_model("local-completions")(
    base_url=args.url.rstrip("/") + "/v1/completions",
    model=name,
    tokenizer=args.tokenizer,
    tokenizer_backend="huggingface",
    num_concurrent=4,
    max_retries=1,
    max_length=1024,
)
tasks = {name: lm_eval_local.task(name, args.data, 0) for name in args.tasks.split(",")}
for task in tasks.values():
    if task.OUTPUT_TYPE == "generate_until":
        task.set_config("generation_kwargs", {"max_gen_toks": 64}, update=True)
results = lm_eval.evaluate(lm=model, task_dict=tasks, limit=args.limit, bootstrap_iters=0)
print(json.dumps(results["results"], indent=1))

"""The tasks of lm-evaluation-harness on local files.

Task files, prompts and metrics are the harness's own: its YAML is loaded as it is, functions included. Only the data set is
replaced: instead of a download, a loader below reads the same local file as llm-eval and gives it the columns of the Hugging Face
data set. Where only the evaluated split is there, it takes the place of the validation split, and no other split is named; the
harness then draws few-shot examples from it and leaves the document itself out, as llm-eval does.

A task is a line in TASKS: name -> (YAML below lm_eval/tasks, loader, splits). A loader gets the data folder and gives {split: rows}.
"""

import csv
import json
import os

import datasets
import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml


def jsonl(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def hellaswag(data):
    def split(ctx):
        for i in range(len(ctx) - 1, 0, -1):
            if ctx[i] == " " and ctx[i - 1] in ".!?":
                return (ctx[:i], ctx[i + 1 :]) if ctx[i + 1 : i + 2].islower() else (ctx, "")
        return ctx, ""

    rows = jsonl(f"{data}/hellaswag/hellaswag_val_first1500.jsonl")
    for row in rows:
        row["ctx_a"], row["ctx_b"] = split(row["ctx"])
        row["label"] = str(row["label"])
    return {"validation": rows}


def arc(name):
    def load(data):
        rows = []
        for row in jsonl(f"{data}/commonsense/{name}.jsonl"):
            labels = [chr(ord("A") + i) for i in range(len(row["choices"]))]
            question = row["query"].removeprefix("Question: ")
            rows.append({"question": question, "choices": {"text": row["choices"], "label": labels}, "answerKey": labels[row["gold"]]})
        return {"validation": rows}

    return load


def piqa(data):
    rows = jsonl(f"{data}/commonsense/piqa.jsonl")
    return {
        "validation": [
            {"goal": r["query"].removeprefix("Question: "), "sol1": r["choices"][0], "sol2": r["choices"][1], "label": r["gold"]} for r in rows
        ]
    }


def truthfulqa(data):
    with open(f"{data}/truthfulqa/mc_task.json", encoding="utf-8") as file:
        rows = json.load(file)
    columns = lambda targets: {"choices": list(targets), "labels": list(targets.values())}
    return {
        "validation": [
            {"question": r["question"], "mc1_targets": columns(r["mc1_targets"]), "mc2_targets": columns(r["mc2_targets"])} for r in rows
        ]
    }


def lambada(data):
    return {"validation": jsonl(f"{data}/lambada/lambada_test_first1500.jsonl")}


def xcopa(lang):
    return lambda data: {split: jsonl(f"{data}/xcopa/{lang}/{file}.{lang}.jsonl") for split, file in (("validation", "val"), ("test", "test"))}


def mmlu(subject):
    def rows(path):
        with open(path, encoding="utf-8", newline="") as file:
            return [{"question": r[0], "choices": r[1:5], "answer": "ABCD".index(r[5])} for r in csv.reader(file)]

    return lambda data: {split: rows(f"{data}/mmlu/{split}/{subject}_{split}.csv") for split in ("dev", "test")}


ONE = {"training_split": None, "validation_split": "validation", "test_split": None}
TASKS = {
    "hellaswag": ("hellaswag/hellaswag.yaml", hellaswag, ONE),
    "arc_easy": ("arc/arc_easy.yaml", arc("arc_easy"), ONE),
    "piqa": ("piqa/piqa.yaml", piqa, ONE),
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", truthfulqa, ONE),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", truthfulqa, ONE),
    "lambada_openai": ("lambada/lambada_openai.yaml", lambada, ONE),
    **{f"xcopa_{lang}": (f"xcopa/default_{lang}.yaml", xcopa(lang), {}) for lang in ("et", "id", "it", "zh")},
    **{
        f"mmlu_{subject}": (f"mmlu/default/mmlu_{subject}.yaml", mmlu(subject), {})
        for subject in ("anatomy", "formal_logic", "high_school_psychology", "moral_scenarios", "college_medicine", "marketing")
    },
}


def task(name, data, num_fewshot=None):
    """The harness's task object, its data set read from `data`."""
    path, load, splits = TASKS[name]
    config = load_yaml(os.path.join(os.path.dirname(lm_eval.tasks.__file__), path), resolve_func=True)
    tables = {split: datasets.Dataset.from_list(rows) for split, rows in load(data).items()}
    for key in ("dataset_path", "dataset_name", "dataset_kwargs", "tag", "group"):
        config.pop(key, None)
    config |= {"task": name, "custom_dataset": lambda **_: datasets.DatasetDict(tables), **splits}
    made = ConfigurableTask(config=config)
    if num_fewshot is not None and made.get_config("num_fewshot") != 0:
        made.set_config("num_fewshot", num_fewshot)
    made.set_fewshot_seed(1234)
    return made

#!/usr/bin/env python3
"""Is a checkpoint that we saved the one that we loaded? transformers opens both and says.

    python roundtrip_transformers.py ORIGINAL SAVED [ORIGINAL SAVED ...]

Of each pair: every tensor stored in SAVED is bit for bit that of ORIGINAL; transformers finds no missing, unexpected or ill-shaped key;
the fields of the two configs that shape the computation are equal as transformers reads them; and so are the logits, bit for bit, on
the inputs of the fixture (ORIGINAL/inputs.json, else seeded random tokens with left padding), computed eagerly in float32 on the CPU.
Where SAVED has another dtype than ORIGINAL, ORIGINAL is rounded to it first and the change is printed; float8 is expanded first.
Tensors of ORIGINAL that SAVED leaves out (buffers that are no weights, a tied head) are printed, and are a fault only if transformers
misses them. Ends with status 1 and a table of what differs.
"""

import argparse
import pathlib
import sys

import dump_parity as parity
import torch
import transformers

# Written by the saving program, or of no consequence to the numbers of a trained model.
NOT_ARCHITECTURE = {
    "_name_or_path", "transformers_version", "dtype", "quantization_config", "auto_map", "use_cache", "initializer_range",
    "pretraining_tp", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "num_nextn_predict_layers",
    "attention_dropout", "hidden_dropout", "classifier_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "embd_dropout",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj", "task_specific_params",
}  # fmt: skip


def bits(tensor):
    """The bytes, so that NaN equals itself and -0 differs from 0."""
    return tensor.contiguous().flatten().view(torch.uint8)


def compare_weights(original, saved):
    """(faults, notes) between tensors by name."""
    faults, notes, casts = [], [], {}
    for name, tensor in saved.items():
        if name not in original:
            notes.append(f"new tensor {name}")
            continue
        source = original[name]
        if source.shape != tensor.shape:
            faults.append(f"weight {name}: shape {list(source.shape)} became {list(tensor.shape)}")
            continue
        if source.dtype != tensor.dtype:
            casts.setdefault(f"{source.dtype} -> {tensor.dtype}".replace("torch.", ""), []).append(name)
            source = source.to(tensor.dtype)
        if not torch.equal(bits(source), bits(tensor)):
            changed = int((source != tensor).sum())
            faults.append(f"weight {name}: {changed} of {tensor.numel()} elements differ, by up to {float((source.double() - tensor.double()).abs().max()):.3g}")
    notes += [f"{len(names)} tensors {cast}" for cast, names in casts.items()]
    if left := sorted(original.keys() - saved.keys()):
        notes.append(f"left out: {left[0]}" + (f" and {len(left) - 1} more" if left[1:] else ""))
    return faults, notes


# Fields of the hub's files that transformers 5 dropped; written for transformers 4 and for other readers.
HUB_ONLY = {"scoring_func", "topk_method", "moe_layer_freq"}


def compare_configs(original, saved):
    configs = [transformers.AutoConfig.from_pretrained(folder).to_dict() for folder in (original, saved)]
    names = sorted((configs[0].keys() | configs[1].keys()) - NOT_ARCHITECTURE)
    left, right = ({name: config.get(name, "absent") for name in names} for config in configs)
    changed = [name for name in names if left[name] != right[name]]
    return [f"config {name}: {left[name]} became {right[name]}" for name in changed if not (name in HUB_ONLY and left[name] == "absent")]


def rows(original, vocab):
    if (original / "inputs.json").exists():
        for batch in parity.read_json(original / "inputs.json")["batches"]:
            yield (batch["name"], *(torch.tensor(batch[key]) for key in ("input_ids", "attention_mask", "position_ids")))
    else:
        for name, ids, mask in parity.random_batches(vocab, seed=1):
            yield name, ids, mask, parity.positions(mask)


@torch.no_grad()
def compare(original, saved):
    """(faults, notes, batches compared) of a pair."""
    before, after = parity.weights(original), parity.weights(saved)
    if (block := parity.fp8_block(original)) is not None:
        before = parity.expand_fp8(before, block)
    faults, notes = compare_weights(before, after)
    faults += compare_configs(original, saved)
    rounded = {name: tensor.to(after[name].dtype) if name in after else tensor for name, tensor in before.items()}
    models = []
    for folder, tensors in ((original, rounded), (saved, None)):
        try:
            models.append(parity.load(folder) if tensors is None else parity.load_as(folder, tensors))
        except (SystemExit, Exception) as error:  # a pair that does not open must not hide the next one
            return [*faults, f"transformers does not open {folder}: {error}"], notes, 0
    compared = 0
    for name, ids, mask, place in rows(original, models[0].config.get_text_config().vocab_size):
        first, second = (model(input_ids=ids, attention_mask=mask, position_ids=place, use_cache=False).logits[mask.bool()] for model in models)
        compared += 1
        if first.shape != second.shape:
            faults.append(f"logits {name}: {list(first.shape)} became {list(second.shape)}")
        elif not torch.equal(first, second):
            faults.append(f"logits {name}: differ by up to {float((first - second).abs().max()):.3g}, largest {float(first.abs().max()):.3g}")
    return faults, notes, compared


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="ORIGINAL SAVED", help="pairs of model folders")
    args = parser.parse_args()
    if len(args.folders) % 2:
        parser.error("folders come in pairs: ORIGINAL SAVED")
    for folder in args.folders:
        if not (folder / "config.json").is_file():
            parser.error(f"{folder}: no config.json in it")
    table = []
    for original, saved in zip(args.folders[::2], args.folders[1::2]):
        faults, notes, compared = compare(original, saved)
        table += [(original.name, fault) for fault in faults]
        print(f"{original.name:<28} {'DIFFERENT' if faults else f'equal, {compared} batches'}" + (f"  ({'; '.join(notes)})" if notes else ""), flush=True)
    if table:
        print("\nwhat differs")
        for name, fault in table:
            print(f"  {name:<26} {fault}")
        sys.exit(1)


if __name__ == "__main__":
    main()

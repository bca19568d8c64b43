#!/usr/bin/env bash
# 300 steps of a 124M-parameter decoder in bfloat16 on a card: loss curve beside the processor's, MFU, memory over time.
#
#     benches/gpu_pretrain.sh FOLDER [DEVICE [OUT]]
#
# FOLDER holds bin/llm-train (built with the device's feature), tokenizer/ and pack/train, pack/heldout (`llm-data pack` with
# sequence_length = 1024 or less); DEVICE is cuda:0 by default, OUT the current folder. Environment: STEPS (300), CPU_STEPS (10), BATCH (32),
# MICRO (16), PEAK_TFLOPS (989.4, an H100 or H200). Writes OUT/gpu-pretrain.json and keeps both metrics files beside it. Needs bash, awk and
# coreutils; nvidia-smi for memory over time.
#
# Losses of the first CPU_STEPS steps must agree within 0.05 (bf16 against f32); memory of the last third must not exceed that of the middle
# third by more than 2 %.
set -euo pipefail
[ $# -ge 1 ] && [ $# -le 3 ] || { sed -n '2,13p' "$0" >&2; exit 2; }
folder=$1 device=${2:-cuda:0} out=${3:-.}
steps=${STEPS:-300} cpu_steps=${CPU_STEPS:-10} batch=${BATCH:-32} micro=${MICRO:-16}
for need in bin/llm-train tokenizer pack/train pack/heldout; do
    [ -e "$folder/$need" ] || { echo "$folder/$need is missing" >&2; exit 2; }
done
if [ "${device%%:*}" = cuda ] && [ ! -e /dev/nvidiactl ] && [ ! -e /dev/nvidia0 ] && [ ! -e /dev/dxg ]; then
    echo "$device: no NVIDIA card on this machine (no /dev/nvidiactl); nothing was measured" >&2
    exit 1
fi
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'kill "${watcher:-}" 2>/dev/null || true; rm -rf "$scratch"' EXIT

# max_steps is the same on both sides, as the learning rate depends on it; the processor is stopped after its share.
common=(--set "train=$folder/pack/train" --set "heldout=$folder/pack/heldout" --set "tokenizer=$folder/tokenizer"
    --set "batch_size=$batch" --set "trainer.max_steps=$steps" --set trainer.eval_every=100 --set trainer.checkpoint_every=0
    --set model.hidden_size=768 --set model.intermediate_size=2048 --set model.num_hidden_layers=12 --set model.num_attention_heads=12
    --set model.num_key_value_heads=12 --set model.max_position_embeddings=1024 --set model.tie_word_embeddings=true
    --set trainer.optimizer.lr=6e-4 --set trainer.schedule.warmup_steps=30)

(while sleep 2; do nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -1; done) >"$scratch/memory" 2>/dev/null &
watcher=$!
"$folder/bin/llm-train" pretrain "${common[@]}" --set "device=$device" --set precision=bfloat16 --set "micro_batch_size=$micro" --out "$scratch/gpu"
kill "$watcher" 2>/dev/null || true

"$folder/bin/llm-train" pretrain "${common[@]}" --set device=cpu --set micro_batch_size=1 --out "$scratch/cpu" &
processor=$!
until [ "$(grep -c '"loss"' "$scratch/cpu/metrics.jsonl" 2>/dev/null || echo 0)" -ge "$cpu_steps" ]; do
    kill -0 "$processor" 2>/dev/null || break
    sleep 1
done
kill -9 "$processor" 2>/dev/null || true
cp "$scratch/gpu/metrics.jsonl" "$out/gpu-pretrain.metrics.jsonl"
cp "$scratch/cpu/metrics.jsonl" "$out/cpu-pretrain.metrics.jsonl"

column() { sed -n 's/.*"'"$1"'":\([-0-9.e]*\).*/\1/p' "$2"; }
grep '"lr"' "$scratch/gpu/metrics.jsonl" >"$scratch/steps"
grep '"lr"' "$scratch/cpu/metrics.jsonl" >"$scratch/cpu-steps"
worst=$(paste <(column loss "$scratch/steps") <(column loss "$scratch/cpu-steps" | head -n "$cpu_steps") |
    awk 'NF == 2 { d = $1 - $2; if (d < 0) d = -d; if (d > w) w = d } END { print w + 0 }')
rate=$(column tokens_per_second "$scratch/steps" | tail -n +20 | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }')
flat=$(awk '{ v[NR] = $1 } END { for (i = 1; i <= NR; i++) { if (i > NR / 3 && i <= 2 * NR / 3 && v[i] > m) m = v[i]; if (i > 2 * NR / 3 && v[i] > l) l = v[i] }
    if (m > 0) print l / m; else print "null" }' "$scratch/memory")
last=$(column loss "$scratch/steps" | tail -1)
# 6 N per token and 12 L D T of attention, T halved by the causal mask (PaLM, appendix B).
mfu=$(awk -v r="$rate" -v p="${PEAK_TFLOPS:-989.4}" 'BEGIN { print r * (6 * 124e6 + 6 * 12 * 768 * 1024) / (p * 1e12) }')
printf '{"bench": "gpu_pretrain", "device": "%s", "steps": %d, "tokens_per_second": %s, "mfu": %s, "last_loss": %s, "worst_loss_difference": %s, "compared_steps": %d, "memory_last_over_middle": %s}\n' \
    "$device" "$steps" "$rate" "$mfu" "$last" "$worst" "$cpu_steps" "$flat" | tee "$out/gpu-pretrain.json"
awk -v w="$worst" -v f="$flat" 'BEGIN { exit !(w <= 0.05 && (f == "null" || f <= 1.02)) }'

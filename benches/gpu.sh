#!/usr/bin/env bash
# `cargo xtask bench gpu` for a machine without Rust: the same commands on programs that were built elsewhere.
#
#     benches/gpu.sh FOLDER [DEVICE [OUT]]
#
# FOLDER holds bin/llm-arch, bin/llm-train (built with the device's feature) and fixtures/decoder; DEVICE is cuda by default, OUT
# the current folder. Writes OUT/gpu-DEVICE.json. Environment: MODEL (gpt2), SETS ("vocab_size=50304"), PRECISION (bfloat16), BATCHES
# ("8 16 32 64"), LENGTH (1024), STEPS (20), TOLERANCE (2e-2), FIXTURES (all). Needs bash and coreutils only.
#
# To make FOLDER, where Rust is:
#     cargo build --workspace --bins --features llm-arch/cuda,llm-train/cuda   # llm-tensor/autotune,llm-tensor/fusion: to compare
#     mkdir -p gpu/bin && cp target/debug/llm-{arch,train} gpu/bin && cp -r fixtures gpu && cp benches/gpu.sh gpu
set -euo pipefail
[ $# -ge 1 ] && [ $# -le 3 ] || { sed -n '2,12p' "$0" >&2; exit 2; }
folder=$1 device=${2:-cuda} out=${3:-.}
for need in bin/llm-arch bin/llm-train fixtures/decoder; do
    [ -e "$folder/$need" ] || { echo "$folder/$need is missing" >&2; exit 2; }
done
if [ "${device%%:*}" = cuda ] && [ ! -e /dev/nvidiactl ] && [ ! -e /dev/nvidia0 ] && [ ! -e /dev/dxg ]; then
    echo "$device: no NVIDIA card on this machine (no /dev/nvidiactl); nothing was measured" >&2
    exit 1
fi
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

folders=()
for path in "$folder"/fixtures/decoder/*/; do
    name=$(basename "$path")
    [ -z "${FIXTURES:-}" ] || [[ " $FIXTURES " == *" $name "* ]] || continue
    folders+=("${path%/}")
done

# Status 1 with a list on stdout means that a model differs; no list means that the program broke off.
status=0
parity() {
    echo "parity of ${#folders[@]} models on $1" >&2
    if ! "$folder/bin/llm-arch" parity "${folders[@]}" --device "$1" --tolerance "$2" --json >"$scratch/$3"; then
        status=1
        [ -s "$scratch/$3" ] || echo null >"$scratch/$3"
    fi
}
parity cpu 1e-4 cpu
parity "$device" "${TOLERANCE:-2e-2}" device

sets=()
for set in ${SETS-vocab_size=50304}; do sets+=(--set "$set"); done
separator=
: >"$scratch/train"
for batch in ${BATCHES:-8 16 32 64}; do
    printf '%s' "$separator" >>"$scratch/train"
    separator=,
    if ! "$folder/bin/llm-train" bench --json --model "${MODEL:-gpt2}" "${sets[@]}" --device "$device" --precision "${PRECISION:-bfloat16}" \
        --batch "$batch" --length "${LENGTH:-1024}" --steps "${STEPS:-20}" >"$scratch/step"; then
        # For want of memory, most likely; a larger batch would not fit either.
        printf '{"batch": [%d, %d], "error": "failed"}\n' "$batch" "${LENGTH:-1024}" >>"$scratch/train"
        status=1
        break
    fi
    tee -a "$scratch/train" <"$scratch/step"
done

result=$out/gpu-${device//:/-}.json
{
    printf '{"bench": "gpu", "device": "%s", "tolerance": %s, "parity": {"cpu": ' "$device" "${TOLERANCE:-2e-2}"
    cat "$scratch/cpu"
    printf ', "device": '
    cat "$scratch/device"
    printf '}, "train": ['
    cat "$scratch/train"
    printf ']}\n'
} >"$result"
echo "$result"
exit $status

#!/usr/bin/env bash
# Kill -9 in the middle of every stage, start again, and compare the final model with an undisturbed run.
#
#     benches/kill_and_resume.sh RECIPE REFERENCE_RUN NEW_RUN [xtask arguments...]
#
# REFERENCE_RUN is the folder of a finished, undisturbed run of the same recipe (it is made first when it does not exist).
# Ends with status 0 only when every stage was killed once and all data, tokenizer and model files are the same bytes.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
recipe=$1 reference=$2 run=$3
shift 3
cd "$(dirname "${BASH_SOURCE[0]}")/.."

start() { cargo xtask pipeline run "$recipe" --out "$1" "${@:2}"; }
[ -f "$reference/report.html" ] || start "$reference" "$@"
[ ! -e "$run" ] || { echo "$run exists already; choose a new folder" >&2; exit 2; }

killed=()
for stage in $(sed -n 's/^id = "\(.*\)"/\1/p' "$recipe"); do
    setsid cargo xtask pipeline run "$recipe" --out "$run" "$@" >/dev/null 2>&1 </dev/null &
    group=$!
    # In the middle: training stages after a third of their steps, the others as soon as they run.
    steps=$(sed -n 's/^max_steps = //p' "$reference/configs/$stage.toml" | head -1)
    until [ -f "$run/$stage/.stage.json" ]; do
        if [ -n "$steps" ]; then
            [ "$(cat "$run/$stage/metrics.jsonl" 2>/dev/null | wc -l)" -gt $((steps / 3 + 1)) ] && break
        else
            [ -e "$run/$stage/.tmp-running.json" ] && break
        fi
        if ! kill -0 "$group" 2>/dev/null; then
            [ -f "$run/$stage/.stage.json" ] && break
            echo "$stage: the run ended by itself before it could be killed; start it by hand to see why" >&2
            exit 1
        fi
        sleep 0.02
    done
    if [ -f "$run/$stage/.stage.json" ]; then
        echo "$stage: was over before it could be killed"
    else
        echo "$stage: killed"
        killed+=("$stage")
    fi
    # The driver and whatever stage program it started share the session's process group.
    kill -9 -- "-$group" 2>/dev/null || true
    wait "$group" 2>/dev/null || true
done
start "$run" "$@" >/dev/null
echo "killed in ${#killed[@]} stages: ${killed[*]}"

# What a stage makes, without logs (metrics, events), times and manifests.
contents() { (cd "$1" && find . -type f \( -name '*.arrow' -o -name '*.parquet' -o -name '*.safetensors' -o -name 'tokenizer.json' -o -name '*.jsonl' \) \
    ! -name metrics.jsonl ! -name events.jsonl -print0 | sort -z | xargs -0 sha256sum); }
if diff <(contents "$reference") <(contents "$run"); then
    echo "all $(contents "$run" | wc -l) files are the same bytes; final model $(sha256sum <"$run/$(cd "$run" && ls -d grpo pretrain 2>/dev/null | head -1)/model/model.safetensors" | cut -c1-16)"
else
    echo "the runs differ" >&2
    exit 1
fi

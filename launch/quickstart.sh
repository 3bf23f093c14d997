#!/usr/bin/env bash
# A first run, in a few minutes on a laptop and with no download but the packages: four ranks on this machine train the
# small model of configs/quickstart.yaml on scikit-learn's handwritten digits, and the result is told in a few lines.
#
# Usage: launch/quickstart.sh [OPTION OF `hiso_pl fit` ...]
#
#   launch/quickstart.sh --trainer.max_steps 50
#   NPROC=1 launch/quickstart.sh                           another number of ranks; the digest stays the same
#   launch/quickstart.sh --trainer.default_root_dir runs/mine
#
# Variables: NPROC (ranks, default 4), HISO_PL_PYTHON and HISO_PL_VENV (see launch/environment.sh).
set -euo pipefail

here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"

folder=""
ask_only=false
previous=""
for argument in "$@"; do
    case "$argument" in
        --trainer.default_root_dir=*) folder="${argument#*=}" ;;
        -h | --help | --help=* | --*.help | --*.help=* | --print_config | --print_config=*) ask_only=true ;;
    esac
    if [[ "$previous" == --trainer.default_root_dir ]]; then
        folder="$argument"
    fi
    previous="$argument"
done

export HF_HUB_OFFLINE=1

if "$ask_only"; then
    exec "$python" -m hiso_pl fit --config "$root/configs/quickstart.yaml" "$@"
fi

place=()
if [[ -z "$folder" ]]; then
    folder="$root/runs/quickstart-$(date +%Y%m%d-%H%M%S)"
    place=(--trainer.default_root_dir "$folder")
fi

# An interrupted run has its summary too, so its status is kept until that is told.
status=0
"$python" -m hiso_pl launch --nproc "${NPROC:-4}" fit \
    --config "$root/configs/quickstart.yaml" ${place[@]+"${place[@]}"} "$@" || status=$?

if [[ ! -f "$folder/summary.json" ]]; then
    if ((status == 0)); then
        echo "hiso_pl: the run ended well, but there is no $folder/summary.json (was its folder set in a file?)" >&2
    fi
    exit "$status"
fi

"$python" - "$folder" "$(dirname -- "$python")/tensorboard" <<'PYTHON'
import json
import shlex
import sys
from pathlib import Path

folder, tensorboard = sys.argv[1:]
summary = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))
metrics, comm = summary["metrics"], summary["comm"]


def percent(metric: str, which: str) -> str:
    value = metrics.get(metric, {}).get(which)
    return "not measured" if value is None else f"{100 * value:.2f} %"


def kb(name: str) -> str:
    return f"{comm[name]:,.2f} KB"


ended = "interrupted after" if summary.get("interrupted") else "done:"
print(f"""
{ended} {summary["rounds"]} rounds, {summary["clients"]} clients ({summary["cohort"]} a round) on {summary["ranks"]} ranks, \
{summary["parameters"]:,} parameters, {summary["seconds"]:.0f} s
  test accuracy        {percent("test/accuracy", "last")}
  validation accuracy  {percent("val/accuracy", "first")} -> {percent("val/accuracy", "last")}
  sent per client      {kb("paper_kb")} as the paper counts, {kb("protocol_kb")} as a deployment sends
  sent per rank        {kb("measured_kb")} measured in this run's exchanges
  digest               {summary["digest"]}
  run folder           {folder}
  look at it           {shlex.join([tensorboard, '--logdir', folder])}""")
PYTHON
exit "$status"

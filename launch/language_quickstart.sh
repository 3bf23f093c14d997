#!/usr/bin/env bash
# A first run with a language model, in a few minutes on a laptop and with no download but the packages: a small OPT is
# pretrained on text that the package makes, then four ranks on this machine fine-tune it by forward passes to tell
# praise from blame, as configs/language_quickstart.yaml says, and the result is told in a few lines.
#
# Usage: launch/language_quickstart.sh [OPTION OF `hiso_pl fit` ...]
#
#   launch/language_quickstart.sh --trainer.max_steps 50
#   MODEL_SEED=2 launch/language_quickstart.sh             another text, another model
#   NPROC=1 launch/language_quickstart.sh                  another number of ranks; the digest stays the same
#   launch/language_quickstart.sh --trainer.default_root_dir runs/mine
#
# The folder of model and data is made once; later runs find it there.
#
# Variables:
#   MODEL          that folder (default: runs/small_language-MODEL_SEED in the repository's root)
#   MODEL_SEED     seed of text and weights (default 1)
#   NPROC          ranks (default 4)
#   HISO_PL_PYTHON, HISO_PL_VENV   see launch/environment.sh
set -euo pipefail

here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"

export HF_HUB_OFFLINE=1
seed="${MODEL_SEED:-1}"
model="${MODEL:-$root/runs/small_language-$seed}"

ask_only=false
place=(--trainer.default_root_dir "$root/runs/language_quickstart-$(date +%Y%m%d-%H%M%S)")
for argument in "$@"; do
    case "$argument" in
        -h | --help | --help=* | --*.help | --*.help=* | --print_config | --print_config=*) ask_only=true ;;
        --trainer.default_root_dir | --trainer.default_root_dir=*) place=() ;;
    esac
done
if ! "$ask_only"; then
    "$python" -m hiso_pl.small_language --output "$model" --seed "$seed"
fi

# That script starts the ranks and tells the result; this configuration comes after its own and replaces it.
exec bash "$here/quickstart.sh" --config "$root/configs/language_quickstart.yaml" ${place[@]+"${place[@]}"} \
    --model.network.pretrained "$model" --data.train_file "$model/train.tsv" \
    --data.validation_file "$model/validation.tsv" --data.test_file "$model/test.tsv" "$@"

#!/usr/bin/env bash
# Train on the GPUs of this machine, one rank each; on a machine without, one rank on its CPU.
#
# Usage: launch/one_node.sh --config FILE.yaml [OPTION OF `hiso_pl fit` ...]
#
#   launch/one_node.sh --config quickstart --trainer.default_root_dir runs/first
#   NGPU=2 launch/one_node.sh --config quickstart
#   NGPU=4 launch/one_node.sh --config quickstart --trainer.accelerator cpu
#
# Variables:
#   NGPU           ranks to start (default: the GPUs that torch sees, CUDA_VISIBLE_DEVICES respected). Any number up to
#                  that of the clients gives the same result; ranks may also share a GPU.
#   MAX_RESTARTS   how often the ranks are started again when one dies (default 0). The run resumes from its folder,
#                  so give it a --trainer.default_root_dir.
#   HISO_PL_PYTHON, HISO_PL_VENV   see launch/environment.sh.
set -euo pipefail

here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"

exec "$python" -m hiso_pl launch --nproc "${NGPU:-auto}" --max-restarts "${MAX_RESTARTS:-0}" fit "$@"

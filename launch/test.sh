#!/usr/bin/env bash
# All checks and all tests, in the order of what is quickest to fail; the first failure ends the script.
#
# Usage: launch/test.sh [PYTEST-ARGUMENT ...]
#
#   launch/test.sh                          everything
#   launch/test.sh tests/federation -x      the checks, then these tests only
#
# Tests run file by file in two processes; `-n 0` runs them in one, where a debugger can be.
#
# Variables: HISO_PL_PYTHON, HISO_PL_VENV and HISO_PL_CONSTRAINTS (see launch/environment.sh).
set -euo pipefail

here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"
cd "$root"

export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

step() {
    printf '== %s\n' "$1"
    shift
    "$@"
}

step "ruff check" "$python" -m ruff check .
step "ruff format --check" "$python" -m ruff format --check .
step "mypy hiso_pl tests" "$python" -m mypy hiso_pl tests
step "pytest" "$python" -m pytest -q -n 2 --dist loadfile "$@"

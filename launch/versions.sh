#!/usr/bin/env bash
# The tests with the newest versions that pyproject.toml allows, or with the oldest ones it states; each has an environment of
# its own, .venv-newest or .venv-oldest.
#
# Usage: launch/versions.sh newest|oldest [PYTEST-ARGUMENT ...]
#
#   launch/versions.sh newest -m "not slow"
#   HISO_PL_PYTHON=python3.10 launch/versions.sh oldest      Python 3.10 or 3.11: the oldest versions know no later one
#
# What passes with the newest is what launch/constraints.txt may name next:
#   .venv-newest/bin/python -m pip list --format=freeze
set -euo pipefail

here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
case "${1:-}" in
    newest) HISO_PL_CONSTRAINTS=none ;;
    oldest) HISO_PL_CONSTRAINTS=oldest ;;
    *)
        echo "hiso_pl: '${1:-}' must be newest or oldest" >&2
        exit 2
        ;;
esac
HISO_PL_VENV="$(dirname -- "$here")/.venv-$1"
# what was newest when it was installed may not be any more
[[ "$1" != newest ]] || rm -f "$HISO_PL_VENV/hiso_pl-installed.toml"
shift
source "$here/environment.sh"
cd "$root"

export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
exec "$python" -m pytest -q -n 2 --dist loadfile "$@"

# The Python environment of this clone: made when missing, brought up to date when pyproject.toml or the pins changed.
#
# Usage: source launch/environment.sh          (the other scripts of this folder do)
#
# Sets for the sourcing script:
#   root          the repository's root
#   python        the environment's Python
#
# Reads:
#   HISO_PL_PYTHON   the Python to make the environment with (default: the first of python3, python3.13 ... python3.10
#                    that is 3.10 to 3.13)
#   HISO_PL_VENV     where the environment is or shall be (default: .venv in the repository's root)
#   HISO_PL_CONSTRAINTS   which versions are installed: a file for pip's -c (default: launch/constraints.txt, what the tests
#                    last passed with), `none` for the newest that pyproject.toml allows, `oldest` for its lower ends
#
# Options of the shell are left as they are, and nothing exits: a person may source this file too.
# shellcheck shell=bash disable=SC2034

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

_hiso_pl_say() { printf 'hiso_pl: %s\n' "$*" >&2; }

_hiso_pl_suits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

_hiso_pl_find_python() {
    local candidate
    if [[ -n "${HISO_PL_PYTHON:-}" ]]; then
        if ! _hiso_pl_suits "$HISO_PL_PYTHON"; then
            _hiso_pl_say "HISO_PL_PYTHON=$HISO_PL_PYTHON is not a Python 3.10, 3.11, 3.12 or 3.13 that runs"
            return 1
        fi
        printf '%s\n' "$HISO_PL_PYTHON"
        return 0
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if _hiso_pl_suits "$candidate"; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    _hiso_pl_say "no Python 3.10 to 3.13 on the PATH: install one, or name it with HISO_PL_PYTHON=/path/to/python"
    return 1
}

# The constraints for pip; from pyproject.toml its lines "NAME>=VERSION", as NAME==VERSION.
_hiso_pl_pins() {
    local pins="${HISO_PL_CONSTRAINTS:-$root/launch/constraints.txt}"
    case "$pins" in
        none) ;;
        oldest) sed -nE 's/^ *"([A-Za-z0-9_.-]+)(\[[a-z]+\])?>=([0-9.]+)[^";]*(;[^"]*)?".*/\1==\3\4/p' "$root/pyproject.toml" ;;
        *) cat -- "$pins" ;;
    esac
}

# What the environment was installed from; another clone, place, pyproject.toml or pin makes another stamp.
_hiso_pl_stamp() {
    printf '# installed from %s with constraints:\n' "$root"
    _hiso_pl_pins || return 1
    cat "$root/pyproject.toml"
}

_hiso_pl_prepare() {
    local venv="$1" stamp="$1/hiso_pl-installed.toml" log="$1/hiso_pl-install.log" base status=0
    local pins="$1/hiso_pl-constraints.txt" newest=()
    if [[ -x "$venv/bin/python" ]] && _hiso_pl_stamp | cmp -s - "$stamp"; then
        return 0
    fi
    if "$venv/bin/python" -c '' >/dev/null 2>&1; then
        # Made by a tool that leaves pip out, or broken off while pip was being put in.
        "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >"$log" 2>&1 || status=$?
        if ((status != 0)); then
            _hiso_pl_say "$venv has no pip and cannot get it (log: $log): remove it, or set HISO_PL_VENV"
            return 1
        fi
    else
        base="$(_hiso_pl_find_python)" || return 1
        _hiso_pl_say "making $venv with $("$base" --version)"
        if ! "$base" -m venv "$venv" >"$log" 2>&1; then
            tail -n 5 "$log" >&2
            _hiso_pl_say "could not make $venv (on Debian and Ubuntu the package python3-venv is needed)"
            return 1
        fi
    fi
    if ! _hiso_pl_suits "$venv/bin/python"; then
        _hiso_pl_say "$venv holds $("$venv/bin/python" --version 2>&1), 3.10 to 3.13 is needed: remove it, or set HISO_PL_VENV"
        return 1
    fi
    _hiso_pl_say "installing hiso_pl and what it needs into $venv (minutes the first time; log: $log)"
    [[ "${HISO_PL_CONSTRAINTS:-}" != none ]] || newest=(--upgrade --upgrade-strategy eager)
    _hiso_pl_pins >"$pins"
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input ${newest[@]+"${newest[@]}"} -c "$pins" \
        -e "${root}[test]" >"$log" 2>&1 || status=$?
    if ((status != 0)); then
        tail -n 5 "$log" >&2
        _hiso_pl_say "pip install failed with status $status; the whole log is in $log (where a pinned version cannot be" \
            "had, HISO_PL_CONSTRAINTS=none goes without)"
        return 1
    fi
    _hiso_pl_stamp >"$stamp"
}

# Nodes that share a file system, or two scripts started together, must not install at the same time.
_hiso_pl_prepare_alone() {
    local venv="$1"
    mkdir -p "$venv" || return 1
    if ! command -v flock >/dev/null 2>&1; then
        _hiso_pl_prepare "$venv"
        return
    fi
    (
        if ! flock -n 9; then
            _hiso_pl_say "waiting for another script that is installing into $venv"
            flock 9 || exit 1
        fi
        _hiso_pl_prepare "$venv" 9>&-
    ) 9>"$venv/hiso_pl-install.lock"
}

_hiso_pl_environment() {
    local venv="${HISO_PL_VENV:-$root/.venv}"
    [[ "$venv" == /* ]] || venv="$PWD/$venv"
    if ! _hiso_pl_pins >/dev/null; then
        _hiso_pl_say "HISO_PL_CONSTRAINTS=${HISO_PL_CONSTRAINTS:-} must be a file that can be read, none or oldest"
        return 1
    fi
    # The common case first: nothing to do, nothing to lock (and the folder may be read-only).
    if ! { [[ -x "$venv/bin/python" ]] && _hiso_pl_stamp | cmp -s - "$venv/hiso_pl-installed.toml"; }; then
        _hiso_pl_prepare_alone "$venv" || return 1
    fi
    python="$venv/bin/python"
}

_hiso_pl_environment

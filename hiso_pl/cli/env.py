"""The command ``hiso-pl env``: what a bug report needs to know of a machine, and whether it computes the right bits."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiso_pl.cli.launch import CommandLine
from hiso_pl.errors import RunError

DESCRIPTION = """\
Tells the versions, the devices and the settings of this machine, for a bug report, and tries it out: the vectors of
the directions' stream and an update by every backend that runs here, to the bit, and a meeting of two ranks. It takes
some ten seconds, and ends with status 1 if something is wrong. Values of variables that may be secrets are left out."""
PREFIXES = (
    *("HF_", "TRANSFORMERS_", "TOKENIZERS_", "OMP_", "MKL_", "GOMP_", "KMP_", "NUMBA_", "TRITON_", "NCCL_", "GLOO_"),
    *("CUDA_", "CUBLAS_", "TORCH", "PYTORCH_", "NVIDIA_", "MASTER_", "HISO_PL_", "SLURM_", "OMPI_COMM_", "PYTHON"),
)
NAMES = {
    *(
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
        "NODE_RANK",
        "PMI_SIZE",
    ),
    *("USE_HUB_KERNELS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
}
SECRET = r"(?i)token(?!izers)|secret|passw|credential|(^|_)(key|auth)($|_)"
MORE_PACKAGES = ("huggingface_hub", "tensorboard", "scikit-learn", "pyarrow", "scipy", "matplotlib")


def run(args: Sequence[str]) -> None:
    """Runs the command, given what follows it.

    Raises:
        ConfigurationError: If the command line cannot be understood.
        RunError: If something of the machine is wrong.
    """
    made = CommandLine("env", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    to = "also as JSON: a file, or true for the standard output in place of the text"
    made.add_argument("--json", metavar="FILE|true", help=to)
    given = made.parse_args(list(args))
    alone = given.json == "true"
    found = facts()
    if not alone:
        sys.stdout.write(_text(found))
        sys.stdout.flush()
    from hiso_pl.bench import self_test

    tried = []
    for check in self_test.checks():
        tried.append(check)
        if not alone:
            sys.stdout.write(f"  {check.name}: {check.wrong or 'as it must be'} ({check.seconds:.1f} s)\n")
            sys.stdout.flush()
    if given.json is not None:
        text = json.dumps(found | {"self-test": [vars(check) for check in tried]}, indent=1) + "\n"
        if alone:
            sys.stdout.write(text)
        else:
            from hiso_pl.run.whole_file import whole_file

            with whole_file(Path(given.json)) as part:
                part.write_text(text, encoding="utf-8")
    wrong = [f"{check.name}: {check.wrong}" for check in tried if check.wrong]
    if wrong:
        raise RunError(f"{len(wrong)} of {len(tried)} self-tests failed: {'; '.join(wrong)}")


def facts() -> dict[str, Any]:
    """What this machine is, as plain values by heading."""
    from importlib import metadata

    import torch

    from hiso_pl.bench.machine import machine_facts
    from hiso_pl.run.versions import package_versions

    versions = package_versions()
    for name in MORE_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    machine = machine_facts(torch.device("cpu"))
    return {
        "versions": versions,
        "machine": {
            "system": platform.platform(),
            "processor": machine["cpu"],
            "cores": f"{machine['cores_usable']} usable of {machine['cores']}",
            "threads of torch": torch.get_num_threads(),
            "memory": _memory(),
            "python": sys.executable,
        },
        "devices": _devices(),
        "torch": {
            "cuda": torch.version.cuda or "none",
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else "none",
            "default dtype": str(torch.get_default_dtype()),
            "fp32 products": f"{torch.get_float32_matmul_precision()} (a run sets highest, without TF32)",
            "TF32 of cuDNN": torch.backends.cudnn.allow_tf32,
        },
        "environment": variables(os.environ),
    }


def variables(environ: Any) -> dict[str, str]:
    """The variables that matter, without what may be a secret."""
    kept = {k: v for k, v in environ.items() if k in NAMES or k.startswith(PREFIXES)}
    hidden = {k: "(set, not shown)" for k, v in kept.items() if v and re.search(SECRET, k)}
    shown = {k: re.sub(r"//[^/@\s]*@", "//...@", v) for k, v in kept.items()}
    return dict(sorted((shown | hidden).items()))


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "unknown"
    return f"{total / 2**30:.1f} GiB"


def _devices() -> dict[str, str]:
    import torch

    found = {}
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, capability {gpu.major}.{gpu.minor}"
    driver = Path("/proc/driver/nvidia/version")
    if driver.is_file():
        found["driver"] = driver.read_text(encoding="utf-8").partition("\n")[0]
    return found or {"gpu": "none that torch sees"}


def _text(found: dict[str, Any]) -> str:
    lines = []
    for heading, values in found.items():
        lines.append(f"{heading}:")
        if heading == "versions":
            pairs = [f"{name} {value}" for name, value in values.items()]
            lines += [f"  {', '.join(pairs[i : i + 6])}" for i in range(0, len(pairs), 6)]
        else:
            lines += [f"  {name}: {value}" for name, value in values.items()]
    return "\n".join([*lines, "self-test:"]) + "\n"

"""From a run's configuration and checkpoint to a folder, step by step."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import seed_everything

from hiso_pl.export.folder import FACTS, check_output, file_digest, replacing
from hiso_pl.export.module import ExportedModule, exportable, trained_tensors
from hiso_pl.export.writing import name_classes, save
from hiso_pl.models.tokenizer import load_tokenizer
from hiso_pl.ranks import process
from hiso_pl.run import versions
from hiso_pl.run.folder import DEFAULT_ROOT
from hiso_pl.run.start import resolve
from hiso_pl.zeroth_order.digest import digest_of_tensors
from hiso_pl.zeroth_order.options import DTYPES

log = logging.getLogger(__name__)

FORMAT = 1
METHOD = (
    "zeroth-order fine-tuning by scalars alone: HiSo, arXiv 2506.02370; without a Hessian DeComFL, arXiv 2405.15861"
)


class Asked(Protocol):
    """What an export is asked for; ``hiso-pl export --help`` says what each option means."""

    @property
    def output(self) -> str: ...
    @property
    def ckpt_path(self) -> str: ...
    @property
    def merge(self) -> bool: ...
    @property
    def dtype(self) -> str: ...
    @property
    def overwrite(self) -> bool: ...
    @property
    def tokenizer(self) -> str | None: ...


def export(settings: Asked, config: Any, build: Callable[[], Any]) -> Path:
    """Writes the folder, and returns it.

    Args:
        settings: What is asked for.
        config: The run's configuration, as far as it says what its network is.
        build: Builds the run's module, an :class:`ExportedModule`, of it.

    Raises:
        ValueError: If there is nothing to export, it is of another model, or the folder is not free.
    """
    output = Path(settings.output).expanduser().resolve()
    earlier = check_output(output, settings.overwrite)
    start = resolve(Path(config.trainer.default_root_dir or DEFAULT_ROOT), settings.ckpt_path, fitting=False)
    path, content = start.path, start.content
    assert path is not None
    assert content is not None
    process.configure(config.threads, config.deterministic)
    seed_everything(config.seed_everything, workers=True)  # as for fit: a new head is drawn
    module = build()
    assert isinstance(module, ExportedModule)
    network = exportable(module.network)
    adapted = hasattr(network.model, "peft_config")
    given = settings.tokenizer or config.data.init_args.tokenizer
    source, *options = (
        (given, None) if given else (network.tokenizer_source, network.tokenizer_revision, network.tokenizer_trusted)
    )
    if settings.merge and not (adapted and hasattr(network.model, "merge_and_unload")):
        raise ValueError("merge=True must be false: the network has no adapter that can be merged into its weights")
    trained = trained_tensors(content, module)
    module.restore(trained)
    tokenizer = None if source is None else load_tokenizer(source, *options)
    if output.exists():
        for place in (path, source, network.pretrained):
            if place is not None and Path(place).expanduser().resolve().is_relative_to(output):
                raise ValueError(f"output={settings.output} holds {place}, which is exported from: give another folder")
    name_classes(network, config.data.init_args.task, config.data.init_args.classes)
    kind = "merged" if settings.merge else "adapter" if adapted else "model"
    facts = {
        "format": FORMAT,
        "kind": kind,
        "round": int(content["global_step"]),
        "trained_parameters": sum(t.numel() for t in trained.values()),
        "trained_sha256": digest_of_tensors(trained.values()),  # a run's digest where it stores no H
        "dtype": settings.dtype,
        "base_model": {"name": network.pretrained, "revision": network.revision},
        "method": METHOD,
        "versions": versions.package_versions(),
    }
    with replacing(output, earlier) as folder:
        save(network, tokenizer, folder, kind, DTYPES[settings.dtype])
        facts["files"] = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    log.info("The %s of round %d is in %s.", kind, facts["round"], settings.output)
    return output

"""From a command line to a folder, step by step."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import seed_everything

from hiso_pl.cli.parser import ConfigurationError
from hiso_pl.cli.run import trainer_root
from hiso_pl.export.folder import FACTS, check_output, file_digest, replacing
from hiso_pl.export.module import ExportedModule, exportable, trained_tensors
from hiso_pl.export.settings import parse
from hiso_pl.export.writing import name_classes, save
from hiso_pl.models.loading import load_tokenizer
from hiso_pl.ranks import environment, process
from hiso_pl.run import versions
from hiso_pl.run.start import resolve
from hiso_pl.zeroth_order.digest import digest_of_tensors
from hiso_pl.zeroth_order.options import DTYPES

log = logging.getLogger(__name__)

FORMAT = 1
METHOD = (
    "zeroth-order fine-tuning by scalars alone: HiSo, arXiv 2506.02370; without a Hessian DeComFL, arXiv 2405.15861"
)


def run(args: Sequence[str]) -> Path:
    """Runs the command.

    Whoever calls it reports its errors, as ``hiso_pl.cli.main`` does.

    Args:
        args: What follows ``export``.

    Returns:
        The folder written.

    Raises:
        ConfigurationError: If the command line cannot be understood.
        ValueError: If there is nothing to export, it is of another model, or the folder is not free.
    """
    settings, parser, config = parse(args)
    if environment.world_size() > 1:
        raise ConfigurationError(f"export is for one process, not {environment.world_size()}: leave torchrun out")
    output = Path(settings.output).expanduser().resolve()
    earlier = check_output(output, settings.overwrite)
    start = resolve(Path(trainer_root(config)), settings.ckpt_path, fitting=False)
    path, content = start.path, start.content
    assert path is not None
    assert content is not None
    process.configure(config.threads, config.deterministic)
    seed_everything(config.seed_everything, workers=True)  # as for fit: a new head is drawn
    module = parser.instantiate(config).model
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

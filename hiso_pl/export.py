"""The command ``hiso-pl export``: from a run's checkpoint to a folder that Hugging Face's ``from_pretrained`` opens.

What is built is said by the configuration that is named on the command line, trusted as it is for ``fit``; the
checkpoint gives the values of the trained tensors, once it has been compared with what was built, and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import transformers
import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from lightning.pytorch import seed_everything
from torch import Tensor, nn

from hiso_pl.cli.parser import ConfigurationError, Parser, add_traceback
from hiso_pl.cli.run import trainer_root
from hiso_pl.data.tasks import find_task
from hiso_pl.errors import one_line
from hiso_pl.models import CausalLM, SequenceClassifier, TaskModel, TransformersModel
from hiso_pl.models.loading import load_tokenizer, unwrapped
from hiso_pl.module import FederatedModule, SchedulerCallable
from hiso_pl.ranks import environment, process
from hiso_pl.run import checkpoint, versions
from hiso_pl.run.start import resolve
from hiso_pl.zeroth_order.digest import digest_of_tensors
from hiso_pl.zeroth_order.interfaces import MethodBase
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.options import DTYPES

log = logging.getLogger(__name__)

FACTS = "hiso_pl.json"
"""What an exported folder says of the run it comes from; also what shows that a folder is an export."""

FORMAT = 1
METHOD = (
    "zeroth-order fine-tuning by scalars alone: HiSo, arXiv 2506.02370; without a Hessian DeComFL, arXiv 2405.15861"
)
KEPT: dict[str, Any] = {
    **dict.fromkeys(("seed_everything", "threads", "deterministic", "model")),
    "trainer": {"default_root_dir": None},
    "data": {"init_args": {"tokenizer": None, "task": None}},
}
"""What is read of a run's configuration: the sections that say what its network is, and three values of the others."""

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """One export.

    Args:
        output: Folder to write. It must not exist, or be empty.
        ckpt_path: Checkpoint of the run; ``last`` is the newest in the folder ``trainer.default_root_dir``.
        merge: Whether to write the whole model with the adapter merged into it, instead of the adapter alone.
        dtype: What weights are stored in. Training's own are fp32, and ``from_pretrained`` computes in what is stored
            (before version 5 of transformers only if told ``dtype="auto"``).
        overwrite: Whether a folder that an earlier export wrote is replaced, with all it holds.
        tokenizer: Folder or hub name of the tokenizer. If null, that of the run's data, or else the model's.

    Raises:
        ValueError: If an option cannot be.
    """

    output: str
    ckpt_path: str = "last"
    merge: bool = False
    dtype: Dtype = "float32"
    overwrite: bool = False
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is read."""
        if not self.output:
            raise ValueError("output='' must be a folder")
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"dtype={self.dtype!r} must be one of {', '.join(get_args(Dtype))}")


class ExportedModule(FederatedModule):
    """The run's module, which also keeps its frozen weights as they were loaded, whatever the run computed in.

    Args:
        network: The network with its task.
        method: What a round computed.
        lr_scheduler: How the learning rate follows the rounds.
        seed: The run's seed.
    """

    def __init__(
        self,
        network: TaskModel,
        method: MethodBase = Method(),  # noqa: B008 - it is frozen
        lr_scheduler: SchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        loaded = [p.data for p in network.parameters()]
        super().__init__(network, method, lr_scheduler, seed)
        self._loaded = loaded

    def restore(self, trained: Mapping[str, Tensor]) -> None:
        """Puts trained values in place, and the frozen weights back to the type they were loaded in."""
        for p, values in zip(self.network.parameters(), self._loaded, strict=True):
            p.data = values
        with torch.no_grad():
            for name, p in self.trainable():
                p.copy_(trained[name])


class ExportParser(Parser):
    """Takes a run's configuration, of which it reads what concerns the network."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parses what concerns the network; trainer, data and callbacks are not looked at."""
        return super().parse_string(_of_the_network(content), *args, **kwargs)


def parse(args: Sequence[str]) -> tuple[Settings, ExportParser, Namespace]:
    """Reads a command line.

    Args:
        args: What follows ``export``.

    Returns:
        What to do, the parser, and the configuration, of which nothing has been built yet.

    Raises:
        ConfigurationError: If it cannot be understood, or an option cannot be.
    """
    parser = ExportParser(
        prog="hiso-pl export",
        description="Writes a checkpoint's model or adapter as a Hugging Face folder. Give the run's config.yaml: it "
        "says which network this is.",
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="The run's configuration; several compose.")
    parser.add_class_arguments(Settings)
    parser.add_argument("--seed_everything", type=int, default=0, help="The run's seed.")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads. If null, all cores.")
    parser.add_argument("--deterministic", type=bool, default=True, help="As for fit.")
    parser.add_argument("--trainer.default_root_dir", type=str | None, default=None, help="The run's folder.")
    parser.add_argument("--data.init_args.tokenizer", type=str | None, default=None, help="The tokenizer of the data.")
    parser.add_argument("--data.init_args.task", type=Any, default=None, help="The task, which names the classes.")
    add_traceback(parser)
    parser.add_lightning_class_args(ExportedModule, "model")
    parser.link_arguments("seed_everything", "model.seed")
    config = parser.parse_args(list(args))
    try:
        settings = Settings(**{field.name: config[field.name] for field in fields(Settings)})
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return settings, parser, config


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
    check_output(output, settings.overwrite)
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
    name_classes(network, config.data.init_args.task)
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
    with replacing(output) as folder:
        save(network, tokenizer, folder, kind, DTYPES[settings.dtype])
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    log.info("The %s of round %d is in %s.", kind, facts["round"], settings.output)
    return output


def exportable(network: TaskModel) -> TransformersModel:
    """The network, if all it trains is in a transformers model.

    Raises:
        ValueError: If not.
    """
    what = "only hiso_pl.models.CausalLM, SequenceClassifier and ImageClassifier can be exported"
    if not isinstance(network, TransformersModel):
        raise ValueError(f"model.network={type(network).__name__} is no transformers model: {what}")
    for name, p in network.named_parameters():
        if p.requires_grad and not name.startswith("model."):
            raise ValueError(f"model.network={type(network).__name__} trains {name!r} outside its model: {what}")
    return network


def name_classes(network: TransformersModel, task: Any) -> None:
    """Lets a classifier's configuration say what its classes are called, where the run's task says so.

    Args:
        network: The network; the configuration of its model is changed.
        task: Name of a built-in task, the options of the user's own, or anything else, which names no classes.
    """
    classes: Any = task.get("classes") if isinstance(task, Mapping) else None
    if isinstance(task, str):
        try:
            classes = getattr(find_task(task), "classes", None)
        except ValueError:  # of another package, which has its own names
            return
    config = unwrapped(network.model).config
    if isinstance(network, CausalLM) or not isinstance(classes, list | tuple) or len(classes) != config.num_labels:
        return
    config.id2label = {i: str(name) for i, name in enumerate(classes)}
    config.label2id = {name: i for i, name in config.id2label.items()}


def trained_tensors(content: Mapping[str, Any], module: FederatedModule) -> dict[str, Tensor]:
    """The trained tensors of a checkpoint, by the names of the network's parameters.

    Raises:
        ValueError: If the checkpoint is of another model, or damaged.
    """
    try:
        checkpoint.compare(content, module.facts(), resuming=False)
        state = content["state_dict"]
        found = {name: state[f"network.{name}"] for name, _ in module.trainable()}
    except (AttributeError, KeyError, TypeError) as error:  # the file decides what is where
        raise ValueError(f"the checkpoint is damaged: {one_line(error)}") from error
    for name, p in module.trainable():
        tensor = found[name]
        if not isinstance(tensor, Tensor) or (tensor.shape, tensor.dtype, tensor.layout, tensor.device.type) != (
            p.shape,
            torch.float32,
            torch.strided,
            "cpu",
        ):
            raise ValueError(f"the checkpoint is damaged: {name!r} must be an fp32 tensor of shape {list(p.shape)}")
    return found


def save(
    network: TransformersModel,
    tokenizer: transformers.PreTrainedTokenizerBase | None,
    folder: Path,
    kind: str,
    dtype: torch.dtype,
) -> None:
    """Writes model or adapter, and the tokenizer where texts are its input. The network is changed on the way.

    Args:
        network: The network with its trained weights.
        tokenizer: The tokenizer; None for images.
        folder: Where to.
        kind: ``model``, ``adapter`` or ``merged``.
        dtype: What weights are stored in.

    Raises:
        ValueError: If the weights do not fit into ``dtype``, or cannot be merged.
    """
    model: Any = network.model
    if isinstance(network, SequenceClassifier) and tokenizer is not None:
        _agree_on_padding(unwrapped(model), tokenizer)
    if kind == "merged":
        model = _merged(model)
    for name, p in model.named_parameters():
        if p.is_floating_point() and (p.requires_grad or kind != "adapter"):
            stored = p.data.to(dtype)
            if not torch.isfinite(stored).all() and torch.isfinite(p.data).all():
                raise ValueError(f"dtype={str(dtype).removeprefix('torch.')} cannot hold {name!r}: take float32")
            p.data = stored
    if kind == "adapter":
        for config in model.peft_config.values():
            config.base_model_name_or_path = network.pretrained
            config.revision = network.revision
        # embeddings that are not trained are the base model's
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # an empty form
    else:
        cast(transformers.PreTrainedModel, model).save_pretrained(str(folder))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def check_output(output: Path, overwrite: bool) -> None:
    """Refuses a place that is taken.

    Args:
        output: The folder to be written.
        overwrite: Whether it may be an earlier export.

    Raises:
        ValueError: If something else is there.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"output={output} is a file, must be a folder")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"output={output} is not empty: give another folder, or --overwrite true")
    if not (output / FACTS).is_file():
        raise ValueError(f"output={output} is no earlier export (it has no {FACTS}), so it is not replaced")


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` to write into, which takes its place if the block ends well and is gone if not."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    old = output.with_name(f".{output.name}.{os.getpid()}.old")
    part.mkdir()
    try:
        yield part
        if output.exists():
            output.rename(old)
        try:
            part.rename(output)
        except OSError:
            if old.exists():
                old.rename(output)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if output.exists():
            shutil.rmtree(old, ignore_errors=True)


def _merged(adapted: Any) -> transformers.PreTrainedModel:
    """The model with its adapter merged; a head or an embedding that was adapted on its own stays tied no longer."""
    model = unwrapped(adapted)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if any(hasattr(module, "base_layer") or hasattr(module, "modules_to_save") for module in (embedding, head)):
        for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
            config.tie_word_embeddings = False
        base = getattr(head, "base_layer", head)
        if isinstance(getattr(base, "weight", None), nn.Parameter):
            base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=base.weight.requires_grad)
    try:
        return cast(transformers.PreTrainedModel, adapted.merge_and_unload(safe_merge=True))
    except (NotImplementedError, TypeError, AttributeError) as error:
        raise ValueError(f"merge=True must be false: {one_line(error)}") from error


def _agree_on_padding(model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Decoders find a sequence's end by the padding, so that the tokenizer's must be the model's."""
    config = model.config.get_text_config()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    elif config.pad_token_id != tokenizer.pad_token_id:
        config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id


def _of_the_network(content: str) -> str:
    """A run's configuration without the sections that do not say what its network is; values stay as written."""
    root = yaml.compose(content, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return content
    return yaml.serialize(_pruned(root, KEPT), Dumper=yaml.SafeDumper)


def _pruned(node: yaml.Node, kept: Mapping[str, Any] | None) -> yaml.Node:
    """A part of a configuration with those of its keys that are kept; None keeps all."""
    if kept is None:
        return node
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    inside = [(key, _pruned(value, kept[key.value])) for key, value in pairs if key.value in kept]
    return yaml.MappingNode("tag:yaml.org,2002:map", inside)

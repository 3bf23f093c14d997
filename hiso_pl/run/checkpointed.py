"""What a module of a run writes into a checkpoint, and takes from one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from hiso_pl.errors import RunError
from hiso_pl.federation.exchange import AllReduceExchange
from hiso_pl.federation.traffic import Traffic
from hiso_pl.run import checkpoint
from hiso_pl.run.checkpoint import Counters, RunFacts
from hiso_pl.run.checkpoint_state import state_digest
from hiso_pl.run.configuration import as_text
from hiso_pl.run.learning_rate import LearningRate
from hiso_pl.run.restored import keep_known, retention
from hiso_pl.stages.group import StageGroup
from hiso_pl.stages.offload import Offload
from hiso_pl.zeroth_order.digest import digest


class Checkpointed(LightningModule):
    """A module whose checkpoints are plain data, and are compared with the run before anything is taken from them.

    Attributes:
        network: The network with its task.
        learning_rate: The learning rate as configured.
        config: The run's configuration, as nested mappings.
        change_on_resume: Options that may differ from a checkpoint's, by name.
        changed_on_resume: Those that did.
        exchange: The one collective of a round.
        traffic: What a client has sent so far.
        last_validation: Metrics of the last validation.
        group: The ranks that hold the network together; None where it is whole.
    """

    network: Any
    group: StageGroup | None
    learning_rate: LearningRate
    config: Mapping[str, Any]
    change_on_resume: list[str]
    changed_on_resume: list[str]
    exchange: AllReduceExchange
    traffic: Traffic
    last_validation: dict[str, float]
    _initial_digest: str
    _frozen_sha256: str | None = None

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters in the order that fixes their streams; tied weights once."""
        return [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]

    def settle(self) -> None:
        """Finds out what is whose, where ranks hold the network together."""

    def frozen_sha256(self) -> str:
        """SHA-256 of all that never changes; ranks that hold the network together all ask at the same time."""
        if self.group is None:
            return checkpoint.frozen_fingerprint(self.network)
        if self._frozen_sha256 is None:
            self.settle()
            self._frozen_sha256 = checkpoint.frozen_fingerprint(self.network, self.group.brought_frozen)
        return self._frozen_sha256

    def facts(self) -> RunFacts:
        """What a checkpoint says of this run, and is compared with."""
        return RunFacts(
            config=as_text(self.config),
            trainable={name: list(p.shape) for name, p in self.trainable()},
            frozen=None if self.group is not None and not self.group.settled else self.frozen_sha256(),
        )

    def fingerprints(self) -> dict[str, str]:
        """Hashes of what must be the same on all ranks before a round; the data module has others."""
        return {"initial state": self._initial_digest, "frozen weights": self.frozen_sha256()}

    def on_save_checkpoint(self, content: dict[str, Any]) -> None:
        """Adds what a resumed run is compared with; leaves out what never changes."""
        if content.get("optimizer_states") is None and self.trainer.state.fn == "fit":
            self.optimizers(use_pl_optimizer=False).complete()  # type: ignore[union-attr]
        facts = self.facts()
        names = {f"network.{name}" for name in facts.trainable}
        content["state_dict"] = {name: t for name, t in content["state_dict"].items() if name in names}
        counters = Counters(self.traffic.state_dict(), self.exchange.payload_bytes, self.last_validation)
        if self.group is None:
            found = state_digest(content, list(facts.trainable))
        else:
            found = self._of_all_stages(self.group, content)
        content[checkpoint.KEY] = checkpoint.facts_as_data(facts, counters, found, retention=retention(self.trainer))

    def _of_all_stages(self, group: StageGroup, content: dict[str, Any]) -> str:
        """Puts into a checkpoint what other stages hold, on the rank that writes it; returns the state's digest.

        Raises:
            RunError: If the run was broken off, so that the other ranks may be anywhere.
        """
        if self.trainer.interrupted:
            raise RunError("no checkpoint can be written of a run broken off whose ranks hold the network together")
        optimizer = self.optimizers(use_pl_optimizer=False)
        found = digest(optimizer)  # type: ignore[arg-type]
        place = {name: t for t, (name, _) in enumerate(self.trainable())}
        tensors = [((place[s.name], s.kind), s.value.detach()) for s in optimizer.tensors()]  # type: ignore[union-attr]
        scratch = Offload(self.trainer.default_root_dir)
        names, states = list(place), content["optimizer_states"][0]["state"]
        for (t, kind), value in group.ways.brought(tensors, scratch.take):
            if kind == "x":
                content["state_dict"][f"network.{names[t]}"] = value
            else:
                states.setdefault(t, {})[kind] = value
        return found

    def on_load_checkpoint(self, content: dict[str, Any]) -> None:
        """Compares a checkpoint with this run, and leaves of it what is known.

        Raises:
            ValueError: If it is damaged, or of another model, method or data.
        """
        content.update(checkpoint.checked(content))
        resuming = self.trainer.state.fn == "fit"
        changed = checkpoint.compare(content, self.facts(), resuming, self.change_on_resume)
        keep_known(content, self.trainer)
        if self.group is not None:  # of the state the optimizer takes what it has
            here = {f"network.{name}" for t, (name, _) in enumerate(self.trainable()) if t in self.group.own}
            content["state_dict"] = {name: value for name, value in content["state_dict"].items() if name in here}
        if not resuming:
            return
        if not content.get("optimizer_states"):
            raise ValueError("the checkpoint holds weights alone, without H and the round's record: give another one")
        self.changed_on_resume, facts = changed, content[checkpoint.KEY]
        self.traffic.load_state_dict(facts["traffic"])
        self.exchange.payload_bytes = int(facts["measured_bytes"])
        self.last_validation = {str(k): float(v) for k, v in facts["last_validation"].items()}
        self.learning_rate.restore(content, facts["rebuilt"], changed)

"""A client's network over several ranks, a stage on each: what is whose, and what passes between them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hiso_pl.stages.brought import bringing
from hiso_pl.stages.cut import Cut, OrderError
from hiso_pl.stages.held import starts_of, vacate
from hiso_pl.stages.ways import Ways, groups_of
from hiso_pl.zeroth_order.digest import tensors_sha256
from hiso_pl.zeroth_order.points import is_absent
from hiso_pl.zeroth_order.watching import Watch

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")


class StageGroup:
    """The ranks that hold one client's network together, seen from one of them.

    Rank r is stage ``r % count`` of group ``r // count``. It is all a rank knows before :meth:`settle`, which needs the
    process group and an example.

    Args:
        network: The network. Parameters of other stages may be absent.
        count: Number of stages.
        blocks: Name of the list of blocks; None for the largest.
        starts: First block of each stage; None cuts by bytes.

    Attributes:
        stage: This rank's stage.
        own: Positions of the trained parameters whose values are here.
        parts: Those of each stage.
        frozen: Parameters that are not trained.

    Raises:
        ValueError: If the network cannot be cut so.
    """

    def __init__(
        self, network: nn.Module, count: int, blocks: str | None = None, starts: Sequence[int] | None = None
    ) -> None:
        self._everything = list(network.parameters())
        self._cut = Cut(network, self._everything, count, blocks, starts_of(network, count, blocks, starts))
        self._trained = [t for t, p in enumerate(self._everything) if p.requires_grad]
        self._frozen = [t for t, p in enumerate(self._everything) if not p.requires_grad]
        self.frozen = [self._everything[t] for t in self._frozen]
        self._network = network
        self._ways: Ways | None = None
        self._once = True
        self.stage = 0
        self.parts: Sequence[frozenset[int]] = []
        self.own: frozenset[int] = frozenset()

    @property
    def count(self) -> int:
        """Number of stages."""
        return self._cut.count

    @property
    def settled(self) -> bool:
        """Whether it is known what is whose."""
        return self._ways is not None

    @property
    def last(self) -> bool:
        """Whether losses come out here."""
        return self.stage == self.count - 1

    @property
    def bytes(self) -> int:
        """What this rank has handed to the next stage so far."""
        return self.ways.bytes

    def __repr__(self) -> str:
        return f"{self._cut!r}, on ranks"

    # What is whose

    def settle(
        self,
        loss: Callable[[], Any],
        evaluate: Callable[[], Any],
        world: int,
        via: torch.device = torch.device("cpu"),  # noqa: B008 - it is frozen
        timeout: timedelta | None = None,
    ) -> None:
        """Finds out by forward passes over an example what each stage reads, and lets go of all else.

        Args:
            loss: Evaluates the loss of an example.
            evaluate: Evaluates it as in a validation.
            world: Number of ranks.
            via: Where a tensor must be to be handed to the process group.
            timeout: How long the ranks wait for one another; as long as torch has it if None.

        Raises:
            ValueError: If ranks do not come to whole groups, or the network cannot be had in stages.
        """
        count = self.count
        groups_of(world, count)
        self._ways = Ways(count, world, via, timeout)
        self.stage = self._ways.stage
        self._once = all(self.merged({self.stage: self._runs_once(evaluate)}).values())
        watch = Watch(self._everything)
        for one in (loss, evaluate) if self._once else (loss,):
            with self._cut.following(watch):
                watch.of(one, self._network)
        self._cut.learn(watch)
        self._divide(watch.unseen)
        log.info("Each client is %d ranks, which hold %r.", count, self._cut)
        if not self._once:
            log.warning(
                "To measure runs the blocks more than once, as generating does: every rank of a client does it uncut, "
                "with all weights brought to it as they are read, again and again. That is slow."
            )

    def _runs_once(self, evaluate: Callable[[], Any]) -> bool:
        """Whether something runs the blocks once, so that it can go through the stages."""
        watch = Watch(self._everything)
        try:
            with self._cut.following(watch):
                watch.of(evaluate, self._network)
        except OrderError:
            return False
        return True

    def _divide(self, unseen: set[int]) -> None:
        blocks = self._cut.block_of(self._network)
        read = []
        for stage, part in enumerate(self._cut.parts):
            # what nobody was seen to read is with its block, or with all if it is in none
            elsewhere = {t for t in unseen if (block := blocks[t]) is not None and self._cut.stage_of(block) != stage}
            read.append(frozenset(part - elsewhere))
        self._read = read
        position = {t: i for i, t in enumerate(self._trained)}
        self.parts = [frozenset(position[t] for t in part if t in position) for part in read]
        self.own = self.parts[self.stage]
        names = [name for name, _ in self._network.named_parameters()]
        vacate(self._everything, names, read[self.stage])

    # Cuts, as probes know them

    def following(self, watch: Watch) -> AbstractContextManager[None]:
        """See :meth:`.cut.Cut.following`."""
        return self._cut.following(watch)

    def learn(self, watch: Watch) -> None:
        """What is whose has been settled."""

    def run(self, stage: int, evaluate: Callable[[], Any], arrived: Any) -> Any:
        """See :meth:`.cut.Cut.run`."""
        return self._cut.run(stage, evaluate, arrived)

    def measured(self, evaluate: Callable[[], V]) -> V | None:
        """What a measurement gives, known in the last stage: through all stages, or uncut if it runs blocks twice."""
        if self._once:
            found = self.through([evaluate])
            return found[0] if self.last else None
        with self.bringing(self._everything):
            output = evaluate()
        return output if self.last else None

    def through(self, evaluations: Sequence[Callable[[], V]]) -> list[V]:
        """Sends forward passes of one shape through all stages; what they give is known in the last one."""
        self.begin([("a measurement", 0)] * len(evaluations))
        found = []
        for evaluate in evaluations:
            output = self.run(self.stage, evaluate, self.receive())
            if self.last:
                found.append(output)
            else:
                self.send(output)
        self.end()
        return found

    def bringing(self, parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
        """See :func:`.brought.bringing`; all ranks of a group run the same operators inside the block."""
        place = {id(p): t for t, p in enumerate(self._everything)}
        return bringing({place[id(p)]: p for p in parameters}, self._fill)

    # What passes between the ranks, as :class:`hiso_pl.zeroth_order.linked.Links` tells of it

    @property
    def ways(self) -> Ways:
        """The ways between the stages, once it is settled who they are."""
        assert self._ways is not None, "settle() comes first"
        return self._ways

    def begin(self, passes: Sequence[tuple[str, int]]) -> None:
        """Says which forward passes come."""
        self.ways.begin(passes)

    def receive(self) -> Any:
        """What the stage before has left of the next pass; None in the first stage."""
        return self.ways.receive(self._everything[0].device)

    def send(self, output: Any) -> None:
        """Hands what this stage has left to the next one."""
        self.ways.send(output)

    def end(self) -> None:
        """Waits until all that was sent has been taken."""
        self.ways.end()

    def told(self, values: Tensor) -> Tensor:
        """What the last stage has here."""
        return self.ways.told(values)

    def merged(self, found: Mapping[K, V]) -> dict[K, V]:
        """What all stages have found."""
        return self.ways.merged(found)

    def bring(self, t: int, values: Tensor) -> None:
        """Fills values of a trained parameter where it is absent."""
        self._fill(self._trained[t], values)

    def _fill(self, t: int, values: Tensor) -> None:
        """Fills values of a parameter, by its position among all, from the first stage that has it."""
        has = [t in part for part in self._read]
        if not all(has):
            self.ways.fill(values, has.index(True))

    def brought_frozen(self, tensor: Tensor) -> Tensor:
        """The values of a frozen parameter, or of a buffer, wherever they are."""
        i = next((i for i, p in enumerate(self.frozen) if p is tensor), None)
        if i is None:  # a buffer, which all have
            return tensor.detach()
        values = torch.empty_like(tensor, requires_grad=False) if is_absent(tensor) else tensor.detach().clone()
        self._fill(self._frozen[i], values)
        return values

    def sha256_of(self, parameters: Sequence[tuple[str, Tensor]]) -> list[str]:
        """SHA-256 of each of some named parameters, in order; all ranks of a group ask at the same time."""
        here = [(name, p) for name, p in parameters if not is_absent(p)]
        hashes = tensors_sha256(p for _, p in here)
        found = self.merged({name: sha256 for (name, _), sha256 in zip(here, hashes, strict=True)})
        return [found[name] for name, _ in parameters]

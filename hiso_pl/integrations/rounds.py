"""What Trainer's loop is given in place of its own: an optimizer of rounds, and an order of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils.data import Sampler

from hiso_pl.zeroth_order import ZerothOrderOptimizer


class Shuffled(Sampler[int]):
    """An epoch's order as a function of seed and epoch, so that a resumed one is dealt as it was.

    With version 4 of transformers several processes would begin again with the order of the first epoch.
    """

    def __init__(self, size: int, trainer: transformers.Trainer) -> None:
        self._size, self._trainer = size, trainer

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        args, epoch = self._trainer.args, int(self._trainer.state.epoch or 0)
        seed = args.seed if args.data_seed is None else args.data_seed
        order = torch.randperm(self._size, generator=torch.Generator().manual_seed(seed + epoch))
        return iter(order.tolist())


class Rounds(ZerothOrderOptimizer):
    """The optimizer as Trainer's loop takes it: ``training_step`` runs the round before the loop calls ``step()``.

    Attributes:
        clients: Number of clients, one a process.
    """

    clients = 1
    _ran = False

    def run(self, closure: Callable[[], Tensor]) -> Tensor:
        """Runs the round; the next ``step()`` does nothing more."""
        loss = super().step(closure)
        self._ran = True
        return loss

    def step(self, closure: Any = None, **kwargs: Any) -> Any:
        """Ends the round that has been run."""
        if closure is None and not kwargs and self._ran:
            self._ran = False
            return None
        return super().step(closure, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """The state, and the method that led to it."""
        return {**super().state_dict(), "method": self._described()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state of the same method.

        Raises:
            ValueError: If it is of another one.
        """
        said, mine = state_dict.get("method"), self._described()
        if not isinstance(said, Mapping):
            raise ValueError("the checkpoint's optimizer.pt is not of a ZerothOrderTrainer")
        for name in (*mine, *said):
            if said.get(name) != mine.get(name):
                was, now = str(said.get(name))[:80], mine.get(name)
                raise ValueError(f"{str(name)[:80]} was {was} in the checkpoint and is {now}: undo it")
        super().load_state_dict(state_dict)

    def _described(self) -> dict[str, Any]:
        return {**self.method.as_data(), "clients": self.clients}

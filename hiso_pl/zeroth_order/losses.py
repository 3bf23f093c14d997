"""What a loss must be: one fp32 number, and the same function of the weights whenever it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Loss = Callable[[int], Tensor]
"""A slot's loss: the local step k in, the scalar fp32 loss on that step's minibatch out; where examples are private
each for itself, the loss of each example of it, shape ``[examples]``."""

_SAME = "all probes must see the same function"


def forward_only(closure: Callable[[], Tensor]) -> Loss:
    """A closure as a slot's loss.

    Raises:
        ValueError: When it is evaluated, if it calls ``backward()``; what it is to do instead is said.
    """

    def loss(k: int) -> Tensor:
        try:
            return closure()
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise ValueError(
                "the closure calls backward(), but a round takes forward passes alone: let it return the loss; a "
                "LightningModule sets self.automatic_optimization = False and calls self.optimizers().step(closure)"
            ) from error

    return loss


def checked(loss: Tensor) -> Tensor:
    """A loss as a scalar tensor.

    Raises:
        ValueError: If it is not one fp32 number.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.dtype != torch.float32:
        raise ValueError(f"a loss must be one float32 number, computed from float32 logits; got {_said(loss)}")
    return loss.detach().reshape(())


def _said(loss: object) -> str:
    return f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__


def checked_examples(losses: Tensor) -> Tensor:
    """The losses of a minibatch's examples.

    Raises:
        ValueError: If they are not one fp32 number for each of at least one example.
    """
    if not isinstance(losses, Tensor) or losses.dim() != 1 or not losses.numel() or losses.dtype != torch.float32:
        raise ValueError(
            "where each example is private a loss must be float32 of shape [examples], one number for each; got "
            f"{_said(losses)}; of a minibatch without any, give hiso_pl.zeroth_order.losses.no_examples"
        )
    return losses.detach()


def no_examples(k: int) -> Tensor:
    """The losses of a minibatch that has no examples; nobody needs to evaluate them."""
    return torch.empty(0)


def check_evaluating(network: nn.Module) -> None:
    """Refuses a network in training mode.

    Raises:
        RuntimeError: If a module of it is; the error names it.
    """
    for name, module in network.named_modules():
        if module.training:
            what = f"module {name!r}" if name else "the network"
            raise RuntimeError(
                f"{what} ({type(module).__name__}) is in training mode, but {_SAME}: call eval() of the network"
            )


class SameFunction:
    """Holds a forward pass to being a function of weights and batch, by two evaluations at one point.

    What lies between them may be evaluations elsewhere. What a forward pass writes to may be anything so long as it
    comes out the same: a cache that is filled anew each time, or what is made at first use.

    Args:
        loss: The loss, the first time.
        network: Whose buffers must not move, if known.
        written: What else must not: what is said of it, and the tensor.
        random: Operators that may draw random numbers.
        withheld: Whether an error must not tell the losses.
    """

    def __init__(
        self,
        loss: NDArray[np.float32],
        network: nn.Module | None,
        written: Iterable[tuple[str, Tensor]],
        random: Iterable[str],
        withheld: bool = False,
    ) -> None:
        self._loss = loss
        self._network = network
        self._written = list(written)
        self._random = sorted(random)
        self._withheld = withheld
        self._before = {name: tensor.clone() for name, tensor in self._state().items()}

    def _state(self) -> dict[tuple[str, int], Tensor]:
        """What must not move, by what is said of it and a number."""
        buffers = {} if self._network is None else dict(self._network.named_buffers())
        state = {(f"buffer {name!r}", 0): buffer for name, buffer in buffers.items()}
        known = {id(buffer) for buffer in buffers.values()}
        state |= {(what, i): tensor for i, (what, tensor) in enumerate(self._written) if id(tensor) not in known}
        return {key: t for key, t in state.items() if t.layout is torch.strided and not t.is_quantized}

    def check(self, loss: NDArray[np.float32]) -> None:
        """Compares with the second time.

        Args:
            loss: The loss, the second time.

        Raises:
            ValueError: If it is another, or something moved; the error says what.
        """
        before, after = self._before, self._state()
        moved = [key for key in before | after if key not in before or not _same(before[key], after.get(key))]
        if moved:
            what = ", ".join(list(dict.fromkeys(what for what, _ in moved))[:3])
            raise ValueError(f"the forward pass moves {what}, but {_SAME}: call eval() of the network")
        if not np.array_equal(self._loss, loss, equal_nan=True):
            by = f" ({', '.join(self._random)} may be)" if self._random else ""
            what = "another each time" if self._withheld else f"{self._loss} and then {loss}"
            raise ValueError(
                f"the loss of one minibatch at x is {what}, but {_SAME}: call eval() of the "
                f"network, and leave out what is random{by} or changes from call to call"
            )


def _same(a: Tensor, b: Tensor | None) -> bool:
    """Whether two tensors are equal bit by bit."""
    if b is None or a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return torch.equal(*(t.detach().reshape(-1).view(torch.uint8) for t in (a, b)))

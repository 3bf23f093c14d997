"""``torch.compile`` for the body of a transformer whose weights are exchanged between forward passes.

Probing puts other memory of the same shape under the parameters before every forward pass. The compiled code takes the
parameters as arguments, so it sees what is there and is not made anew. Here is what makes that dependable:

* One compilation serves every batch size and length from 2 on. A batch of one example, and one of one token, take one
  more each when they first come, since code for "2 or more" does not hold for 1.
* Code is generated on a batch of a fixed shape, never on the one that happens to come first: what is generated for may
  leave its mark in the code, and ranks and resumed runs meet their batches in different orders.
* Whatever the environment says, weights are not folded into the code, addresses are not recorded, and nothing is chosen
  by timing it.

What it costs: the first forward pass takes from ten seconds to minutes, on each rank, less where torch finds the code
in its cache. A compiled network has its embedding tables displaced whole, as nobody sees which rows its code reads, and
cannot be probed with ``memory: low`` or with ``directions_per_forward`` above 1.

Whether it helps: hardly on CPUs. For OPT with 7 M parameters on one core a forward pass of 16 x 32 or 4 x 16 took
1.05 to 1.2 times as long without it, in fp32 and bf16 alike, but a whole round of full fine-tuning, which displaces the
tables as well, took as long as before (0.94 to 1.02). It is meant for GPUs, where small operators wait for their
launches, and has not been measured there. ``data.pad_to_multiple_of: 8`` keeps lengths at what GPU kernels are aligned
to; it saves no compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from hiso_pl.errors import one_line

OPTIONS: dict[str, Any] = {"deterministic": True, "freezing": False, "triton.cudagraphs": False}
"""What the compiler must not be told otherwise by environment variables."""

EXAMPLES, LENGTH = 4, 8
"""The batch that code is generated on. They differ, lest the code be for square batches."""


def compile_in_place(body: nn.Module) -> None:
    """Lets a module's calls run compiled code, made at the first one; its parameters keep their names.

    It is called with token ids and masks of shape ``[B, T]`` among other things.
    """
    # what body.compile() sets, with a few lines around it; setting it leaves no wrapper in the names of parameters
    body._compiled_call_impl = _Compiled(body)


@contextmanager
def eagerly(body: nn.Module) -> Iterator[None]:
    """A module's calls run uncompiled inside the block, as for a cache that grows by a token a call."""
    compiled = body._compiled_call_impl
    body._compiled_call_impl = None
    try:
        yield
    finally:
        body._compiled_call_impl = compiled


class _Compiled:
    """Calls a module's compiled code, after seeing to it that the code does not depend on which batch came first."""

    def __init__(self, body: nn.Module) -> None:
        self._plain = body._call_impl
        self._call: Callable[..., Any] = torch.compile(body._call_impl, dynamic=True, options=OPTIONS)
        self._met: set[tuple[bool, ...]] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module.

        Raises:
            ValueError: If there is no compiler, or it cannot compile this module.
        """
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return self._plain(*args, **kwargs)  # mapped over several points: the compiler would decline as well
        args, kwargs = _mapped(_of_this_mode, args, kwargs)
        try:
            self._meet(args, kwargs)
            return self._call(*args, **kwargs)
        except TorchDynamoException as error:
            reason = one_line(getattr(error, "inner_exception", error))
            raise ValueError(f"compile=True must be false here, the compiler fails: {reason}") from error

    def _meet(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Has the code for a new kind of batch generated on the fixed shape."""
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not tensors or any(t.shape != tensors[0].shape or t.dim() != 2 for t in tensors):
            return  # embeddings or a cache: what a fixed example of that would be is not known here
        batch, length = tensors[0].shape
        kind = (batch == 1, length == 1, torch.is_inference_mode_enabled())
        if kind in self._met:
            return
        shape = (1 if batch == 1 else EXAMPLES, 1 if length == 1 else LENGTH)
        # ones do as token ids, segments and mask alike
        args, kwargs = _mapped(lambda value: value.new_ones(shape), args, kwargs)
        self._call(*args, **kwargs)
        self._met.add(kind)


def _mapped(
    change: Callable[[Tensor], Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with their tensors changed; what holds tensors, such as a cache, stays as it is."""

    def changed(value: Any) -> Any:
        return change(value) if isinstance(value, Tensor) else value

    return tuple(map(changed, args)), {name: changed(value) for name, value in kwargs.items()}


def _of_this_mode(value: Tensor) -> Tensor:
    """A batch made outside ``torch.inference_mode`` as one made inside: code for the one would not do for the other."""
    return value.clone() if torch.is_inference_mode_enabled() and not value.is_inference() else value

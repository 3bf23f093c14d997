r"""Peak memory of a round beside that of inference, by the allocator's own count.

On a GPU torch keeps the peak itself. On the CPU its profiler reports every allocation and release, and the highest
sum of them is the peak; no sampling of the process's size comes near that. With :math:`R` the bytes of parameters,
buffers and minibatches, which are there before,

.. math:: peak = R + \max_t \sum_{s \le t} bytes_s
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from hiso_pl.bench.timing import synchronize
from hiso_pl.bench.workload import Workload, build_optimizer, run_round
from hiso_pl.zeroth_order.points import is_absent


def peak_growth(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes that the device's allocator held while something ran, above what it held before."""
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells stderr that it starts, on every rank
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def resident(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind tensors, each counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def largest_block(network: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of the largest trainable tensor in the compute dtype, embeddings aside: those can be displaced by rows."""
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in network.parameters() if p.requires_grad and not is_absent(p)]
    sizes = [p.numel() for p in trained if id(p) not in embeddings]
    return max(sizes, default=0) * dtype.itemsize


def measure_memory(work: Workload) -> dict[str, int | float]:
    """Peaks of inference and of a round, in bytes.

    Inference is one forward pass beside the fp32 weights that are trained; ``inference_in_dtype`` has these in the
    compute dtype instead. A round includes what its optimizer keeps, H and scratch memory, since the optimizer is made
    within the measurement; two rounds are run, as the first may leave something behind.

    Returns:
        ``resident``, ``inference``, ``inference_in_dtype``, ``hessian``, ``round``, ``largest_block`` and
        ``relative``, that is round / (inference + hessian + largest_block).
    """
    device, network, settings = work.device, work.network, work.settings
    batches = [tensor for client in work.batches for batch in client for tensor in batch.values()]
    there = resident([*network.parameters(), *network.buffers(), *batches])
    trained = sum(p.numel() for p in work.optimizer.parameters if not is_absent(p))
    with work.at_base():
        work.one_forward()
        forward = peak_growth(work.one_forward, device)

    def rounds() -> None:
        optimizer = build_optimizer(settings, network, work.optimizer.exchange, work.group)
        for _ in range(2):
            run_round(optimizer, work.losses(), work.slots)

    inference, peak = there + forward, there + peak_growth(rounds, device)
    hessian, block = resident(work.optimizer.stored_hessians), largest_block(network, settings.dtype)
    return {
        "resident": there,
        "inference": inference,
        "inference_in_dtype": inference - trained * (4 - settings.dtype.itemsize),
        "hessian": hessian,
        "round": peak,
        "largest_block": block,
        "relative": peak / (inference + hessian + block),
    }

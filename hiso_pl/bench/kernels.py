r"""The kernels alone: against the memory floor, and against directions drawn again by ``torch.randn``.

A pass over n elements that must read and write b bytes of each takes at least n b / bandwidth, with the bandwidth of
``Tensor.copy_`` (bytes read and written) between buffers larger than any cache, by the same threads:

.. math:: b_{displace} = 4_x + 4_H + out \qquad b_{update} = 8_x + 8_H

H counts where it is elementwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hiso_pl.bench.settings import METHOD, Settings
from hiso_pl.bench.timing import Contestant, Summary, alone, device_seconds_of, interleave, summarize
from hiso_pl.bench.usual import Noise, published_update
from hiso_pl.bench.workload import Workload
from hiso_pl.zeroth_order.kernels import Offset, select
from hiso_pl.zeroth_order.points import NO_DRIFT, Writer
from hiso_pl.zeroth_order.streams import Site
from hiso_pl.zeroth_order.tensors import Target

COPY_ELEMENTS = 1 << 26
"""Elements of each buffer of the copy, 256 MiB."""
COLUMNS = 1024
"""Columns of the tensor that the kernels are measured on."""
REPETITIONS = 5


def displacements(settings: Settings, slots: int) -> int:
    """Points written in a round by a rank that hosts some slots.

    In the first local step all slots stand at the same x, so with ``memory: fast`` each point along directions
    that they share is written once for all. Later every slot has its own, the local point itself included.
    """
    central, method = settings.method.difference == "central", settings.method
    apart = method.memory == "low" or method.directions == "client"
    cast = settings.dtype != torch.float32 or settings.method.directions_per_forward != 1  # x itself is written as well
    first = settings.forwards_per_step if central or cast else settings.method.num_directions
    later = slots * (settings.method.local_steps - 1) * settings.forwards_per_step
    return first * (slots if apart else 1) + later if slots else 0


def displace_all(work: Workload) -> Summary:
    """Seconds to write one displaced point of all trainable parameters here, whole."""
    optimizer, settings = work.optimizer, work.settings
    method, parameters = settings.method, optimizer.parameters
    writer = Writer(parameters, select(method.backend, work.device), method.preconditioner)
    writer.look()
    here = range(len(parameters)) if work.group is None else sorted(work.group.own)
    outs = {t: torch.empty_like(writer.bases[t], dtype=settings.dtype) for t in here}
    point = optimizer.plan().point(0, Offset(0, method.mu), NO_DRIFT)

    def run() -> None:
        writer.write_all(outs, point)

    return alone(run, work.device, REPETITIONS, device_seconds_of)


@torch.no_grad()
def measure_kernels(settings: Settings, device: torch.device, copied: int = COPY_ELEMENTS) -> dict[str, Any]:
    """Measures displacement and update of one tensor of ``kernel_elements`` elements, in turns with what bounds them.

    Returns:
        The copy's bandwidth in bytes a second; for ``displace`` and ``update`` the seconds, nanoseconds an element
        and direction, bytes a second, floor in bytes an element, and how many times the floor's time it takes. For
        ``usual_update`` the seconds, and how many times those of ``update`` they are: by the operations of the
        ``published`` simulation, which draws each direction twice, and by ``careful`` ones, which draw it once and
        work in place.
    """
    n, tau = settings.kernel_elements, settings.method.local_steps
    directions = settings.method.drawn(settings.clients, settings.method.num_directions)
    torch.manual_seed(settings.seed)
    x, out = torch.randn(n, device=device), torch.empty(n, dtype=settings.dtype, device=device)
    source, target = torch.zeros(copied, device=device), torch.empty(copied, device=device)
    preconditioner = settings.method.preconditioner
    # a structured H is beside the kernels
    hessian = None if preconditioner.structured else preconditioner.initial(x, Target(0, "x", (n,)))
    decay, squares = preconditioner.decay, preconditioner.uses_squares
    elementwise = hessian is not None and hessian.numel() == n
    shape = (-(-n // COLUMNS), COLUMNS)  # of directions that go by rows and columns; the last row may be a part of one
    kernels, method = select("auto", device), settings.method
    site = Site.of(settings.seed, method.distribution, method.rank, 0, shape, 0)
    offset = Offset(0, settings.method.mu)
    weights = np.linspace(-1.0, 1.0, tau * directions + 1, dtype=np.float32)[1:].reshape(tau, directions)
    noise, scalars = Noise([x], [hessian], settings.seed), (directions * weights).tolist()
    contestants = {
        "copy": Contestant(lambda: target.copy_(source)),
        "displace": Contestant(lambda: kernels.displace(out, x, hessian, site, 0, offset, NO_DRIFT, METHOD.lr)),
        "update": Contestant(lambda: kernels.update(x, hessian, site, weights, METHOD.lr, decay, squares)),
        "published": Contestant(lambda: published_update(x, hessian, scalars, settings.seed, METHOD.lr, decay)),
        "careful": Contestant(lambda: noise.update(scalars, METHOD.lr, decay)),
    }
    times = interleave(contestants, device, REPETITIONS, 1, device_seconds_of)
    seconds = {name: summarize(values) for name, values in times.items()}
    bandwidth = 8.0 * copied / seconds["copy"].median

    def against_floor(name: str, drawn: int, floor: int) -> dict[str, Any]:
        median = seconds[name].median
        return {
            "seconds": seconds[name]._asdict(),
            "ns_per_element_and_direction": 1e9 * median / (n * drawn),
            "bytes_per_second": floor * n / median,
            "floor_bytes_per_element": floor,
            "times_floor": median * bandwidth / (floor * n),
        }

    return {
        "elements": n,
        "directions": tau * directions,
        "copy_bytes_per_second": bandwidth,
        "displace": against_floor("displace", 1, 4 + 4 * elementwise + settings.dtype.itemsize),
        "update": against_floor("update", tau * directions, 8 + 8 * elementwise),
        "usual_update": {
            name: {"seconds": seconds[name]._asdict(), "times_ours": seconds[name].median / seconds["update"].median}
            for name in ("published", "careful")
        },
    }

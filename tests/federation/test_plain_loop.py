"""The optimizer in a plain PyTorch loop of two processes, without Lightning: in step, and equal to one process."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from hiso_pl.zeroth_order import ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest

ROUNDS = 5

SCRIPT = """
import os
import sys
import torch
import torch.distributed as dist
from torch import nn
from hiso_pl.federation.exchange import AllReduceExchange
from hiso_pl.zeroth_order import ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest

dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Linear(6, 3)
optimizer = ZerothOrderOptimizer(model.named_parameters(), lr=0.05, seed=3, exchange=AllReduceExchange())
data = torch.Generator().manual_seed(100 + dist.get_rank())
for _ in range({rounds}):
    x, y = torch.randn(8, 6, generator=data), torch.randint(0, 3, (8,), generator=data)
    optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))
sys.stdout.write(digest(optimizer) + chr(10))
sys.stdout.flush()
dist.barrier()
os._exit(0)  # gloo's threads now and then abort a process that ends on its own
"""


@pytest.mark.slow
def test_two_processes_equal_one_with_two_losses(tmp_path):
    script = tmp_path / "loop.py"
    script.write_text(SCRIPT.replace("{rounds}", str(ROUNDS)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        if "connectFullMesh" not in done.stderr:  # gloo itself now and then fails to connect on a loaded machine
            break
    assert done.returncode == 0, done.stderr
    digests = done.stdout.split()

    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    optimizer = ZerothOrderOptimizer(model.named_parameters(), lr=0.05, seed=3)
    generators = [torch.Generator().manual_seed(100 + rank) for rank in range(2)]
    for _ in range(ROUNDS):
        batches = [(torch.randn(8, 6, generator=g), torch.randint(0, 3, (8,), generator=g)) for g in generators]
        optimizer.step(losses=[lambda k, b=b: nn.functional.cross_entropy(model(b[0]), b[1]) for b in batches])
    assert digests == [digest(optimizer)] * 2

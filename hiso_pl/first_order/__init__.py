"""Baselines that are not scalar-only: clients take local steps, and differences of models travel.

They stand behind the same ``step(losses, slots)`` as what is scalar-only, and see the same data, cohorts, metrics and
callbacks. Their exchange carries tensors (4 d bytes each way), so there is no record of a round, and no ledger. In a
plain loop, one client a process::

    import torch
    from hiso_pl.first_order import DifferenceOptimizer, FedAdam

    model = torch.nn.Linear(4, 2).eval()
    optimizer = DifferenceOptimizer(model.named_parameters(), FedAdam(lr=0.1, server_lr=0.01), network=model)
    for inputs, targets in batches:
        loss = optimizer.step(lambda: torch.nn.functional.cross_entropy(model(inputs), targets))
"""

from hiso_pl.first_order.fed_adagrad import FedAdagrad as FedAdagrad
from hiso_pl.first_order.fed_adam import FedAdam as FedAdam
from hiso_pl.first_order.fed_avg import FedAvg as FedAvg
from hiso_pl.first_order.fed_yogi import FedYogi as FedYogi
from hiso_pl.first_order.fed_zo import FedZO as FedZO
from hiso_pl.first_order.method import DifferenceMethod as DifferenceMethod
from hiso_pl.first_order.optimizer import DifferenceOptimizer as DifferenceOptimizer
from hiso_pl.first_order.work import Task as Task
from hiso_pl.first_order.work import Work as Work

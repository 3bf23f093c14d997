"""The mathematics: streams, kernels, probes, parts, optimizer. Knows no Lightning and no federation.

The optimizer serves any loop that hands it a loss as a function, which it evaluates several times a round. In a plain
loop, with ``eval()``, as all probes must see the same function::

    import torch
    from hiso_pl.zeroth_order import ZerothOrderOptimizer

    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 2)).eval()
    optimizer = ZerothOrderOptimizer(model.named_parameters(), lr=1e-2, seed=1, network=model)
    for inputs, targets in batches:
        loss = optimizer.step(lambda: torch.nn.functional.cross_entropy(model(inputs), targets))

With Lightning Fabric, one client a process, and scalars in the place of gradients between them: only the loader is set
up, as ``fabric.setup(model)`` would wrap the model to send its gradients::

    import torch
    from lightning.fabric import Fabric
    from hiso_pl.federation import AllReduceExchange
    from hiso_pl.zeroth_order import ZerothOrderOptimizer

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    model = fabric.to_device(torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Linear(16, 2))).eval()
    optimizer = ZerothOrderOptimizer(model.named_parameters(), lr=1e-2, seed=1, exchange=AllReduceExchange())
    for inputs, targets in fabric.setup_dataloaders(batches):
        loss = optimizer.step(lambda: torch.nn.functional.cross_entropy(model(inputs), targets))

In a LightningModule of one's own, by manual optimization::

    import torch
    from lightning.pytorch import LightningModule, Trainer
    from hiso_pl.zeroth_order import ZerothOrderOptimizer

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 2))

        def configure_optimizers(self):
            return ZerothOrderOptimizer(self.model.named_parameters(), lr=1e-2, seed=1, network=self.model)

        def training_step(self, batch, batch_idx):
            inputs, targets = batch
            self.model.eval()
            self.optimizers().step(lambda: torch.nn.functional.cross_entropy(self.model(inputs), targets))

    module = Module()
    Trainer(max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False).fit(module, batches)

:mod:`hiso_pl.integrations` has transformers' Trainer; :class:`hiso_pl.module.FederatedModule` is what the program runs.
"""

from hiso_pl.zeroth_order.aggregation import Aggregation as Aggregation
from hiso_pl.zeroth_order.aggregation import Mean as Mean
from hiso_pl.zeroth_order.aggregation import Weighing as Weighing
from hiso_pl.zeroth_order.interfaces import Exchange as Exchange
from hiso_pl.zeroth_order.interfaces import LocalExchange as LocalExchange
from hiso_pl.zeroth_order.interfaces import RoundOptimizer as RoundOptimizer
from hiso_pl.zeroth_order.interfaces import Slots as Slots
from hiso_pl.zeroth_order.method import Method as Method
from hiso_pl.zeroth_order.optimizer import ZerothOrderOptimizer as ZerothOrderOptimizer
from hiso_pl.zeroth_order.part import Part as Part
from hiso_pl.zeroth_order.preconditioner import *  # noqa: F403 - what is registered there is found here too
from hiso_pl.zeroth_order.record import RoundRecord as RoundRecord
from hiso_pl.zeroth_order.record import RoundReport as RoundReport
from hiso_pl.zeroth_order.schedule import Cosine as Cosine
from hiso_pl.zeroth_order.schedule import Linear as Linear
from hiso_pl.zeroth_order.schedule import Schedule as Schedule
from hiso_pl.zeroth_order.schedule import Steps as Steps
from hiso_pl.zeroth_order.tensors import Target as Target
from hiso_pl.zeroth_order.transform import Departure as Departure
from hiso_pl.zeroth_order.transform import Transform as Transform
from hiso_pl.zeroth_order.update_rule import *  # noqa: F403

"""The optimizer inside other frameworks' loops.

transformers' Trainer, with one client a process under ``torchrun`` or ``accelerate launch``::

    from transformers import TrainingArguments
    from hiso_pl.integrations import ZerothOrderTrainer
    from hiso_pl.zeroth_order import Method

    args = TrainingArguments("runs/trainer", learning_rate=1e-2, max_steps=10, save_steps=5, report_to="none")
    trainer = ZerothOrderTrainer(model, args, train_dataset=examples, method=Method(lr=1e-2, num_directions=3))
    trainer.train()
    trainer.train(resume_from_checkpoint=True)

:mod:`hiso_pl.zeroth_order` has a plain loop, Fabric and a LightningModule.
"""

from hiso_pl.integrations.trainer import ZerothOrderTrainer

__all__ = ["ZerothOrderTrainer"]

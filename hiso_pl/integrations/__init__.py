"""The optimizer inside other frameworks' loops."""

from hiso_pl.integrations.trainer import ZerothOrderTrainer

__all__ = ["ZerothOrderTrainer"]

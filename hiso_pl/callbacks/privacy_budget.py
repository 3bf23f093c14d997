"""What a private run has spent: counted before anything is sent, shown, and never exceeded."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from hiso_pl.callbacks.contract import OrderedCallback, callbacks_of, federated
from hiso_pl.callbacks.privacy_start import cohorts_of, decided, file_of, noise_of, rates_of, releasing
from hiso_pl.errors import RunError
from hiso_pl.federation.presence.attendance import Presence
from hiso_pl.federation.privacy.account import check_installed
from hiso_pl.federation.privacy.budget_file import BudgetFile
from hiso_pl.federation.privacy.spent import Spent
from hiso_pl.lightning_privates import end_after_this_round
from hiso_pl.zeroth_order.interfaces import Slots

log = logging.getLogger(__name__)


class PrivacyBudget(OrderedCallback):
    """Keeps the account of a private run, and ends it before a client's epsilon would exceed ``target_epsilon``.

    The noise for ``target_epsilon`` is found at the start of a run and kept from then on: who takes part in which round
    and answers is known, so each client's number of releases is. Before a round's exchange rank 0 writes into
    ``privacy.jsonl`` whose scalars are about to leave, waits for the disk, and only then does any rank send. So neither
    a kill nor a way back to an earlier checkpoint forgets a release: rounds made again are counted again. A client that
    does not answer releases nothing; one that is too late, or left out afterwards, has.

    The largest epsilon of a client is told after each round where it is cheap to know, as no example is sampled, and
    else at validations and at the end.

    Attributes:
        spent: The releases so far; on rank 0 alone.
        epsilon: The largest epsilon of a client when it was last computed; on rank 0 alone.
        ended: Why the run has ended before its last round, if its budget has ended it.
    """

    position = 12  # before the ledger is touched, which a refused run leaves as it is

    def __init__(self) -> None:
        self.spent: Spent | None = None
        self.epsilon: float | None = None
        self.ended: str | None = None
        self._privacy: Any = None
        self._file: BudgetFile | None = None
        self._presence: Presence | None = None
        self._counted = -1
        self._until: int | None = None
        self._rounds = -1
        self._restored: dict[str, Any] = {}

    # The start

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the noise for the target; a run that goes on keeps that of its releases.

        Raises:
            ValueError: If nobody could keep the account, or no noise can be found.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        module = federated(pl_module)
        privacy: Any = module.method.privacy  # type: ignore[attr-defined]
        check_installed(f"model.method.privacy={type(privacy).__name__}")
        self.spent = self.epsilon = self.ended = self._file = None
        self._rounds = trainer.max_steps
        if privacy.target_epsilon is not None:
            noise = decided(trainer, lambda: noise_of(trainer, privacy, self._rounds))
            privacy = privacy.with_noise(noise)
            module.method = replace(module.method, privacy=privacy)  # type: ignore[type-var]
        self._privacy = privacy
        module.exchange.before = partial(self._release, trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes up what has been released so far, and ends a run that may release nothing more.

        Raises:
            ValueError: If it is not known what has been.
        """
        changed = ("seed",) if "seed_everything" in federated(pl_module).changed_on_resume else ()
        self._until = decided(trainer, lambda: self._take_up(trainer, changed))
        self._end_if_spent(trainer)

    def _take_up(self, trainer: Trainer, changed: tuple[str, ...]) -> int | None:
        """Opens the file; returns the round before which the run is to end, None without a target."""
        privacy = self._privacy
        self._file = file_of(trainer, privacy, self._restored, changed)
        rates, self._presence = rates_of(trainer, privacy), trainer.datamodule.presence()  # type: ignore[attr-defined]
        self.spent = Spent(rates, privacy.noise, privacy.delta, privacy.accountant, self._file.found)
        if privacy.target_epsilon is None:
            return None
        cohorts = cohorts_of(trainer, trainer.global_step, self._rounds)
        return trainer.global_step + self.spent.rounds_within(privacy.target_epsilon, cohorts)

    # The rounds

    def _release(self, trainer: Trainer, slots: Slots) -> None:
        """Writes down who is about to release something; no rank goes on before the disk has it.

        What holds the others back is that they wait for rank 0's word, which it gives once the disk has the line.

        Raises:
            RunError: If it cannot be written; on all ranks.
        """
        said: str | None = None
        if self._file is not None and self.spent is not None:  # rank 0's
            assert self._presence is not None
            cohort = releasing(self._presence, trainer.global_step)  # those too late have sent theirs all the same
            clients = cohort[cohort >= 0].tolist()
            try:
                self._file.append(trainer.global_step, clients)
                self.spent.add(clients)
            except OSError as error:
                said = f"{self._file.path} cannot be written ({error.strerror}), so nothing more is released"
        said = trainer.strategy.broadcast(said)
        if said is not None:
            raise RunError(said)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Tells what has been spent, and ends the run here if the next round would spend more than there is."""
        if self._privacy.level == "client":
            self._look()
        self._end_if_spent(trainer)

    def _end_if_spent(self, trainer: Trainer) -> None:
        if self._until is None or not self._until <= trainer.global_step < self._rounds:
            return
        privacy = self._privacy
        self.ended = (
            f"round {trainer.global_step + 1} would take a client beyond "
            f"privacy.target_epsilon={privacy.target_epsilon:g} at delta={privacy.delta:g}"
        )
        if trainer.is_global_zero:
            log.warning("Ended after round %d of %d: %s.", trainer.global_step, self._rounds, self.ended)
        end_after_this_round(trainer, validate=True)

    # What is told

    @property
    def current(self) -> bool:
        """Whether :attr:`epsilon` is that of all releases so far."""
        return self._file is not None and self._counted == self._file.lines

    def _look(self) -> None:
        if self._file is not None and self.spent is not None and not self.current:
            self.epsilon, self._counted = self.spent.epsilon(), self._file.lines

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes what has been spent, for all that tell of it next."""
        if trainer.state.fn == "fit":
            self._look()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the file, of a run without a round of its own too: the last checkpoint counts on it."""
        if self._file is not None:
            self._file.begin()
        self._look()

    def told(self) -> dict[str, Any]:
        """What a run's summary says; on rank 0."""
        privacy, spent = self._privacy, self.spent
        if spent is None:
            return {}
        self._look()
        return {
            "level": privacy.level,
            "noise_multiplier": privacy.noise,
            "clip": privacy.clip,
            "delta": privacy.delta,
            "epsilon": self.epsilon,
            "epsilon_median": spent.median(),
            "releases_max": int(spent.releases.max()),
            "accountant": privacy.accountant,
            "adjacency": privacy.adjacency,
            "ended": self.ended,
        }

    @override
    def state_dict(self) -> dict[str, Any]:
        file = self._file
        return {"run": "" if file is None else file.terms.run, "lines": 0 if file is None else file.lines}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = {"run": str(state_dict["run"]), "lines": int(state_dict["lines"])}

    # The end

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close(trainer, pl_module)

    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        federated(pl_module).exchange.before = None
        if self._file is not None:
            self._file.close()
        if self.ended is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._rounds


def budget_of(trainer: Trainer) -> PrivacyBudget | None:
    """The budget of a private run."""
    return next(iter(callbacks_of(trainer, PrivacyBudget)), None)


def spent_now(trainer: Trainer) -> dict[str, float]:
    """What a private run has spent, as a curve's point; nothing where that has yet to be computed."""
    budget = budget_of(trainer)
    return {} if budget is None or budget.epsilon is None or not budget.current else {"privacy/epsilon": budget.epsilon}

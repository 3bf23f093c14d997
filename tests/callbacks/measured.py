"""A network whose answers are known, data that has to be prepared, and a measure of texts; run with several ranks.

Run as a script under torchrun it is the program many times, as `measured.py JOBS.json OUTCOMES`: a list of
[name, arguments], and exit status, error lines and metrics by name for each rank.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from hiso_pl.cli import program as cli
from hiso_pl.data.examples import Batch, ExampleSet, Splits
from hiso_pl.data.measures import Measure
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.models.task_model import Evaluation, TaskModel
from hiso_pl.ranks import environment


class Digits(Measure):
    """How many of the digits of a number were generated, and how far the sum of them is off."""

    columns = ("share", "distance")

    def __init__(self, first: int) -> None:
        self.first = first

    def rows(self, indices: np.ndarray, evaluation: Evaluation) -> np.ndarray:
        assert isinstance(indices, np.ndarray)
        wanted = [{int(digit) for digit in str(self.first + i)} for i in indices.tolist()]
        found = [set(row) for row in evaluation.prediction.tolist()]
        share = [len(want & got) / len(want) for want, got in zip(wanted, found, strict=True)]
        distance = [abs(sum(want) - sum(got)) / 3 for want, got in zip(wanted, found, strict=True)]
        return np.stack([share, distance], axis=1)

    def combine(self, table: np.ndarray) -> dict[str, float]:
        # far from exact, so that another order of the rows or another number of them would show
        shares = [float(share) for share in table[:, 0]]
        weighted = 0.0
        for place, distance in enumerate(table[:, 1].tolist()):
            weighted += distance / (place + 1.7)
        return {"share": sum(shares) / len(shares), "distance": weighted, "worst": -math.inf}

    def lines(self, indices: np.ndarray, evaluation: Evaluation) -> list[dict[str, Any]]:
        return [
            {"prediction": " ".join(map(str, row)), "references": [str(self.first + i)], "score": score}
            for i, row, score in zip(
                indices.tolist(), evaluation.prediction.tolist(), evaluation.loss.tolist(), strict=True
            )
        ]


class Numbers(ExampleSet):
    """Example i is the number `first + i`; as text it is its digits in words, except for round numbers."""

    classes = ()

    def __init__(self, first: int, count: int, texts: bool) -> None:
        self.numbers = np.arange(first, first + count)
        self.labels = np.zeros(count, dtype=np.int64)
        if texts:
            self.measure_of_texts = Digits(first)
        else:
            self.labels, self.classes = self.numbers % 3, ("none", "one", "two")

    @property
    def measure(self) -> Measure:
        return getattr(self, "measure_of_texts", None) or super().measure

    def text(self, index: int) -> str | None:
        return None if self.numbers[index] % 10 == 0 else f"the number\n{self.numbers[index]}\u2028é"

    def collate(self, indices: np.ndarray) -> Batch:
        return {"number": torch.from_numpy(self.numbers[indices]), "label": torch.from_numpy(self.labels[indices])}

    def fingerprint(self) -> str:
        return f"{self.numbers[0]}+{len(self)}"


class NumbersData(FederatedDataModule):
    """Reads how many numbers there are from a file that has to be prepared first.

    Args:
        folder: Where the file is put.
        validation: Examples of the validation split.
        texts: Whether answers are texts; otherwise they are classes.
        fail: Rank whose preparation fails.
        base: The options of every data module.
    """

    def __init__(self, folder: str, validation: int = 23, texts: bool = True, fail: int | None = None, **base: Any):
        super().__init__(**{"clients": 3, "cohort": 2, "eval_batch_size": 4, **base})
        self.folder, self.validation, self.texts, self.fail = Path(folder), validation, texts, fail

    def prepare_data(self) -> None:
        if self.fail == environment.rank():
            raise OSError(f"{self.folder.name}: the shelf is empty")
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "count").open("a") as file:
            file.write(f"{self.validation}\n")

    def load(self) -> Splits:
        (count,) = (self.folder / "count").read_text().split()  # one line: one process has prepared it
        return Splits(Numbers(0, 30, self.texts), Numbers(1000, int(count), self.texts), None)


class Guess(TaskModel):
    """Its loss is the square of weight less number; of a number it generates the last two digits and the weight's.

    Args:
        bad: A number for which loss and scores are NaN.
    """

    def __init__(self, bad: int = -1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.3]))
        self.bad = bad
        self.eval()

    def scores(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        number = batch["number"][:, None]
        scores = torch.cos(self.weight * number + torch.arange(3))
        return torch.where(number == self.bad, torch.nan, scores)

    def evaluate(self, batch: dict[str, torch.Tensor]) -> Evaluation:
        number = batch["number"]
        if batch["label"].any():
            return super().evaluate(batch)
        loss = (self.weight - number / 7).square()
        digits = torch.stack([number // 10 % 10, number % 10, (self.weight * 10).long().expand(len(number))], dim=1)
        return Evaluation(torch.where(number == self.bad, torch.nan, loss), digits, torch.empty(len(number), 0))


class Keep(Callback):
    """Keeps the last metrics for the caller."""

    found: dict[str, str] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Keep.found = {name: float(value).hex() for name, value in pl_module.last_validation.items()}


def main() -> None:
    jobs, outcomes = Path(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[:1]  # or Lightning warns of arguments that are not its own
    import measured  # type: ignore[import-not-found]  # the one that class paths mean, which is not this script

    results = {}
    for name, args in json.loads(jobs.read_text()):
        said = io.StringIO()
        measured.Keep.found = None
        with contextlib.redirect_stderr(said):
            status = cli.main(args)
        errors = [line for line in said.getvalue().splitlines() if line.startswith("hiso-pl: error")]
        results[name] = [status, errors, measured.Keep.found]
        Path(f"{outcomes}.{environment.rank()}").write_text(json.dumps(results))


if __name__ == "__main__":
    main()

import pytest
import torch

from hiso_pl.callbacks import InStepCheck
from hiso_pl.ranks.comparing import disagreement


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2, 3]], ([], -1)),
        ([[1, 2, 3], [1, 2, 3], [1, 2, 3]], ([], -1)),
        ([[1, 2, 3], [1, 9, 3], [1, 2, 3]], ([1], 1)),
        ([[9, 2, 3], [1, 2, 3], [1, 2, 3]], ([0], 0)),
        ([[1, 2, 3], [1, 2, 4]], ([1], 2)),  # one against one: the first counts as right
        ([[1, 2, 3], [1, 8, 3], [1, 2, 9], [1, 2, 3]], ([1, 2], 1)),
        ([[2**62, 0], [2**62 + 1, 0], [2**62, 0]], ([1], 0)),
    ],
)
def test_the_few_are_named_and_the_first_tensor(rows, expected):
    assert disagreement(torch.tensor(rows, dtype=torch.int64)) == expected


def test_a_negative_interval_is_refused():
    with pytest.raises(ValueError, match="every_n_rounds=-1 must be at least 0"):
        InStepCheck(-1)


def test_one_process_has_nothing_to_compare(stand_in, tmp_path):
    check = InStepCheck(1)
    trainer = stand_in.make_trainer(tmp_path, 2, check)
    trainer.fit(stand_in.Module(), datamodule=stand_in.Data())
    assert check.payload_bytes == 0

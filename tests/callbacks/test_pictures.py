from types import SimpleNamespace

import numpy as np
import pytest

from hiso_pl.callbacks.pictures import OTHERS, PALETTE, losses_picture, partition_counts, partition_picture
from hiso_pl.federation.partition import Parts


def pixels_of(picture, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((picture == wanted).all(axis=-1).sum())


def ink(picture):
    """How far from the edges anything is drawn: nothing is cut off."""
    rows, columns = np.nonzero((picture < 200).any(axis=-1))
    height, width = picture.shape[:2]
    return rows.min(), height - 1 - rows.max(), columns.min(), width - 1 - columns.max()


@pytest.mark.parametrize("clients", [1, 8, 64, 65, 1000])
@pytest.mark.parametrize("columns", [1, 2, 60])
def test_nothing_is_cut_off_whatever_the_number_of_clients_and_classes(clients, columns):
    counts = np.random.default_rng(0).integers(0, 3000, (clients, columns))
    names = [f"a class with a long name, {i}" for i in range(columns)] if columns > 1 else ()
    picture = partition_picture(counts, names, "label")
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.shape[0] < 2000
    assert min(ink(picture)) >= 1


@pytest.mark.filterwarnings("error")
def test_classes_may_have_any_name():
    names = ("$", "_hidden", "$x_{1", "\u597d", "two\nlines", "")
    picture = partition_picture(np.zeros((2, 6), dtype=np.int64), names, "label")
    assert min(ink(picture)) >= 1
    assert all(pixels_of(picture, colour) > 0 for colour in PALETTE[:6])  # each has its swatch


def test_bars_are_as_long_as_clients_have_examples_of_each_label():
    picture = partition_picture(np.array([[300, 100], [100, 0], [0, 100]]), (" terrible", " great"), "label")
    swatch = pixels_of(partition_picture(np.array([[0, 0]]), ("a", "b"), "label"), PALETTE[0])
    first, second = (pixels_of(picture, colour) - swatch for colour in PALETTE[:2])
    assert first / second == pytest.approx(2.0, rel=0.1)


def test_of_many_classes_the_most_frequent_have_a_colour_and_the_rest_one():
    counts = np.ones((3, 60), dtype=np.int64)
    counts[:, 7] = 50
    picture = partition_picture(counts, [str(i) for i in range(60)], "label")
    assert pixels_of(picture, OTHERS) > 0
    most = PALETTE[7]  # it keeps its place among the first ones, all others being alike
    assert pixels_of(picture, most) > max(pixels_of(picture, colour) for colour in PALETTE if colour != most)


def examples(labels, classes, lengths=None):
    attributes = {} if lengths is None else {"length": np.array(lengths)}
    return SimpleNamespace(labels_at=np.array(labels).__getitem__, classes=classes, attributes=attributes)


def test_counts_are_by_class_by_length_or_by_size():
    parts = [np.array([0, 1, 2]), np.array([3, 4, 5])]
    found = partition_counts(examples([0, 0, 1, 1, 1, 1], (" no", "yes")), parts, (3, 3), "label")
    assert (found[0].tolist(), *found[1:]) == ([[2, 1], [0, 3]], ("no", "yes"), "label")
    long = examples([0, 0, 1, 1, 1, 1], ("no", "yes"), [3, 3, 4, 5, 9, 9])
    counts, names, title = partition_counts(long, parts, (3, 3), "length")
    assert (names, title) == (("3", "4", "5", "9"), "tokens")
    assert counts.tolist() == [[2, 1, 0, 0], [0, 0, 1, 2]]
    answers = examples([0] * 6, (), [3, 3, 4, 5, 9, 9])
    assert partition_counts(answers, parts, (3, 3), "label")[2] == "tokens"
    assert partition_counts(examples([0] * 6, ("only",)), parts, (3, 3), "label")[1:] == ((), "label")
    # each client on a rank of its own: what they have is not known here
    counts, names, _ = partition_counts(long, None, (3, 4), "label")
    assert (counts.tolist(), names) == ([[3], [4]], ())


def test_of_very_many_clients_some_stand_for_all_and_the_sizes_are_of_all():
    clients = 50_000
    parts = Parts(range(3 * clients), np.full(clients, 3))
    counts, names, _ = partition_counts(examples(np.arange(3 * clients) % 2, ("a", "b")), parts, parts.sizes, "label")
    assert counts.shape == (2000, 2)
    assert set(map(tuple, counts.tolist())) == {(2, 1), (1, 2)}
    picture = partition_picture(counts, names, "label", np.repeat([3, 9], clients // 2))
    assert picture.shape[0] < 1000
    assert min(ink(picture)) >= 1
    # two bars a seventh as wide, where without the sizes of all there is one
    assert pixels_of(picture, "#777777") < 0.4 * pixels_of(partition_picture(counts, names, "label"), "#777777")


def test_losses_are_drawn_where_they_are_known():
    means = np.full((8, 60), np.nan)
    means[2:5, :30] = 1.0
    means[5:, 30:] = 2.0
    assert min(ink(losses_picture(means, 8, 400))) >= 1

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from hiso_pl.report.comparison import compare
from hiso_pl.report.curves import band
from hiso_pl.report.figures import AXES, NothingToDrawError, draw, pictures, rates, reached
from hiso_pl.report.look import COLOURS, LINES, MARKERS, encoded, look, style
from hiso_pl.report.run_data import Aim
from tests.report.made_up import run, runs

AIM = Aim("val/accuracy", "rounds", (0.7, 0.8))
LONG = ["_one that\nis sixty characters long, and $has a {macro} \\of \\tex$", "x" * 60, "a <b> & " + "word " * 12]


def lines(figure: Figure, **look: Any) -> list[Any]:
    """The lines of a picture with a look."""
    found = [line for axes in figure.axes for line in axes.lines]
    return [line for line in found if all(getattr(line, f"get_{name}")() == value for name, value in look.items())]


def legend(figure: Figure) -> list[str]:
    return [" ".join(text.get_text().split()) for text in figure.legends[0].get_texts()]


# Curves


def test_a_mean_is_of_all_seeds_at_every_round_at_which_one_has_been_measured_and_of_nothing_else() -> None:
    one = run(rounds=[0, 10, 20, 40], values=[0.0, 0.1, 0.2, 0.4])
    two = run(rounds=[0, 20, 30], values=[0.2, 0.4, 0.5])
    found = band([one, two], [False, False], "val/accuracy", "rounds")
    assert found is not None
    assert found.x.tolist() == [0, 10, 20, 30]
    assert found.low == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert found.high == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert found.mean == pytest.approx((found.low + found.high) / 2)
    (rest,) = found.alone
    assert (rest.x.tolist(), rest.y.tolist()) == ([30, 40], pytest.approx([0.3, 0.4]))


def test_a_run_that_diverged_is_in_no_mean_but_in_the_picture() -> None:
    good, bad = run(seed=1), run(seed=2, lost_at=300)
    found = band([good, bad], [False, True], "val/loss", "rounds")
    assert found is not None
    assert found.mean.tolist() == good.curve["val/loss"].tolist()
    assert [line.diverged for line in found.alone] == [True]
    figure = draw(compare([good, bad], Aim("val/loss")), "rounds")
    assert figure.axes[0].get_ylim()[1] < 4  # 1e30 leaves the others to be seen
    (cross,) = lines(figure, marker="x")
    assert 250 <= cross.get_xdata()[0] < 300
    assert legend(figure) == ["HiSo, lr 0.01, 1 of 2 diverged"]


def test_validations_that_are_not_known_by_an_axis_are_left_out() -> None:
    made = run(rounds=[0, 10, 20], values=[0.1, np.nan, 0.3])
    made.curve.loc[0, "forwards"] = np.nan
    by_round, by_forwards = (band([made], [False], "val/accuracy", by) for by in ("rounds", "forwards"))
    assert by_round is not None
    assert by_forwards is not None
    assert (by_round.x.tolist(), by_forwards.x.tolist()) == ([0, 20], [480])
    assert band([made], [False], "val/f1", "rounds") is None


def test_seeds_with_no_round_in_common_are_drawn_alone() -> None:
    found = band([run(rounds=[0, 10]), run(rounds=[20, 30])], [False, False], "val/accuracy", "rounds")
    assert found is not None
    assert (len(found.x), [line.x.tolist() for line in found.alone]) == (0, [[0, 10], [20, 30]])


# Pictures


def test_every_line_is_told_apart_by_colour_line_and_mark() -> None:
    looks = [style(i) for i in range(len(COLOURS) * len(LINES))]
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == len(looks)
    assert len({(str(look["linestyle"]), look["marker"]) for look in looks}) == len(looks)  # in grey print too
    assert len({*COLOURS}) == len(COLOURS)
    assert len(MARKERS) > len(COLOURS)


@pytest.mark.parametrize(
    ("methods", "settings"),
    [(["HiSo"], [""]), ([f"method {i}" for i in range(12)], [""]), (LONG, [""]), (LONG[:2], ["a", "b", LONG[0], "d"])],
    ids=["one", "twelve", "long", "settings"],
)
def test_keys_and_words_cover_no_data_and_are_cut_nowhere(
    methods: list[str], settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hiso_pl.report.figures.PICTURES", ("by-protocol-kb", "targets", "rates"))  # the longest words
    for name, figure in pictures(compare(runs(methods, settings), AIM)).items():
        with look():
            figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        texts = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label)]
        texts += [text for key in figure.legends for text in key.get_texts()]
        for text in (text for text in texts if text.get_text()):
            box = text.get_window_extent()
            assert box.x0 >= -1, (name, text)
            assert box.y0 >= -1, (name, text)
            assert box.x1 <= width + 1, (name, text)
            assert box.y1 <= height + 1, (name, text)
        for key in figure.legends:
            box = key.get_window_extent()
            assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes), name
            assert box.width <= width, name
            assert len(key.get_texts()) == len(methods)


def test_settings_are_axes_in_common_and_methods_keep_their_look() -> None:
    figure = draw(compare(runs(["a", "b"], ["s", "t", "u"]), AIM), "rounds")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["s", "t", "u"]
    assert legend(figure) == ["a", "b"]
    drawn = [[line.get_color() for line in axes.lines if line.get_marker() in MARKERS] for axes in figure.axes]
    assert drawn == [list(COLOURS[:2])] * 3
    alone = draw(compare(runs(["a"], ["s", "t", "u"]), AIM), "rounds")  # of one method the settings are what differs
    assert (len(alone.axes), legend(alone)) == (1, ["s, lr 0.02", "t, lr 0.02", "u, lr 0.02"])


def test_bytes_that_differ_by_orders_of_magnitude_have_a_logarithmic_axis() -> None:
    few, many = run("few"), run("many", kb=300.0)
    together = draw(compare([few, many], AIM), "paper_kb").axes[0]
    assert together.get_xscale() == "log"
    assert "logarithmic" in together.get_xlabel()
    assert draw(compare([few, many], AIM), "rounds").axes[0].get_xscale() == "linear"
    assert draw(compare([few], AIM), "paper_kb").axes[0].get_xscale() == "linear"


def test_targets_are_lines_and_named_once() -> None:
    axes = draw(compare(runs(), AIM), "rounds").axes[0]
    assert [line.get_ydata()[0] for line in axes.lines[-2:]] == [0.7, 0.8]
    assert [text.get_text() for text in axes.texts] == ["0.7", "0.8"]
    close = draw(compare(runs(), Aim("val/accuracy", "best", (0.8, 0.81))), "rounds").axes[0]
    assert [text.get_text() for text in close.texts] == ["0.8, 0.81"]


def test_an_axis_shows_what_can_be_compared() -> None:
    far = draw(compare([run()], Aim("val/accuracy", "best", (0.8, 95.0))), "rounds").axes[0]
    assert far.get_ylim()[1] < 1  # a target in percent, say
    assert [text.get_text() for text in far.texts] == ["0.8"]
    at = [0, 10, 20, 30]
    rising = [run(rounds=at, values=[2.0, 2.5, 3.0, 3.5], metric="val/loss")]
    assert draw(compare(rising, Aim("val/loss")), "rounds").axes[0].get_ylim()[1] > 3.5
    wild = run("wild", rounds=at, values=[2.0, 9.0, 1.0, 0.5], metric="val/loss")  # it has not diverged
    assert draw(compare([wild], Aim("val/loss")), "rounds").axes[0].get_ylim()[1] > 9.0
    single = draw(compare([run(rounds=[0])], Aim("val/accuracy")), "rounds")
    assert lines(single, marker="o")[0].get_markevery() is None  # a point alone is seen


def test_where_no_rate_can_be_chosen_all_runs_are_shown() -> None:
    figure = draw(compare(runs(["HiSo"], lost_at=200), AIM), "rounds")
    assert legend(figure) == ["HiSo, no rate counts: all runs"]
    assert len(lines(figure, marker="x")) == 4


def test_what_the_rate_does_has_crosses_for_what_was_not_reached_and_a_ring_for_the_choice() -> None:
    made = [run("a", lr=0.01), run("a", lr=0.02, speed=2.0), run("a", lr=0.04, lost_at=300)]
    figure = rates(compare(made, AIM))
    (cross,), (ring,) = lines(figure, marker="x"), lines(figure, markersize=11.0)
    assert (cross.get_xdata()[0], ring.get_xdata()[0]) == (0.04, 0.02)
    (line,) = lines(figure, marker="o", markersize=4.5)
    assert len(line.get_xdata()) == 2
    lost = rates(compare(runs(["a"], lost_at=10), AIM))  # nothing reached: the axis is that of the rounds there were
    assert lost.axes[0].get_ylim()[1] > 600


def test_what_it_takes_says_how_many_reached_it() -> None:
    made = [run("a", seed=1), run("a", seed=2, speed=0.1), run("b", seed=1, speed=0.1), run("b", seed=2, speed=0.1)]
    figure = reached(compare(made, AIM))
    assert [text.get_text() for text in figure.axes[0].texts] == ["1 of 2", "1 of 2", "none of 2", "none of 2"]
    assert [label.get_text().split() for label in figure.axes[0].get_yticklabels()][0::2] == [
        ["a", "0.7"],
        ["b", "0.7"],
    ]


def test_what_there_are_no_data_for_is_not_drawn() -> None:
    one = run(lr=None)
    one.curve.loc[:, "forwards"] = np.nan
    comparison = compare([one], Aim("val/accuracy"))
    assert list(pictures(comparison)) == ["by-rounds", "by-paper-kb", "by-seconds", "by-protocol-kb"]
    with pytest.raises(NothingToDrawError, match=r"by=forwards: no run has logged val/accuracy"):
        draw(comparison, "forwards")
    with pytest.raises(NothingToDrawError, match="several learning rates"):
        rates(comparison)
    with pytest.raises(NothingToDrawError, match="no run has reached one"):
        reached(comparison)


SAME = """
import hashlib
from hiso_pl.report.comparison import compare
from hiso_pl.report.figures import draw
from hiso_pl.report.look import METADATA, encoded
from hiso_pl.report.run_data import Aim
from tests.report.made_up import runs
figure = draw(compare(runs(), Aim("val/accuracy", "rounds", (0.7, 0.8))), "rounds")
print([hashlib.sha256(encoded(figure, kind)).hexdigest() for kind in METADATA])
"""


def test_a_picture_made_twice_is_the_same_file_whatever_the_users_settings(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nfont.family: serif\naxes.linewidth: 5\npdf.compression: 0\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
    said = {
        subprocess.run(
            [sys.executable, "-c", SAME],
            env=environment | {"PYTHONHASHSEED": seed} | more,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed, more in (("1", {}), ("2", {"MATPLOTLIBRC": str(tmp_path)}))
    }
    assert len(said) == 1


def test_text_stays_text() -> None:
    figure = draw(compare(runs(), AIM), "rounds")
    document = encoded(figure, "pdf")
    assert b"/CIDFontType2" in document
    assert b"/Type3" not in document
    assert "HiSo, lr 0.02</text>" in encoded(figure, "svg").decode()


def test_every_axis_has_its_column() -> None:
    timed = [replace(run, curve=run.curve.assign(simulated_s=2.0 * run.curve["seconds"])) for run in runs()]
    assert "by-simulated-s" not in pictures(compare(runs(), AIM))  # whose clients take no time
    figures = pictures(compare(timed, AIM))
    drawn = {name.removeprefix("by-").replace("-", "_") for name in figures if name.startswith("by-")}
    assert drawn == {*AXES}
    assert len(figures) == len(AXES) + 2

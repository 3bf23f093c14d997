from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hiso_pl.report.comparison import Comparison, compare
from hiso_pl.report.figures import draw, pictures
from hiso_pl.report.files import write_pictures_and_page
from hiso_pl.report.look import encoded
from hiso_pl.report.page import page
from hiso_pl.report.run_data import Aim
from tests.report.made_up import run, runs

AIM = Aim("val/accuracy", "rounds", (0.7, 0.8))
HOSTILE = "</script><script>alert(1)</script>\"'><img src=http://evil onerror=x> & {{ 7 * 7 }} --> ]]> url(#a)"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """What a page is made of; an error if an element is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def made(comparison: Comparison, by: str = "rounds") -> str:
    return page(comparison, {f"by-{by}": draw(comparison, by)}, "Does it?", "hiso-pl study x.yaml --root runs/x")


def rows(text: str, caption: str) -> list[list[str]]:
    """The cells of a table by its caption."""
    table = re.search(rf"<caption>{re.escape(caption)}</caption>.*?</table>", text, re.S)
    assert table is not None
    found = re.findall(r"<tr>(.*?)</tr>", table[0], re.S)
    return [
        [" ".join(re.sub("<[^>]+>", " ", c).split()) for c in re.findall(r"<t[dh].*?</t[dh]>", row)] for row in found
    ]


def test_names_notes_and_options_are_text_whatever_they_hold() -> None:
    comparison = compare(runs([HOSTILE, "b"], [HOSTILE, "s"], options={"x": HOSTILE, HOSTILE: "y"}), AIM)
    text = page(comparison, pictures(comparison), HOSTILE, HOSTILE)
    reader = read(text)
    assert [tag for tag, _ in reader.tags if tag in ("script", "img", "iframe", "object", "link")] == ["script"]
    assert not any(key.startswith("on") for _, attributes in reader.tags for key in attributes)
    assert "".join(reader.words).count("{{ 7 * 7 }}") > 10
    assert "49" not in re.findall(r"\{\{.*?\}\}|\b49\b", "".join(reader.words))


def test_nothing_is_taken_from_elsewhere() -> None:
    reader = read(made(compare(runs(), AIM)))
    for tag, attributes in reader.tags:
        for key, value in attributes.items():
            if key in ("src", "href", "xlink:href", "action", "data"):
                assert str(value).startswith("#"), (tag, key, value)
            assert "url(" not in str(value).replace("url(#", ""), (tag, key, value)
    assert not re.search(r"@import|url\((?!#)", "".join(reader.words))


def test_all_pictures_of_a_page_have_ids_of_their_own_and_find_what_they_refer_to() -> None:
    comparison = compare(runs(), AIM)
    text = page(comparison, pictures(comparison))
    ids = [str(attributes["id"]) for _, attributes in read(text).tags if "id" in attributes]
    assert len(ids) == len({*ids})
    wanted = {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r'href="#([^"]+)"', text)}
    assert len(wanted) > 20
    assert wanted <= {*ids}


def test_it_says_question_command_notes_seeds_and_where_it_ran() -> None:
    made_by = [run("a", seed=3, options={"own": "1"}), run("b", seed=3, lost_at=100, options={"own": "2"})]
    comparison = compare(made_by, AIM)
    assert comparison.notes
    words = " ".join(read(made(comparison)).words)
    for expected in ("Does it?", "hiso-pl study x.yaml --root runs/x", "seeds 3", *comparison.notes):
        assert expected in words
    for fact in ("torch", "2.12.0", "1,898", "forward passes a second"):
        assert fact in words
    shared, own = words.partition("What all runs have in common")[2], words.partition("What all runs have in common")[0]
    assert "trainer.max_steps" in shared
    assert "own" not in re.findall(r"\bown\b", shared)
    assert own.count(" own ") == 2


def test_tables_hold_means_intervals_and_who_did_not_get_there() -> None:
    at = range(0, 200, 50)
    made_by = [
        run("a", seed=1, rounds=at, values=[0.1, 0.7, 0.9, 0.9]),
        run("a", seed=2, rounds=at, values=[0.1, 0.2, 0.7, 0.9]),
        run("b", seed=1, rounds=at, values=[0.1, 0.2, 0.3, 0.9]),
        run("b", seed=2, rounds=at, values=[0.1, 0.2, 0.3, 0.4]),
        run("c", seed=1, rounds=at, values=[0.1, 0.2, 0.3, 0.4]),
    ]
    text = made(compare(made_by, Aim("val/accuracy", "rounds", (0.7,))))
    head, *found = rows(text, "To val/accuracy of 0.7")
    told = {row[0]: dict(zip(head, row, strict=True)) for row in found}
    assert told["a"]["rounds"] == "75 50 to 100"
    assert told["a"]["KB (paper)"] == "6.0 4.0 to 8.0"
    assert told["b"]["rounds"] == "150 1 of 2"
    assert "c" not in told or told["c"]["rounds"] == "not reached"
    between = rows(text[text.index("One method beside another") :], "To val/accuracy of 0.7")
    assert between[0][:4] == ["one", "other", "common seeds", "ratio of rounds"]
    assert between[1][:4] == ["a", "b", "1", "0.33"]


def test_names_with_brackets_and_commas_stay_whole_and_methods_of_one_setting_together() -> None:
    text = made(compare(runs(["HiSo (diagonal), own", "b"], ["t, (2)", "s"]), AIM))
    found = rows(text, "To val/accuracy of 0.7")[1:]
    names = [("HiSo (diagonal), own", "t, (2)"), ("b", "t, (2)"), ("HiSo (diagonal), own", "s"), ("b", "s")]
    assert [tuple(row[:2]) for row in found] == names


def test_a_report_made_twice_is_the_same_and_leaves_no_pictures_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("figures", "files"):  # not all, as each takes a while
        monkeypatch.setattr(f"hiso_pl.report.{module}.PICTURES", ("by-rounds", "targets", "rates"))
    folder = tmp_path / "new" / "report"
    first = write_pictures_and_page(compare(runs(), AIM), folder, "Does it?")
    content = {path: path.read_bytes() for path in first}
    assert {path.name for path in folder.iterdir()} == {path.name for path in first}
    assert {"by-rounds.png", "by-rounds.pdf", "targets.png", "rates.pdf", "report.html"} <= {
        path.name for path in first
    }
    write_pictures_and_page(compare(runs(), AIM), folder, "Does it?")
    assert {path: path.read_bytes() for path in first} == content
    (folder / "rates.png").write_bytes(b"a picture of one's own")
    one = write_pictures_and_page(compare([run()], Aim("val/accuracy")), folder)
    left = {path.name for path in folder.iterdir()}
    assert left == {path.name for path in one} | {"rates.png"}
    assert "targets.pdf" not in left


def test_nothing_is_written_if_something_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("no page")

    monkeypatch.setattr("hiso_pl.report.files.page", fail)
    monkeypatch.setattr("hiso_pl.report.figures.PICTURES", ("by-rounds",))
    with pytest.raises(RuntimeError, match="no page"):
        write_pictures_and_page(compare([run()], Aim("val/accuracy")), tmp_path / "report")
    assert not (tmp_path / "report").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_pictures_and_page(compare([run()], Aim("val/accuracy")), tmp_path / "file", kinds=("png",))


def test_pictures_say_whose_they_are() -> None:
    figure = draw(compare([run()], Aim("val/accuracy")), "rounds")
    assert all(b"hiso-pl report" in encoded(figure, kind) for kind in ("png", "pdf"))
    assert not any(re.search(rb"20\d\d-\d\d|CreationDate", encoded(figure, kind)) for kind in ("png", "pdf", "svg"))

"""Where the hub is not to be reached, one line says so within seconds; what is on the machine is taken."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from hiso_pl import hub
from tests.integrations.training import model
from tests.isolated import isolated


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub whose port nobody listens to."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back, whatever it becomes
    for module in ("huggingface_hub.constants.HF_HUB_OFFLINE", "transformers.utils.hub._is_offline_mode"):
        monkeypatch.setattr(module, False, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    hub.away.cache_clear()
    yield constants.ENDPOINT
    hub.away.cache_clear()


def test_it_is_asked_once_and_then_left_alone(endpoint: str) -> None:
    assert "Connection refused" in hub.away()
    assert hub.away().startswith(f"{endpoint} is not reached (")
    assert constants.HF_HUB_OFFLINE
    with pytest.raises(ValueError, match=r"x='a/b' is not on this machine, and http://127.*: give another"):
        hub.check_there("x='a/b'", False, "give another")
    hub.check_there("x='a/b'", True, "")


def test_one_that_is_silent_is_not_waited_for(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "ANSWER_S", 0.3)
        began = time.monotonic()
        assert "not reached" in hub.away()
        assert time.monotonic() - began < 5
    hub.away.cache_clear()
    constants.HF_HUB_OFFLINE = False  # the fixture puts back what it was
    monkeypatch.setattr(hub, "_ask", lambda endpoint: "it answers with status 503")
    assert "it answers with status 503" in hub.away()


def test_offline_by_wish_is_told_apart(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.away() == "HF_HUB_OFFLINE is set"


SCRIPT = """
import logging, os, sys, time
os.environ.update(HF_HOME=sys.argv[1], HF_ENDPOINT="http://127.0.0.1:9")
del os.environ["HF_HUB_OFFLINE"]
import transformers
from hiso_pl.data.sources import open_dataset
from hiso_pl.ledger.weights import NamedWeights
from hiso_pl.models.loading import load_pretrained
from hiso_pl.models.tokenizer import load_tokenizer

def tell(work):
    began = time.monotonic()
    try:
        said = str(work())
    except ValueError as error:
        said = str(error)
    print(f"{time.monotonic() - began:.1f}", said.replace(chr(10), "//"))

auto = transformers.AutoModelForCausalLM
tell(lambda: load_pretrained(auto, "some/absent"))
tell(lambda: load_tokenizer("some/absent"))
tell(lambda: open_dataset("some/data", None, "train", "train_split"))
tell(lambda: NamedWeights("some/absent"))
tell(lambda: load_pretrained(auto, "some/cached")[0].config.n_embd)
tell(lambda: NamedWeights("some/cached").elements > 1000)
"""


@pytest.mark.slow
def test_models_tokenizers_data_and_weights_say_it_in_one_line_and_what_is_cached_is_taken(tmp_path: Path) -> None:
    place = tmp_path / "hub" / "models--some--cached"
    commit = "0" * 40
    model().save_pretrained(place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    lines = [line.split(" ", 1) for line in isolated(SCRIPT, str(tmp_path), memory=64 << 30).splitlines()]
    assert all(float(seconds) < 10 for seconds, _ in lines), lines  # before, minutes
    said = [words for _, words in lines]
    away = "is not on this machine, and http://127.0.0.1:9 is not reached ([Errno 111] Connection refused): give"
    assert said[0].startswith(f"pretrained='some/absent' {away} a model's folder, or first download it")
    assert said[1].startswith(f"tokenizer='some/absent' {away} a model's folder")
    assert said[2] == f"dataset='some/data/train' {away} train_file and validation_file, or a saved folder"
    assert said[3].startswith(f"weights='some/absent' {away} a model's folder")
    assert said[4:] == ["16", "True"]

"""A run that has failed says why before a SIGTERM ends it, and nothing of it is left afterwards."""

import os
import signal
import time
from types import SimpleNamespace

import pytest

from hiso_pl.callbacks import signals
from hiso_pl.callbacks.signals import DeferredSignals
from hiso_pl.ranks import environment
from hiso_pl.ranks.last_words import delay, last_words


@pytest.fixture
def ended():
    """Notes each SIGTERM that reaches the process."""
    found = []

    def note(signum, frame):
        found.append(signum)

    before = signal.signal(signal.SIGTERM, note)
    yield found
    assert signal.getsignal(signal.SIGTERM) is note
    signal.signal(signal.SIGTERM, before)


def fail(callback):
    """What Lightning calls of the callback of a fit that fails."""
    callback._handlers = {number: signal.signal(number, lambda *_: None) for number in signals.DEFERRED}
    callback.on_exception(None, None, ValueError("a failure"))


@pytest.fixture
def callback(monkeypatch):
    return DeferredSignals()


def send():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)  # the handler runs between two instructions of the main thread


def test_it_comes_after_the_last_words(ended, callback):
    interrupt = signal.getsignal(signal.SIGINT)
    with last_words():
        fail(callback)
        assert signal.getsignal(signal.SIGINT) is interrupt
        send()
        send()
        assert ended == []
    assert ended == [signal.SIGTERM]
    with last_words():
        pass
    assert ended == [signal.SIGTERM]


def test_a_run_that_nobody_waits_for_gives_the_signal_back_at_once(ended, callback):
    fail(callback)
    send()
    assert ended == [signal.SIGTERM]


def test_a_run_that_ends_well_or_not_at_all_is_not_shielded(ended, callback):
    with last_words():
        send()
        assert ended == [signal.SIGTERM]
    with pytest.raises(ValueError, match="before any run"), last_words():
        raise ValueError("before any run")
    send()
    assert ended == [signal.SIGTERM] * 2


def test_a_run_that_repeats_the_one_that_failed_takes_it(ended, callback):
    with last_words():
        fail(callback)
        send()
        taken = []
        before = signal.signal(signal.SIGTERM, lambda signum, frame: taken.append(signum))  # as its setup does
        delay.deliver(None)
        time.sleep(0.01)
        assert (taken, ended) == ([signal.SIGTERM], [])
        signal.signal(signal.SIGTERM, before)
    assert ended == []


def test_a_rank_whose_launcher_has_been_killed_wishes_to_stop_once(callback, monkeypatch):
    wishes = []
    run = SimpleNamespace(request_stop=lambda: wishes.append(1))
    monkeypatch.setattr(signals, "federated", lambda _: run)
    monkeypatch.delenv(environment.BY_TORCHRUN, raising=False)
    monkeypatch.setattr(environment, "_PARENT", os.getppid() + 1)
    callback.on_train_batch_start(None, None)
    assert wishes == []  # a shell may end before what it has started
    monkeypatch.setenv(environment.BY_TORCHRUN, "x")
    for _ in range(3):
        callback.on_train_batch_start(None, None)
    assert wishes == [1]
    other = DeferredSignals()
    monkeypatch.setattr(environment, "_PARENT", os.getppid())
    other.on_train_batch_start(None, None)
    assert wishes == [1]

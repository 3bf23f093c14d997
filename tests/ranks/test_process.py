import os

import pytest
import torch
import torch.distributed as dist

from hiso_pl.ranks import launch_store, process, roll_call
from hiso_pl.run import versions


@pytest.fixture
def restored(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags


@pytest.mark.usefixtures("restored")
def test_what_is_set_is_recorded_as_plain_values():
    recorded = process.configure(threads=2)
    assert recorded == {
        "threads": 2,
        "deterministic": True,
        "tf32": False,
        "cudnn_benchmark": False,
        "cublas_workspace": ":4096:8",
    }
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cudnn.benchmark
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.usefixtures("restored")
def test_threads_are_one_under_torchrun_and_all_cores_otherwise(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert process.configure()["threads"] == os.cpu_count()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert process.configure()["threads"] == 1


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="threads=0 must be at least 1"):
        process.configure(threads=0)


def test_versions_name_packages_and_formats():
    found = versions.package_versions()
    assert set(found) == {"hiso_pl", "python", *versions.PACKAGES, "stream", "numerics"}
    assert found["stream"] == found["numerics"] == "1"
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_one_of_several_says_a_line(monkeypatch):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert [launch_store.say_once("alpha must be above 0") for _ in range(3)] == [True, False, False]
    assert launch_store.say_once("another line")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert launch_store.say_once("alpha must be above 0")


def test_everyone_speaks_where_nobody_can_be_asked(monkeypatch):
    monkeypatch.setattr(launch_store, "ANSWER_S", 0.2)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launch_store.say_once("a line")
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert launch_store.say_once("a line")
    monkeypatch.delenv("MASTER_PORT")
    assert launch_store.say_once("a line")


def test_what_a_rank_says_is_left_for_those_who_will_miss_it(monkeypatch):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    def verdict(group: str, end) -> str:
        own = dist.PrefixStore(group, store)  # type: ignore[attr-defined]
        monkeypatch.setattr(roll_call, "_current", roll_call.RollCall(own, 1, 2, 5.0))
        end()
        return own.get("verdict").decode() if own.check(["verdict"]) else ""

    assert verdict("said", lambda: launch_store.say_once("out of memory")) == "rank 1 has ended: out of memory"
    assert not launch_store.say_once("rank 1 has ended: out of memory")  # it counts as said
    monkeypatch.setattr(roll_call, "_current", None)
    assert launch_store.say_once("no such file")  # before the ranks have met
    assert store.check(["hiso_pl/start/asks/1"])
    assert store.get("hiso_pl/start/asks/1") == b"ended: rank 1 has ended: no such file"
    assert verdict("clean", process.close) == ""
    assert roll_call.current() is None


def test_close_may_be_called_without_a_group():
    process.close()
    assert not dist.is_initialized()

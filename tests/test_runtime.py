import os

import pytest
import torch
import torch.distributed as dist

from hiso_pl import roll_call, runtime


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
    recorded = runtime.configure(threads=2)
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
    assert runtime.configure()["threads"] == os.cpu_count()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert runtime.configure()["threads"] == 1


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="threads=0 must be at least 1"):
        runtime.configure(threads=0)


def test_versions_name_packages_and_formats():
    versions = runtime.versions()
    assert set(versions) == {"hiso_pl", "python", *runtime.PACKAGES, "stream", "numerics"}
    assert versions["stream"] == versions["numerics"] == "1"
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_the_place_in_a_launch_is_read_from_its_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (runtime.rank(), runtime.world_size(), runtime.local_rank(), runtime.local_world_size()) == (0, 1, 0, 1)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert (runtime.rank(), runtime.world_size(), runtime.local_rank(), runtime.local_world_size()) == (5, 8, 1, 4)


def test_one_of_several_says_a_line(monkeypatch):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert [runtime.say_once("alpha must be above 0") for _ in range(3)] == [True, False, False]
    assert runtime.say_once("another line")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert runtime.say_once("alpha must be above 0")


def test_everyone_speaks_where_nobody_can_be_asked(monkeypatch):
    monkeypatch.setattr(runtime, "SAY_TIMEOUT_S", 0.2)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert runtime.say_once("a line")
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert runtime.say_once("a line")
    monkeypatch.delenv("MASTER_PORT")
    assert runtime.say_once("a line")


def test_what_a_rank_says_or_ends_with_is_left_for_those_who_will_miss_it(monkeypatch):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    def verdict(group: str, end) -> str:
        own = dist.PrefixStore(group, store)
        monkeypatch.setattr(roll_call, "_current", roll_call.RollCall(own, 1, 2, 5.0))
        end()
        return own.get("verdict").decode() if own.check(["verdict"]) else ""

    def end_with_an_exception() -> None:
        try:
            raise AssertionError("a bug\nand more of it")
        except AssertionError:
            runtime.close()

    assert verdict("said", lambda: runtime.say_once("out of memory")) == "rank 1 has ended: out of memory"
    assert not runtime.say_once("rank 1 has ended: out of memory")  # it counts as said
    assert verdict("raised", end_with_an_exception) == "rank 1 has ended: a bug"
    assert verdict("clean", runtime.close) == ""
    assert roll_call.current() is None


def test_close_may_be_called_without_a_group():
    runtime.close()
    assert not dist.is_initialized()

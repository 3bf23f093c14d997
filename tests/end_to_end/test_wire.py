"""Two machines, as far as their ranks can tell, and the bytes that pass on the wire between them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# two cables: what torchrun's agents say to one another goes over the one, what the ranks say over the other
AGENTS, RANKS = "agents0", "ranks0"
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29417
ROUNDS, FIRST = 16, 4
CLIENTS, DIRECTIONS = 2, 3
PAYLOAD = 4 * (CLIENTS * (DIRECTIONS + 1) + 1)
RUN = [
    *("--config", str(HERE / "base.yaml"), "--trainer.max_steps", str(ROUNDS), "--trainer.num_sanity_val_steps", "0"),
    *("--trainer.val_check_interval", str(ROUNDS), "--data.init_args.batch_size", "2"),
    *("--data.init_args.clients", str(CLIENTS), "--data.init_args.cohort", str(CLIENTS)),
]


@dataclass
class Machine:
    """Processes with a network, a host name, a table of hosts and process ids of their own.

    Attributes:
        holder: The process that keeps them; killed, it takes along all that is in there.
        first: The first process within, by its id outside.
    """

    holder: subprocess.Popen[bytes]
    first: int

    def enter(self, *command: str) -> list[str]:
        """A command as it is run within."""
        return ["nsenter", "--target", str(self.first), "--net", "--uts", "--mount", "--pid", *command]

    def do(self, script: str) -> None:
        """Runs a few commands within."""
        subprocess.run(self.enter("sh", "-ec", script), check=True, capture_output=True, timeout=20)


def make_machine() -> Machine:
    spaces = ["--net", "--uts", "--mount", "--pid"]
    holder = subprocess.Popen(
        ["unshare", *spaces, "--fork", "--kill-child", "--mount-proc", "sleep", "600"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 5.0
    while holder.poll() is None and time.monotonic() < until:
        within = psutil.Process(holder.pid).children()
        if within and within[0].name() == "sleep":
            return Machine(holder, within[0].pid)
        time.sleep(0.02)
    end(holder)
    pytest.skip("this machine does not permit name spaces of networks and processes")


def end(holder: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(holder.pid, signal.SIGKILL)
    holder.wait()


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Machine]]:
    """Two machines joined by a cable; nothing of them is left in any case."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None or shutil.which("ip") is None:
        pytest.skip("no unshare, nsenter and ip on this machine")
    made: list[Machine] = []
    try:
        for _ in ADDRESSES:
            made.append(make_machine())
        for name in (AGENTS, RANKS):
            cable = f"ip link add {name} netns {made[0].first} type veth peer name {name} netns {made[1].first}"
            if subprocess.run(cable.split(), check=False, capture_output=True).returncode:
                pytest.skip("this machine does not permit a veth pair")
        for number, (machine, address) in enumerate(zip(made, ADDRESSES, strict=True)):
            machine.do(
                f"hostname node{number}; ip link set lo up;"
                f"ip link set {AGENTS} up; ip address add {address}/24 dev {AGENTS};"
                f"ip link set {RANKS} up; ip address add {address.replace('77', '78')}/24 dev {RANKS};"
                # a segment is acknowledged at once: otherwise the timing decides which acknowledgements ride along
                f"ip route change 10.78.0.0/24 dev {RANKS} quickack 1"
            )
        yield made
    finally:
        for machine in made:
            end(machine.holder)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the scripts take for an environment that is up to date: the one of the tests."""
    venv = tmp_path_factory.mktemp("venv")
    (venv / "bin").mkdir()
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    stamp = f"# installed from {ROOT} with constraints:\n{(ROOT / 'pyproject.toml').read_text()}"
    (venv / "hiso_pl-installed.toml").write_text(stamp)
    return venv


@dataclass
class Launched:
    """A launch on both machines that has ended."""

    statuses: list[int]
    outputs: list[str]
    root: Path

    @property
    def errors(self) -> list[str]:
        return [line for text in self.outputs for line in text.splitlines() if "hiso-pl: error" in line]


def launch(machines: list[Machine], venv: Path, folder: Path, hosts: str, *args: str, by_address: bool) -> Launched:
    """Starts launch/several_nodes.sh on each machine, as its header says, and waits.

    Args:
        machines: The machines.
        venv: Their environment.
        folder: For the run and what is said.
        hosts: Their table of hosts.
        args: Options of fit.
        by_address: Whether the machines are known to each other by their addresses only.
    """
    folder.mkdir()
    table = folder / "hosts"
    table.write_text(hosts)
    processes, logs = [], [folder / f"out{number}" for number in range(len(machines))]
    for machine, address, log in zip(machines, ADDRESSES, logs, strict=True):
        machine.do(f"umount /etc/hosts 2>/dev/null || true; mount --bind {table} /etc/hosts")
        ours = {
            "HISO_PL_CONSTRAINTS": "none",
            "NNODES": "2",
            "NPROC": "1",
            "MAX_RESTARTS": "0",
            "HISO_PL_VENV": str(venv),
            "PYTHONPATH": str(HERE),
        }
        ours |= (
            {"MASTER": f"{ADDRESSES[0]}:{PORT}", "LOCAL_ADDR": address} if by_address else {"MASTER": f"node0:{PORT}"}
        )
        fixed = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        command = ["bash", str(ROOT / "launch" / "several_nodes.sh"), *RUN, *args]
        with log.open("wb") as file:
            processes.append(
                subprocess.Popen(
                    machine.enter(*command, "--trainer.default_root_dir", str(folder / "run")),
                    env={**os.environ, **fixed, **ours},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        statuses = [process.wait(240) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return Launched(statuses, [log.read_text(errors="replace") for log in logs], folder / "run")


BY_NAME = "127.0.0.1 localhost\n10.77.0.1 node0\n10.77.0.2 node1\n"
LOOPBACK = "127.0.0.1 localhost\n127.0.1.1 node0 node1\n"  # each knows itself as a machine with Debian does


@dataclass
class Cost:
    """What a round costs.

    Attributes:
        parameters: Of the model.
        payload: Bytes that a rank hands to the process group in a round; all values that were seen.
        ranks: Bytes on the wire between the ranks, both directions, in each round.
        agents: Bytes a second between torchrun's agents, which look after each other whatever the ranks do.
        seconds: Of a round.
    """

    parameters: int
    payload: list[int]
    ranks: list[int]
    agents: float
    seconds: float

    @property
    def round(self) -> float:
        """Bytes on the wire of a round; the median, as a network has a word of its own now and then."""
        return statistics.median(self.ranks)

    @property
    def fedavg(self) -> int:
        """Bytes of a round of FedAvg: the model to a client and back, fp32."""
        return 2 * 4 * self.parameters


@pytest.fixture(scope="module")
def costs(machines: list[Machine], venv: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Cost]:
    """What a round costs with about a million parameters and with seven."""
    folder, found = tmp_path_factory.mktemp("wire"), []
    for channels, by_address in ((235, True), (625, False)):
        path = folder / f"seen{channels}"
        counter = {"path": str(path), "interfaces": [RANKS, AGENTS]}
        args = [
            *("--model.network.init_args.channels", str(channels), "--trainer.strategy.init_args.interface", RANKS),
            *("--trainer.callbacks+", json.dumps({"class_path": "wire.WireCounter", "init_args": counter})),
        ]
        hosts = LOOPBACK if by_address else BY_NAME
        launched = launch(machines, venv, folder / f"of{channels}", hosts, *args, by_address=by_address)
        assert launched.statuses == [0, 0], launched.outputs
        seen = [json.loads(Path(f"{path}.{rank}").read_text())[FIRST:] for rank in range(2)]
        (seconds, _, _, agents), rounds = (
            (b - a for a, b in zip(seen[0][0], seen[0][-1], strict=True)),
            len(seen[0]) - 1,
        )
        found.append(
            Cost(
                json.loads((launched.root / "summary.json").read_text())["parameters"],
                sorted({b[1] - a[1] for rank in seen for a, b in pairwise(rank)}),
                [b[2] - a[2] for a, b in pairwise(seen[0])],
                agents / seconds,
                seconds / rounds,
            )
        )
    return found


def test_a_round_costs_the_same_on_the_wire_for_a_model_seven_times_larger(costs: list[Cost]) -> None:
    small, large = costs
    for cost in costs:
        print(
            f"{cost.parameters} parameters: payload {cost.payload} B, {cost.round:.0f} B on the wire a round of"
            f" {cost.seconds:.2f} s {sorted(cost.ranks)}, agents {cost.agents:.0f} B/s; FedAvg {cost.fedavg} B,"
            f" {cost.fedavg / (cost.round + cost.agents * cost.seconds):.0f} times as much"
        )
    assert 0.9e6 < small.parameters < 1.1e6
    assert 6.5e6 < large.parameters < 7.5e6
    assert small.payload == large.payload == [PAYLOAD]
    assert abs(large.round / small.round - 1.0) < 0.01
    for cost in costs:
        assert cost.round + cost.agents * cost.seconds < cost.fedavg / 1000
        assert cost.agents < 5000.0  # it grows with time, not with rounds or parameters


def test_the_interface_is_the_one_that_is_named(machines: list[Machine], venv: Path, tmp_path: Path) -> None:
    args = ("--trainer.strategy.init_args.interface", "lo", "--trainer.strategy.init_args.timeout_s", "10")
    launched = launch(machines, venv, tmp_path / "run", LOOPBACK, *args, by_address=True)
    assert all(launched.statuses)
    assert launched.errors
    for line in launched.errors:
        assert "the ranks cannot connect to one another: name the network interface" in line
        assert f"has lo, {AGENTS}, {RANKS})" in line or f"has lo, {RANKS}, {AGENTS})" in line

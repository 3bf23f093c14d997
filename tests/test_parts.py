"""Parts from outside the package, each in a file of its own: they run, are told what they need, and are replayed."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hiso_pl import first_order
from hiso_pl.cli import program as cli
from hiso_pl.cli.replay import run as replay
from hiso_pl.ledger import LedgerReader
from hiso_pl.zeroth_order import Diagonal, Identity, Method, Momentum, PerTensor, Scalar, Sgd, ZerothOrderOptimizer
from hiso_pl.zeroth_order.interfaces import MethodBase
from hiso_pl.zeroth_order.method_data import APPLIED, CARRIED, PARTS
from hiso_pl.zeroth_order.part import ROOMS, Part, built, known

BASE = Path(__file__).parent / "end_to_end" / "base.yaml"

FILES = {
    "grouped": """
        import torch
        from hiso_pl.zeroth_order.preconditioner.scalar import PerTensor

        class Grouped(PerTensor):
            \"\"\"One number for all weights, and one for all biases.\"\"\"

            def owners(self, targets):
                first = {}
                return [first.setdefault(t.name.endswith("bias"), t.position) for t in targets]
        """,
    "warmed": """
        import numpy as np
        from hiso_pl.zeroth_order.update_rule import UpdateRule

        class Warmed(UpdateRule):
            \"\"\"A step that grows with the rounds that were applied, and halves for biases.

            Args:
                rounds: Rounds until it is whole.
            \"\"\"

            def __init__(self, rounds: int = 5) -> None:
                self.rounds = rounds

            def move(self, x, direction, lr, state, target):
                share = min(1.0, (target.applied + 1) / self.rounds) * (0.5 if target.name.endswith("bias") else 1.0)
                x.sub_(direction * float(np.float32(lr * share)))
        """,
    "dithered": """
        import numpy as np
        from hiso_pl.zeroth_order.transform import Transform

        class Dithered(Transform):
            \"\"\"Adds a little that depends on all it is told.\"\"\"

            def __call__(self, scalars, departure):
                before = 0.0 if departure.before is None else float(np.abs(departure.before.scalars).mean())
                shift = 1e-3 * (departure.seed + 10 * departure.round + 100 * departure.client) + 1e-2 * before
                return (scalars + np.float32(shift)).astype(np.float32)
        """,
    "contrary": """
        from hiso_pl.zeroth_order.attack import Attack

        class Contrary(Attack):
            \"\"\"Sends the opposite, of a size that depends on all it is told.\"\"\"

            def __call__(self, scalars, hostile, present, scene):
                size = 1.0 + scene.round / scene.population + (scene.seed + max(scene.clients)) / 100
                return -size * scalars[hostile].astype("float64")
        """,
    "trimmed": """
        import numpy as np
        from hiso_pl.zeroth_order.aggregation import Aggregation

        class Trimmed(Aggregation):
            \"\"\"The median of the slots.\"\"\"

            def __call__(self, scalars, present, weights):
                return np.median(scalars[present], axis=0).astype(np.float32)
        """,
    "sawtooth": """
        from hiso_pl.zeroth_order.schedule import Schedule

        class Sawtooth(Schedule):
            \"\"\"Halves every other round.\"\"\"

            def __call__(self, initial, round):
                return initial * (1.0 if round % 2 else 0.5)
        """,
}
CHOSEN = {
    "preconditioner": "grouped.Grouped",
    "update_rule": "warmed.Warmed",
    "transform": "dithered.Dithered",
    "attack": "contrary.Contrary",
    "aggregation": "trimmed.Trimmed",
    "mu_schedule": "sawtooth.Sawtooth",
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a part of each kind."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


def program(outside: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The program where the parts can be found."""
    code = f"import sys; sys.path.insert(0, {str(outside)!r}); from hiso_pl.__main__ import main; main()"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=240)


@pytest.fixture
def replayed(
    outside: Path, process_settings: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Replays where the parts can be found: the status, what is written, and the errors."""
    monkeypatch.syspath_prepend(str(outside))
    before = set(sys.modules)

    def replayed(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return cli.main(["replay", *args]), *capsys.readouterr()

    yield replayed
    for name in set(FILES) & set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.slow
def test_a_part_of_each_kind_from_outside_runs_and_is_replayed(
    outside: Path, replayed: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = [f"--model.method.{kind}={name}" for kind, name in CHOSEN.items()]
    done = program(outside, "fit", "--config", str(BASE), *options, "--trainer.default_root_dir", str(run))
    assert done.returncode == 0, done.stderr
    ledger = run / "rounds.ledger"
    header = LedgerReader(ledger).header
    assert header.method["update_rule"] == {"warmed.Warmed": {"rounds": 5}}
    assert {round(record.mu, 6) for record in LedgerReader(ledger)} == {0.001, 0.0005}

    status, said, errors = replayed(str(ledger), "--verify")
    assert (status, said) == (1, "")
    assert "--method CONFIG" in errors
    assert not set(FILES) & set(sys.modules)
    (line,) = [line for line in done.stderr.splitlines() if "hiso-pl replay" in line]  # at the start of the fit
    assert "preconditioner=grouped.Grouped, update_rule=warmed.Warmed: no part of this package" in line
    command = shlex.split(line.partition("imported: hiso-pl ")[2])
    assert command == ["replay", str(ledger), "--method", str(run / "config.yaml")]
    status, said, errors = replayed(*command[1:], "--verify")
    assert status == 0, errors
    digest = json.loads((run / "summary.json").read_text())["digest"]
    assert f"digest {digest}" in said
    assert "verified" in said
    other = (run / "config.yaml").read_text().replace("rounds: 5", "rounds: 6")
    (tmp_path / "other.yaml").write_text(other)
    status, _, errors = replayed(str(ledger), "--method", str(tmp_path / "other.yaml"))
    assert status == 1
    assert "update_rule is {'warmed.Warmed': {'rounds': 5}} there" in errors


def test_a_ledger_never_imports_what_it_names(outside: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'grouped\.Grouped' is not one of .*--method CONFIG"):
        Method.applying({"preconditioner": {"grouped.Grouped": {}}})
    assert "grouped" not in sys.modules


@pytest.mark.parametrize("kind", ROOMS)
def test_every_registered_part_can_be_named_built_and_compared(kind: str) -> None:
    assert known(kind)
    for name, cls in known(kind).items():
        needed = {"Linear": (0.1, 5), "Cosine": (0.1, 5), "Steps": ([3], [0.5])}.get(name, ())
        needed = (1.0, 2.0) if kind == "privacy" else needed
        part = cls(*needed)
        assert part == cls(*needed)
        assert part.as_data() == {name: {k: v for k, v in part.options.items() if k not in part.later}}
        if not needed:
            assert built(kind, {name: {}}) == part
        if kind != "schedule":
            assert built(kind, part.as_data()) == part


def test_a_part_that_hides_an_option_is_refused() -> None:
    class Hiding(Part):
        def __init__(self, secret: int = 1) -> None:
            self._secret = secret

    with pytest.raises(ValueError, match="Hiding must keep its option 'secret' under that very name"):
        Hiding().as_data()


def test_a_method_is_frozen_and_comes_back_from_its_data() -> None:
    method = Method(local_steps=3, distribution="rademacher", preconditioner=Scalar(nu=0.2), update_rule=Momentum(0.5))
    with pytest.raises(AttributeError):
        method.local_steps = 4  # type: ignore[misc]
    data = json.loads(json.dumps(method.as_data()))
    Method.check_data(data)
    back = Method.applying(data)
    assert [getattr(back, name) for name in APPLIED] == [getattr(method, name) for name in APPLIED]
    assert Method.applying({}) == Method()
    assert Method(preconditioner=Diagonal(), update_rule=Sgd()) == Method()
    assert Method(preconditioner=Identity()) != Method()
    assert not set(CARRIED) & set(data)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"colour": "red"}, "'colour', which this version does not know"),
        ({"directions": "own"}, "directions='own' must be one of shared, client"),
        ({"memory": "low"}, "'memory', which this version does not know"),
        ({"preconditioner": None}, "preconditioner must be one name"),
        ({"preconditioner": {"Diagonal": {}, "Scalar": {}}}, "must be one name with a mapping"),
        ({"update_rule": "Sgd"}, "must be one name with a mapping"),
        ({"local_steps": True}, "local_steps=True must be an integer"),
        ({"local_steps": 1 << 20}, "local_steps=1048576 must be an integer in"),
        ({"distribution": "os.system"}, "distribution='os.system' must be one of"),
        ({"directions": "mine"}, "directions='mine' must be one of shared, client"),
        ([], "method is list, must be a mapping"),
    ],
)
def test_data_that_are_no_method_are_refused(data: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Method.check_data(data)


@pytest.mark.parametrize("name", PARTS)
def test_what_is_no_part_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}='Diagonal' must be a "):
        Method(**{name: "Diagonal"})


def test_an_h_over_groups_of_tensors_is_kept_once_and_told_apart_by_name(outside: Path) -> None:
    sys.path.insert(0, str(outside))
    try:
        from grouped import Grouped  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(outside))
        sys.modules.pop("grouped", None)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
    inputs = torch.randn(9, 5)
    optimizer = ZerothOrderOptimizer(model.named_parameters(), lr=0.01, preconditioner=Grouped(), local_steps=2)
    single = ZerothOrderOptimizer(nn.Linear(5, 6).named_parameters(), preconditioner=PerTensor())
    for _ in range(3):
        optimizer.step(lambda: model(inputs).square().mean())
    assert [(s.name, s.kind) for s in optimizer.tensors() if s.kind != "x"] == [
        ("0.weight", "hessian"),
        ("0.bias", "hessian"),
    ]
    weights, biases = optimizer.stored_hessians
    assert optimizer.hessians[2] is weights
    assert optimizer.hessians[3] is biases
    assert float(weights) != float(biases)
    assert len(single.stored_hessians) == 2


def test_an_elementwise_h_cannot_be_shared() -> None:
    class Shared(Diagonal):
        def owners(self, targets):  # type: ignore[no-untyped-def]
            return [0] * len(targets)

    with pytest.raises(ValueError, match="shares an H between tensors: it must use squares"):
        ZerothOrderOptimizer(nn.Linear(3, 3).named_parameters(), preconditioner=Shared())


def test_replay_of_a_configuration_without_a_method_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {}\n")
    with pytest.raises(ValueError, match=r"must be a configuration with model\.method"):
        replay(["rounds.ledger", "--method", str(tmp_path / "config.yaml")])


def test_what_a_transform_withholds_does_not_leave() -> None:
    from hiso_pl.federation import Clip
    from hiso_pl.zeroth_order import LocalExchange, Slots

    class Recorded(LocalExchange):
        def __call__(self, rows, slots):  # type: ignore[no-untyped-def]
            self.rows = rows.clone()
            return super().__call__(rows, slots)

    model, exchange = nn.Linear(3, 1), Recorded()
    options = {"num_directions": 4, "exchange": exchange}
    optimizer = ZerothOrderOptimizer(model.named_parameters(), transform=Clip(0.05), **options)
    loss = optimizer.step(lambda: model(torch.ones(2, 3)).square().mean())
    assert exchange.rows.shape == (1, 4)  # no column for the loss
    assert exchange.rows.abs().max() <= 0.05
    assert torch.isnan(loss)
    assert optimizer.report is not None
    assert optimizer.report.loss is None
    assert np.isnan(optimizer.report.slot_losses).all()
    shared = Slots(1, (0,), (0,), None, ((0, 2),))
    with pytest.raises(ValueError, match=r"withholds losses.*spare_ranks must be idle"):
        optimizer.step(losses=[lambda k: model(torch.ones(2, 3)).sum()], slots=shared)
    open_ = ZerothOrderOptimizer(model.named_parameters(), **options)
    open_.step(lambda: model(torch.ones(2, 3)).square().mean())
    assert exchange.rows.shape == (1, 5)


METHODS = [
    Method,
    *(kind for kind in vars(first_order).values() if isinstance(kind, type) and issubclass(kind, MethodBase)),
]


@pytest.mark.parametrize("kind", METHODS)
def test_the_types_of_a_method_are_found_by_the_names_of_its_own_module(kind):
    """There alone jsonargparse looks, also for annotations of bases; an option whose type is not found has none."""
    hints = typing.get_type_hints(kind, vars(sys.modules[kind.__module__]))
    assert {field.name for field in dataclasses.fields(kind)} <= set(hints)

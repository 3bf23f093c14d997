"""A configuration as its leaves."""

import hiso_pl.data  # noqa: F401 - a class that is not imported is not known
from hiso_pl.run.configuration import as_text, default_of, leaves

ADAM = {"class_path": "hiso_pl.zeroth_order.Adam", "init_args": {}}


def test_leaves_have_dotted_keys_and_an_empty_mapping_is_one():
    tree = {"seed": 1, "model": {"lr": 0.1, "rule": None, "layers": [1, 2], "deep": {"on": True}, "none": {}}}
    found = {"seed": 1, "model.lr": 0.1, "model.rule": None, "model.layers": [1, 2], "model.deep.on": True}
    assert leaves(tree) == found | {"model.none": {}}
    assert as_text(tree)["model.lr"] == "0.1"
    assert as_text(tree)["model.none"] == "{}"


def test_the_default_of_an_option_is_that_of_the_class_that_the_configuration_names():
    method = {"class_path": "hiso_pl.zeroth_order.Method", "init_args": {"local_lr": None, "update_rule": ADAM}}
    options = as_text({"model": {"method": method}, "seed": 1})
    at = "model.method.init_args"
    found = [f"{at}.local_lr", f"{at}.update_rule.init_args.bias_correction", f"{at}.difference"]
    assert [default_of(key, options) for key in found] == ["None", "True", "'forward'"]
    data = as_text({"data": {"class_path": "hiso_pl.data.DigitsData", "init_args": {"dropout": 0.0}}})
    found = [default_of(f"data.init_args.{name}", data) for name in ("split_seed", "dropout", "availability", "base")]
    assert found == ["0", "0.0", "None", None]  # those that a class hands on to the one that it derives from too
    for key in ("seed", f"{at}.nothing", "model.network.init_args.path", f"{at}.update_rule.class_path"):
        assert default_of(key, options) is None
    for path in ("os.system", "nowhere.Class", "", "hiso_pl.zeroth_order.Nothing"):
        assert default_of("a.init_args.b", {"a.class_path": repr(path)}) is None

"""A configuration as its leaves."""

from hiso_pl.run.configuration import as_text, leaves


def test_leaves_have_dotted_keys_and_an_empty_mapping_is_one():
    tree = {"seed": 1, "model": {"lr": 0.1, "rule": None, "layers": [1, 2], "deep": {"on": True}, "none": {}}}
    found = {"seed": 1, "model.lr": 0.1, "model.rule": None, "model.layers": [1, 2], "model.deep.on": True}
    assert leaves(tree) == found | {"model.none": {}}
    assert as_text(tree)["model.lr"] == "0.1"
    assert as_text(tree)["model.none"] == "{}"

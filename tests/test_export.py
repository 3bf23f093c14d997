"""An exported folder opens with plain ``from_pretrained`` in a fresh process and predicts what the run predicts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from hiso_pl.cli import program as cli
from hiso_pl.data.digits import DigitsData
from hiso_pl.data.tasks import find_task
from hiso_pl.export.writing import name_classes, save
from hiso_pl.models import CausalLM, SequenceClassifier

pytestmark = pytest.mark.usefixtures("process_settings")

WORDS = ["<s>", "<pad>", "<unk>", "</s>", "Ġbad", "Ġgood", "Ġterrible", "Ġgreat", "ĠIt", "Ġwas", "a", "Ġfine", "Ġfilm"]
SENTENCES = ["a fine film", "a film", "a great film", "fine film", "a terrible film", "a bad fine film", "a good film"]
COMMON = {"vocab_size": 40, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 3, "hidden_size": 16}
SIZES = {**COMMON, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}

# what a user writes, with nothing of this package in it: scores of folders, to be compared with the run's
READER = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

found = {}
for name, folder, kind, base in json.loads(sys.argv[1]):
    auto = AutoModelForSequenceClassification if kind == "sentences" else AutoModelForCausalLM
    if base is None:
        model, info = auto.from_pretrained(folder, dtype="auto", output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    else:
        model = PeftModel.from_pretrained(auto.from_pretrained(base), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = json.loads(sys.argv[2])
    if kind != "sentences":
        texts = [text + " It was" for text in texts]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    with torch.no_grad():
        logits = model.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    if kind != "sentences":
        words = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in (" bad", " good")]
        shift = logits.shape[1] - batch.input_ids.shape[1]  # virtual tokens in front
        logits = logits[torch.arange(len(texts)), batch.attention_mask.sum(1) - 1 + shift][:, words]
    found[name] = [str(logits.dtype), logits.float().tolist()]
assert "hiso_pl" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of tiny random models with a tokenizer."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    torch.manual_seed(0)
    made = {
        "opt": transformers.AutoModelForCausalLM.from_config(
            transformers.OPTConfig(**SIZES, word_embed_proj_dim=16, ffn_dim=32, init_std=0.3)
        ),
        "bert": transformers.AutoModel.from_config(
            transformers.BertConfig(**SIZES, intermediate_size=32, initializer_range=0.3)
        ),
        # a decoder that has no token for padding, which its tokenizer has
        "gpt2": transformers.AutoModelForCausalLM.from_config(
            transformers.GPT2Config(
                vocab_size=40,
                n_embd=16,
                n_layer=2,
                n_head=2,
                n_positions=32,
                bos_token_id=0,
                eos_token_id=3,
                initializer_range=0.3,
            )
        ),
    }
    made["opt-7m"] = transformers.AutoModelForCausalLM.from_config(
        transformers.OPTConfig(
            vocab_size=8192,
            hidden_size=256,
            word_embed_proj_dim=256,
            ffn_dim=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            max_position_embeddings=256,
        )
    )
    root = tmp_path_factory.mktemp("bases")
    for name, model in made.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    for name in ("train", "dev"):
        rows = "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(SENTENCES * (4 if name == "train" else 1)))
        (root / f"{name}.tsv").write_text("sentence\tlabel\n" + rows)
    return root


def arguments(bases, base, *more, sentences=False):
    network, data = ("SequenceClassifier", "SentenceClassification") if sentences else ("CausalLM", "PromptData")
    return [
        *("--seed_everything", "3", "--threads", "1", "--trainer.max_steps", "3", "--trainer.val_check_interval", "3"),
        *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
        *("--model.network", f"hiso_pl.models.{network}", "--model.network.pretrained", str(bases / base)),
        *("--model.method.lr", "0.02", "--data", f"hiso_pl.data.text.{data}", "--data.task", "sst2-hiso"),
        *("--data.clients", "2", "--data.cohort", "2", "--data.batch_size", "4"),
        *("--data.train_file", str(bases / "train.tsv"), "--data.validation_file", str(bases / "dev.tsv")),
        *more,
    ]


VIRTUAL = '"num_virtual_tokens": 3'
RUNS = {
    # name: base, whether sentences, what differs
    "whole": ("opt", False, ["--model.method.preconditioner", "hiso_pl.zeroth_order.Identity"]),
    "bert": ("bert", True, []),
    "gpt2": ("gpt2", True, []),
    "lora": ("opt", False, ["--model.network.peft", '{"r": 2, "alpha": 4}']),
    "lora head": (
        "opt",
        False,
        ["--model.network.peft", '{"r": 2, "target_modules": ["q_proj", "lm_head"]}'],
    ),
    # frozen weights are cast for good while it trains
    "lora bf16": (
        "opt",
        False,
        [
            *("--model.network.peft", '{"r": 2, "target_modules": ["q_proj", "fc1"]}', "--model.method.mu", "0.02"),
            *("--model.method.compute_dtype", "bfloat16"),
        ],
    ),
    "bert lora": ("bert", True, ["--model.network.peft", '{"r": 2, "target_modules": ["query"]}']),
    "part": ("opt", False, ["--model.network.trainable", r"layers\.1\..*(fc1|bias)"]),
    "ia3": ("opt", False, ["--model.network.peft", '{"peft_type": "IA3"}']),
    **{
        kind: ("opt", False, ["--model.network.peft", f'{{"peft_type": "{kind.upper()}_TUNING", {VIRTUAL}}}'])
        for kind in ("prompt", "p", "prefix")
    },
    "opt-7m": ("opt-7m", False, ["--model.network.peft", '{"r": 8}']),
}
# name: run, options of the export
EXPORTS = {
    "whole": ("whole", []),
    "whole half": ("whole", ["--dtype", "float16"]),
    "bert": ("bert", []),
    "gpt2": ("gpt2", []),
    "lora": ("lora", []),
    "lora merged": ("lora", ["--merge", "true"]),
    "lora head merged": ("lora head", ["--merge", "true"]),
    "lora bf16": ("lora bf16", []),
    "bert lora": ("bert lora", []),
    "bert lora merged": ("bert lora", ["--merge", "true"]),
    "part": ("part", []),
    "ia3": ("ia3", []),
    "ia3 merged": ("ia3", ["--merge", "true"]),
    "prompt": ("prompt", []),
    "p": ("p", []),
    "prefix": ("prefix", []),
    "opt-7m": ("opt-7m", []),
}


@pytest.fixture(scope="module")
def runs(bases, tmp_path_factory):
    """Folders of finished runs, with what they predict."""
    folder = tmp_path_factory.mktemp("runs")
    for name, (base, sentences, more) in RUNS.items():
        root = ["--trainer.default_root_dir", str(folder / name)]
        assert cli.main(["fit", *arguments(bases, base, *more, sentences=sentences), *root]) == 0
        again = ["--config", str(folder / name / "config.yaml"), "--ckpt_path", "last"]
        assert cli.main(["predict", *again]) == 0
    return folder


@pytest.fixture(scope="module")
def exports(bases, runs, tmp_path_factory):
    """Folders exported from these runs, and the scores of all of them in a fresh process."""
    folder = tmp_path_factory.mktemp("exports")
    jobs = []
    for name, (run, options) in EXPORTS.items():
        base, sentences, more = RUNS[run]
        output = folder / name
        assert cli.main(["export", "--config", str(runs / run / "config.yaml"), "--output", str(output), *options]) == 0
        adapter = "--model.network.peft" in more and "--merge" not in options
        kind = "sentences" if sentences else "prompts"
        jobs.append([name, str(output), kind, str(bases / base) if adapter else None])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READER, json.dumps(jobs), json.dumps(SENTENCES)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def predicted(run):
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    return torch.tensor([list(line["scores"].values()) for line in lines])


@pytest.mark.parametrize("name", list(EXPORTS))
def test_a_fresh_process_predicts_the_same(runs, exports, name):
    dtype, scores = exports[1][name]
    theirs, ours = torch.tensor(scores), predicted(runs / EXPORTS[name][0])
    half = "half" in name or "bf16" in name
    assert dtype == ("torch.float16" if "half" in name else "torch.float32")
    torch.testing.assert_close(theirs, ours, rtol=3e-2 if half else 1e-5, atol=3e-2 if half else 1e-5)
    if not half:
        assert torch.equal(theirs.argmax(1), ours.argmax(1))


def test_training_moved_the_scores(bases, runs, exports):
    """Otherwise the comparison above would hold for an export of the base."""
    moved = ("whole", "lora", "lora head merged", "part", "ia3 merged", "prompt", "p", "prefix")
    seen = [torch.tensor(exports[1][name][1]) for name in moved]
    model = transformers.AutoModelForCausalLM.from_pretrained(bases / "opt").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bases / "opt")
    first = tokenizer(SENTENCES[0] + " It was", return_tensors="pt")
    with torch.no_grad():
        before = model(**{key: first[key] for key in ("input_ids", "attention_mask")}).logits[0, -1, [4, 5]]
    assert all((scores[0] - before).abs().max() > 1e-3 for scores in seen)


def test_what_a_folder_holds(bases, runs, exports):
    folder, _ = exports
    files = {name: {path.name for path in (folder / name).iterdir()} for name in EXPORTS}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= files["whole"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files["bert"]
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= files["lora"]
    assert not files["lora"] & {"config.json", "model.safetensors"}
    assert "adapter_config.json" not in files["lora merged"]
    assert not any("README.md" in names for names in files.values())
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    adapter = json.loads((folder / "lora" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(bases / "opt")
    # but for the base model's name no file knows where it was made
    for path in folder.rglob("*.json"):
        text = path.read_text().replace(json.dumps(str(bases / RUNS[EXPORTS[path.parent.name][0]][0])), "")
        assert str(bases.parent) not in text, path


def test_the_facts(bases, runs, exports):
    facts = json.loads((exports[0] / "whole" / "hiso_pl.json").read_text())
    assert (facts["kind"], facts["round"], facts["dtype"]) == ("model", 3, "float32")
    assert facts["base_model"] == {"name": str(bases / "opt"), "revision": None}
    # a method without H: what was trained is all that the run's digest is of
    summary = json.loads((runs / "whole" / "summary.json").read_text())
    assert facts["trained_sha256"] == summary["digest"]
    assert facts["trained_parameters"] == summary["parameters"]
    assert {"hiso_pl", "torch", "transformers", "peft"} <= set(facts["versions"])
    kinds = [json.loads((exports[0] / name / "hiso_pl.json").read_text())["kind"] for name in ("lora", "lora merged")]
    assert kinds == ["adapter", "merged"]


def test_an_adapter_is_small(exports):
    sizes = [path.stat().st_size for path in (exports[0] / "opt-7m").iterdir()]
    assert sum(sizes) < 1_000_000


def test_frozen_weights_are_exported_as_they_were_loaded(bases, runs, tmp_path):
    """Merged weights that the adapter does not touch are the base's, though the run computed in bf16."""
    args = ["export", "--config", str(runs / "lora bf16" / "config.yaml"), "--output", str(tmp_path / "out")]
    assert cli.main([*args, "--merge", "true"]) == 0
    base = transformers.AutoModelForCausalLM.from_pretrained(bases / "opt").state_dict()
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed
    assert all(re.search(r"(q_proj|fc1)\.weight", name) for name in changed)


def test_a_part_that_is_trained_is_all_that_changes(bases, exports):
    base = transformers.AutoModelForCausalLM.from_pretrained(bases / "opt").state_dict()
    part = transformers.AutoModelForCausalLM.from_pretrained(exports[0] / "part").state_dict()
    changed = {name for name in base if not torch.equal(base[name], part[name])}
    assert changed
    assert changed == {name for name in base if re.search(r"layers\.1\..*(fc1|bias)", name)}


def test_classes_have_the_tasks_names(exports):
    for name in ("bert", "gpt2"):
        config = transformers.AutoConfig.from_pretrained(exports[0] / name)
        assert config.id2label == dict(enumerate(find_task("sst2-hiso").classes))
        assert config.label2id == {label: i for i, label in config.id2label.items()}
    assert "id2label" not in json.loads((exports[0] / "whole" / "config.json").read_text())


def test_names_of_classes_come_from_the_users_own_task_too(bases):
    network = SequenceClassifier(str(bases / "bert"), num_labels=3)
    for task in (None, 5, "not a task", "sst2", {"template": "{text}"}, {"classes": ["one", "two"]}):
        name_classes(network, task)
        assert network.model.config.id2label == {i: f"LABEL_{i}" for i in range(3)}, task
    name_classes(network, {"classes": ["yes", "no", "maybe"]})
    assert network.model.config.id2label == {0: "yes", 1: "no", 2: "maybe"}


def test_what_generates_is_taken_away_generating(bases, tmp_path):
    """Greedy by default, and from a prompt alone what the network generated in a batch."""
    (tmp_path / "base").mkdir()
    shutil.copytree(bases / "opt", tmp_path / "base", dirs_exist_ok=True)
    (tmp_path / "base" / "generation_config.json").write_text('{"do_sample": true, "temperature": 9.0}')
    network = CausalLM(str(tmp_path / "base"))
    batch = {
        "input_ids": torch.tensor([[0, 10, 12, 8, 5, 1], [0, 10, 11, 12, 9, 5]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0], [1] * 6]),
        "answer_positions": torch.tensor([[3], [4]]),
        "stop_tokens": torch.tensor([3]),
        "max_new_tokens": torch.tensor(6),
    }
    with torch.inference_mode():
        expected = network.generate(batch)
    folder = tmp_path / "out"
    folder.mkdir()
    save(network, transformers.AutoTokenizer.from_pretrained(bases / "opt"), folder, "model", torch.float32)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for row, length, tokens in zip(batch["input_ids"], (4, 5), expected.tolist(), strict=True):
        found = model.generate(row[None, :length], max_new_tokens=6, eos_token_id=3)[0, length:]
        assert found.tolist() == [token for token in tokens if token >= 0]


@pytest.mark.parametrize("peft", [None, '{"r": 2, "target_modules": ["query", "q_proj"]}'])
def test_a_classifier_of_images(tmp_path, peft):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=10)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "vit")
    args = [
        *("--seed_everything", "3", "--threads", "1", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
        *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
        *("--trainer.default_root_dir", str(tmp_path / "run"), "--model.network", "hiso_pl.models.ImageClassifier"),
        *("--model.network.pretrained", str(tmp_path / "vit"), "--model.method.lr", "0.02"),
        *("--data", "hiso_pl.data.digits.DigitsData", "--data.clients", "2", "--data.cohort", "2"),
        *([] if peft is None else ["--model.network.peft", peft]),
    ]
    again = ["--config", str(tmp_path / "run" / "config.yaml")]
    assert cli.main(["fit", *args]) == 0
    assert cli.main(["predict", *again, "--ckpt_path", "last"]) == 0
    assert cli.main(["export", *again, "--output", str(tmp_path / "out")]) == 0
    auto = transformers.AutoModelForImageClassification
    if peft is None:
        model = auto.from_pretrained(tmp_path / "out")
    else:
        model = PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "vit"), tmp_path / "out").eval()
    data = DigitsData(clients=2, cohort=2)
    with torch.no_grad():
        images = torch.from_numpy(data.load().test.pixels).repeat(1, 3, 1, 1)
        scores = model(pixel_values=images).logits
    torch.testing.assert_close(scores, predicted(tmp_path / "run"), rtol=1e-5, atol=1e-5)


# What is refused, and what a file may not do


@pytest.fixture
def refused(capsys):
    def refused(args, status=1):
        capsys.readouterr()
        assert cli.main(["export", *args]) == status
        [line] = [line for line in capsys.readouterr().err.splitlines() if "hiso-pl" in line]
        assert line.startswith("hiso-pl: error: ")
        return line

    return refused


def bytes_of(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_only_an_earlier_export_is_overwritten(refused, runs, tmp_path):
    args = ["--config", str(runs / "whole" / "config.yaml"), "--output"]
    taken = tmp_path / "taken"
    taken.mkdir()
    assert cli.main(["export", *args, str(taken)]) == 0  # an empty folder will do
    before = bytes_of(taken)
    assert re.search(r"taken is not empty: .*--overwrite true", refused([*args, str(taken)]))
    assert bytes_of(taken) == before
    assert cli.main(["export", *args, str(taken), "--overwrite", "true"]) == 0
    assert bytes_of(taken) == before
    (taken / "thesis.txt").write_text("years of work")
    assert "also holds thesis.txt" in refused([*args, str(taken), "--overwrite", "true"])
    (taken / "thesis.txt").unlink()
    (taken / "config.json").write_text("{}")
    assert "config.json is not as it was exported" in refused([*args, str(taken), "--overwrite", "true"])
    facts = json.loads((taken / "hiso_pl.json").read_text())
    for files in ({}, [], {"../thesis.txt": None}):
        (taken / "hiso_pl.json").write_text(json.dumps({**facts, "files": files}))
        assert "so it is not replaced" in refused([*args, str(taken), "--overwrite", "true"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "is no earlier export" in refused([*args, str(tmp_path / "mine"), "--overwrite", "true"])
    assert "is a file" in refused([*args, str(tmp_path / "mine" / "thesis.txt"), "--overwrite", "true"])
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "mine"}


def test_what_is_exported_from_is_not_overwritten(refused, runs, exports, tmp_path):
    shutil.copytree(exports[0] / "whole", tmp_path / "whole")
    shutil.copy(runs / "whole" / "checkpoints" / "last.ckpt", tmp_path / "whole")
    line = refused(
        [
            *("--config", str(runs / "whole" / "config.yaml"), "--output", str(tmp_path / "whole")),
            *("--overwrite", "true", "--ckpt_path", str(tmp_path / "whole" / "last.ckpt")),
        ]
    )
    assert "also holds last.ckpt" in line
    assert (tmp_path / "whole" / "last.ckpt").exists()


def test_nothing_half_written_stays(refused, runs, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "save_pretrained", fail)
    args = ["--config", str(runs / "whole" / "config.yaml"), "--output", str(tmp_path / "out")]
    assert "no space left" in refused(args)
    assert not list(tmp_path.iterdir())


def test_command_lines_that_cannot_be(refused, runs, tmp_path):
    config, output = ["--config", str(runs / "whole" / "config.yaml")], ["--output", str(tmp_path / "out")]
    for args, message in (
        (config, "output"),
        (output, "network"),
        ([*config, *output, "--dtype", "float8"], "dtype.*float8"),
        ([*config, *output, "--marge", "true"], "marge"),
    ):
        assert re.search(message, refused(args, status=2)), args
    for args, message in (
        ([*config, *output, "--merge", "true"], "merge=True must be false: the network has no adapter"),
        (
            ["--config", str(runs / "prefix" / "config.yaml"), *output, "--merge", "true"],
            "merge=True must be false: the network has no adapter that can be merged",
        ),
        ([*config, *output, "--trainer.default_root_dir", str(tmp_path)], "ckpt_path=last: .* holds no checkpoint"),
        ([*config, *output, "--ckpt_path", "nowhere.ckpt"], r"ckpt_path=nowhere\.ckpt does not exist"),
        ([*config, *output, "--model.network.pretrained", str(tmp_path / "none")], "no such folder"),
    ):
        assert re.search(message, refused(args)), args
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_something_else(refused, bases, runs, tmp_path):
    def args(run, path):
        return [
            *("--config", str(runs / run / "config.yaml"), "--output", str(tmp_path / "out")),
            *("--ckpt_path", str(path)),
        ]

    def changed(change):
        content = torch.load(runs / "lora" / "checkpoints" / "last.ckpt", weights_only=True)
        change(content)
        torch.save(content, tmp_path / "changed.ckpt")
        return args("lora", tmp_path / "changed.ckpt")

    last = runs / "whole" / "checkpoints" / "last.ckpt"
    assert "the checkpoint is of another model: tensor" in refused(args("lora", last))
    other = ["--model.network.pretrained", str(bases / "other")]
    shutil.copytree(bases / "opt", bases / "other")
    model = transformers.AutoModelForCausalLM.from_pretrained(bases / "other")
    model.model.decoder.layers[0].fc2.bias.data[3] += 1e-3
    model.save_pretrained(bases / "other")
    own = args("lora", runs / "lora" / "checkpoints" / "last.ckpt")
    assert "its frozen weights or buffers have other values" in refused([*own, *other])

    (tmp_path / "code.ckpt").write_bytes(b"")
    torch.save({"global_step": 3, "callback": shutil.rmtree}, tmp_path / "code.ckpt")
    assert "truncated or no checkpoint" in refused(args("whole", tmp_path / "code.ckpt"))

    def shorten(content):
        name = next(iter(content["state_dict"]))
        content["state_dict"][name] = content["state_dict"][name][:1]

    def to_text(content):
        content["state_dict"] = dict.fromkeys(content["state_dict"], "a tensor")

    def to_other_facts(content):
        content["hiso_pl"]["trainable"] = "all"

    def to_no_state(content):
        del content["state_dict"]

    for change in (shorten, to_text, to_other_facts, to_no_state):
        assert "the checkpoint is damaged: " in refused(changed(change)), change
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_says_nothing_of_what_is_built(runs, exports, tmp_path, monkeypatch):
    """Names of classes, code and files in a checkpoint are data: nothing is imported, and the folder is the same."""
    module = tmp_path / "evil.py"
    module.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'imported')!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    content = torch.load(runs / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    content["hiso_pl"]["config"] |= {
        "model.network.class_path": "'evil.Network'",
        "model.network.init_args.trust_remote_code": "True",
        "model.network.init_args.pretrained": "'/elsewhere'",
    }
    content["hyper_parameters"] = {"_class_path": "evil.Module", "network": {"class_path": "evil.Network"}}
    content["hparams_name"] = "evil"
    torch.save(content, tmp_path / "strange.ckpt")
    args = ["--config", str(runs / "whole" / "config.yaml"), "--ckpt_path", str(tmp_path / "strange.ckpt")]
    assert cli.main(["export", *args, "--output", str(tmp_path / "out")]) == 0
    assert bytes_of(tmp_path / "out") == bytes_of(exports[0] / "whole")
    assert not (tmp_path / "imported").exists()
    assert "evil" not in sys.modules


def test_other_networks_are_refused(refused, tmp_path):
    base = str(Path(__file__).parent / "end_to_end" / "base.yaml")
    root = ["--trainer.default_root_dir", str(tmp_path / "run")]
    assert cli.main(["fit", "--config", base, "--trainer.max_steps", "1", "--trainer.logger", "false", *root]) == 0
    config = ["--config", str(tmp_path / "run" / "config.yaml"), "--output", str(tmp_path / "out")]
    line = refused(config)
    assert re.search(r"model\.network=DigitsCNN is no transformers model: only .* can be exported", line)
    assert not (tmp_path / "out").exists()


def test_the_sections_of_a_configuration_that_are_not_needed_may_hold_anything(runs, tmp_path):
    text = (runs / "whole" / "config.yaml").read_text()
    config = tmp_path / "config.yaml"
    config.write_text(re.sub(r"class_path: hiso_pl\.data\.\S+", "class_path: not_here.Data", text) + "mine: 1e-3\n")
    assert "not_here.Data" in config.read_text()
    assert cli.main(["export", "--config", str(config), "--output", str(tmp_path / "out")]) == 0


def test_the_tokenizer_is_that_of_the_data(refused, runs, tmp_path):
    text = (runs / "whole" / "config.yaml").read_text()
    config = tmp_path / "config.yaml"
    config.write_text(text.replace("tokenizer: null", f"tokenizer: {tmp_path}/none"))
    args = ["--config", str(config), "--output", str(tmp_path / "out")]
    assert re.search("tokenizer='.*none': no such folder", refused(args))
    assert "nowhere': no such folder" in refused([*args, "--tokenizer", str(tmp_path / "nowhere")])

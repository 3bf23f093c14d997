r"""The tasks known by name: prompts, label words and metrics of published experiments.

Without a suffix they are MeZO's (arXiv 2305.17333, appendix E.2), which removes spaces at the end of a prompt and so
has the space before the answer; ``-hiso`` marks what the authors of HiSo (arXiv 2506.02370) use instead. Columns are
named as on the hub.
"""

from __future__ import annotations

from dataclasses import replace

from hiso_pl.data.tasks import published
from hiso_pl.data.tasks.base import HubDataset, TextTask
from hiso_pl.data.tasks.classification import ClassificationTask
from hiso_pl.data.tasks.generation import GenerationTask

SUPER_GLUE = "aps/super_glue"


_SST2 = ClassificationTask(
    name="sst2",
    template="{sentence} It was",
    label_words=(" terrible", " great"),
    classes=("negative", "positive"),
    hub=HubDataset("nyu-mll/glue", "sst2"),
)

_BOOLQ = ClassificationTask(
    name="boolq",
    template="{passage} {question}\n",
    cut=("passage",),
    label_words=("No", "Yes"),
    classes=("false", "true"),
    hub=HubDataset("google/boolq", None),
    prepare=published.boolq_question,
)

_QQP = ClassificationTask(
    name="qqp",  # not one of MeZO's tasks; in its manner
    template="Question 1: {question1}\nQuestion 2: {question2}\nAre they semantically equivalent? Yes or No?\n",
    label_words=("No", "Yes"),
    classes=("different", "duplicate"),
    other_names=("not_duplicate", "duplicate"),
    hub=HubDataset("nyu-mll/glue", "qqp"),
    published="GLUE's: question1, question2, is_duplicate",
    prepare=published.qqp,
)

_SQUAD = GenerationTask(
    name="squad",
    template="Title: {title}\nContext: {context}\nQuestion: {question}\nAnswer:",
    cut=("context",),
    answer="answers.text",
    max_new_tokens=50,
    metrics=("f1", "em"),
    hub=HubDataset("rajpurkar/squad", None),
    published=published.SQUAD,
    unfold=published.unfold_squad,
)

_DROP = GenerationTask(
    name="drop",
    template="Passage: {passage}\nQuestion: {question}\nAnswer:",
    cut=("passage",),
    answer="references",
    separator=", ",
    max_new_tokens=50,
    metrics=("f1", "em", "drop_f1", "drop_em"),
    hub=HubDataset("ucinlp/drop", None),
    published=published.DROP,
    unfold=published.unfold_drop,
    prepare=published.drop,
)

_ALL: tuple[TextTask, ...] = (
    _SST2,
    replace(_SST2, name="sst2-hiso", label_words=(" bad", " good")),
    ClassificationTask(
        name="rte",
        template='{sentence1}\nDoes this mean that "{sentence2}" is true? Yes or No?\n',
        cut=("sentence1",),
        label_words=("Yes", "No"),
        classes=("entailment", "not_entailment"),
        hub=HubDataset("nyu-mll/glue", "rte"),
        prepare=published.rte,
    ),
    ClassificationTask(
        name="cb",
        template='Suppose {premise} Can we infer that "{hypothesis}"? Yes, No, or Maybe?\n',
        cut=("premise",),
        label_words=("Yes", "No", "Maybe"),
        classes=("entailment", "contradiction", "neutral"),
        metrics=("accuracy", "macro_f1"),
        hub=HubDataset(SUPER_GLUE, "cb"),
    ),
    _BOOLQ,
    replace(
        _BOOLQ,
        name="boolq-hiso",
        template="{passage}\nQuestion: {question}\nIs that correct? Yes or No?\n",
        prepare=published.boolq,
    ),
    ClassificationTask(
        name="wic",
        template=(
            'Does the word "{word}" have the same meaning in these two sentences? Yes, No?\n{sentence1}\n{sentence2}\n'
        ),
        cut=("sentence1", "sentence2"),
        label_words=("No", "Yes"),
        classes=("false", "true"),
        hub=HubDataset(SUPER_GLUE, "wic"),
    ),
    ClassificationTask(
        name="wsc",
        template=(
            '{text}\nIn the previous sentence, does the pronoun "{span2_text}" refer to {span1_text}? Yes or No?\n'
        ),
        cut=("text",),
        label_words=("No", "Yes"),
        classes=("false", "true"),
        hub=HubDataset(SUPER_GLUE, "wsc.fixed"),
        prepare=published.wsc,
    ),
    ClassificationTask(
        name="multirc",
        template=('{paragraph}\nQuestion: {question}\nI found this answer "{answer}". Is that correct? Yes or No?\n'),
        cut=("paragraph",),
        label_words=("No", "Yes"),
        classes=("false", "true"),
        metrics=("accuracy", "macro_f1", "f1a", "question_em"),
        group=("paragraph", "question", "question_id"),
        hub=HubDataset(SUPER_GLUE, "multirc"),
        published=published.MULTIRC,
        unfold=published.unfold_multirc,
        prepare=published.multirc,
    ),
    ClassificationTask(
        name="copa",
        template="{premise} {conjunction}",
        cut=("premise",),
        label_words=(" {choice1}", " {choice2}"),
        classes=("choice1", "choice2"),
        hub=HubDataset(SUPER_GLUE, "copa"),
        prepare=published.copa,
    ),
    _QQP,
    replace(
        _QQP,
        name="qqp-hiso",
        # The authors' code puts question1 in both places, an error; here question2 has its own.
        template=("Question 1: {question1}\n Question 2: {question2}\n Are they semantically equivalent? Yes or No?\n"),
        label_words=(" No", " Yes"),
    ),
    _SQUAD,
    # The authors put the answer right after the colon and generate 5 tokens at most (sampled with two beams, where
    # ours are the likeliest). They end at a newline as well, though none is put after an answer in training.
    replace(
        _SQUAD,
        name="squad-hiso",
        template="Title: {title}\nContext: {context}\nQuestion: {question}\nAnswer concisely in a few words:",
        answer_prefix="",
        max_new_tokens=5,
        metrics=("f1", "em"),
    ),
    _DROP,
    # The authors' prompt for evaluation ends in a backslash and two colons by mistake; this is their one for training.
    replace(_DROP, name="drop-hiso", answer_prefix="", max_new_tokens=5, metrics=("f1", "em")),
    GenerationTask(
        # No task of MeZO's: the prompt of HiSo's authors, with one colon where theirs for evaluation has two, and with
        # a space before the answer and a newline after it as in MeZO's tasks.
        name="xsum",
        template="Document: {document}\nSummarize this in one sentence:",
        cut=("document",),
        answer="summary",
        max_new_tokens=64,
        metrics=("rouge1", "rouge2", "rougeL"),
        hub=HubDataset("EdinburghNLP/xsum", None),
    ),
)

TASKS: dict[str, TextTask] = {task.name: task for task in _ALL}
"""The tasks known by name. Without ``hub`` a task needs local files."""


def find_task(name: str) -> TextTask:
    """A task by its name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in TASKS:
        raise ValueError(f"task={name!r} must be one of {', '.join(TASKS)}")
    return TASKS[name]

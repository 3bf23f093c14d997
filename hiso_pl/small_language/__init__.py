"""A small language model and a task for it, made offline from nothing but a seed: for the quickstart and the tests.

A grammar makes short English reviews whose sentiment it knows, and plain talk. A small OPT is pretrained on them by
ordinary first-order training, and labelled sentences that share no clause with what it has read are kept for federated
fine-tuning. ``python -m hiso_pl.small_language --output FOLDER`` writes all of it as a Hugging Face folder with
train.tsv, validation.tsv and test.tsv in it.
"""

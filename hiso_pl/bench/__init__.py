"""The command ``hiso-pl bench``: what a round costs beside plain forward passes, measured on the machine at hand.

Every number is the product's own: the optimizer, kernels, exchange and reduced logits that a run uses. What it is
compared with is measured in the same process, between the rounds: plain forward passes at weights that stay as they
are, and the usual way of zeroth-order code, which adds regenerated noise to the weights and takes it off again.
"""

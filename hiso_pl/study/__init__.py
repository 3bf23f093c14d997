"""Studies: runs of several methods, learning rates and seeds under one rule, and the table and picture made of them."""

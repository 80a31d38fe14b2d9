"""Model weights: which exist, fetching them, and reading them safely.

`catalogue`, `transfer` and `errors` never import torch, so the API and the command line can use
them.
"""

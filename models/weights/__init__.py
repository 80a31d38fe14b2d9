"""Which weights exist, where they are, their checksums, and how to read them safely.

`catalogue` and `transfer` never import torch, so that the API and the command line can use them.
"""

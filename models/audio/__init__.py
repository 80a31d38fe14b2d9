"""Reading recordings: probing, and decoding in a sandbox.

May import only plain data and `models.errors`.
"""

"""Recordings in, samples out: probing, decoding in a sandbox, and channels.

May import `models.errors` only, apart from `channels`, which also reads speech regions and words.
"""

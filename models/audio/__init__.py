"""Reading recordings: probing, decoding in a sandbox, and channels.

May import `models.errors` only, except `channels`, which also uses speech regions and words.
"""

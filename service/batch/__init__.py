"""Batch mode: recordings in, transcripts out, without the service.

May import `models`, `exports` and `errors`. Only `commands` imports it.
"""

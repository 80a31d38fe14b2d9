"""Batch mode: recordings in, transcripts out, without the service.

May import `models`, `exports` and `errors`. Only `commands/transcribe.py` imports it.
"""

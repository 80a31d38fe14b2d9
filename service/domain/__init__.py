"""The domain: studies, sessions, recordings, jobs, hand-offs, transcripts, tokens and erasure.

May import `database`, `vault` and the plain data of `models`; never `api`, `commands`, `worker` or
a web framework. The API and the worker import it.
"""

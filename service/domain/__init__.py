"""What the service knows and does: studies, recordings, jobs, hand-offs, transcripts, erasure.

May import `database`, `vault` and the plain data of `models`; never `api`, `commands`, `worker` or
a web framework. The API and the worker import it.
"""

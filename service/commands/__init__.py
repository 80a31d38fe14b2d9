"""The `fieldscribe` command line: a client of the HTTP API.

May import `settings`, `errors`, `tls`, `exports` and the plain data of `models`; `transcribe` also
imports `batch` and the models. Imports neither `domain` nor `api`, except in the commands that run
part of the service on this machine: `serve`, `backup` and `doctor`. Only the entry point imports
it.
"""

"""The `fieldscribe` command line: a client of the HTTP API.

May import `settings`, `errors`, `tls`, `exports` and the plain data of `models`. Imports neither
`domain` nor `api`, except where a command runs part of the service on this machine: `serve`,
`backup` and `doctor`. Nothing imports it but the entry point.
"""

"""The service around the models: HTTP API, jobs, vault, hand-off, exports and command line.

May import `models`; `models` never imports this package. The modules at this level are shared by
several packages (settings, errors, services, tls, processes) or manage a whole one
(supervisor, child, backup, doctor).
"""

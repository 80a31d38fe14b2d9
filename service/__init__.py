"""The service around the models: HTTP API, jobs, vault, hand-off, exports and command line.

May import `models`; `models` never imports this package. On top lie what several rooms share
(settings, errors, services, tls, processes) and the programs that start or inspect whole
installations (supervisor, child, backup, doctor).
"""

"""The service around the models: HTTP API, jobs, vault, hand-off, exports and command line.

May import `models`; `models` never imports this package. The modules at this level are shared by
several rooms (settings, errors, services, tls, processes) or start or inspect a whole installation
(supervisor, child, backup, doctor).
"""

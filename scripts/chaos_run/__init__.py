"""`scripts/chaos`: attacks a real service for minutes or hours, then counts everything.

engine.py    a fake engine, whose transcripts name the recordings they were made from
site.py      the service's processes, on a small disk and with a clock that can be moved
proxy.py     the network between clients and the API, which cuts connections and loses answers
faults.py    what goes wrong, chosen by a seed
clients.py   a researcher, a de-identifier and an administrator, who log requests and answers
backups.py   backups and restores during the attack
restored.py  checks a restored installation, in a process of its own
count.py     compares database, vault and keys with the answers that the clients got
main.py      the command
"""

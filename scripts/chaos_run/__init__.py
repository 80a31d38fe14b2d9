"""`scripts/chaos`: a real service is attacked for minutes or hours, then everything is counted.

engine.py    the models' stand-in: its transcripts name the recordings they were made of
site.py      the service's processes, on a small disk and with a clock that can be moved
proxy.py     the network between clients and the API, which cuts connections and loses answers
faults.py    what goes wrong, chosen by a seed
clients.py   a researcher, a de-identifier, an administrator: what they asked and were answered
backups.py   backups and restores meanwhile
restored.py  checks a restored installation, in a process of its own
count.py     compares database, vault and keys with what the clients were answered
main.py      the command
"""

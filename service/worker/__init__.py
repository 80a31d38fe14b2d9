"""The worker process, which takes jobs from the queue and runs each in an engine child process.

May import `domain`, `database` and `vault`, never `api` or a web framework. Only the engine child
imports torch and the models.
"""

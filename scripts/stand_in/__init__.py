"""A real service with a stand-in engine, for tests and for `scripts/bench service`.

installation.py starts the processes, engine.py replaces the models, api.py replaces the API where
only a worker is wanted, and jobs.py writes jobs straight into the database and the vault.
"""

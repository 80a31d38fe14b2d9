"""What is heard in a recording: audio to a transcript. Nothing here knows of the service."""

import os

# Threads that wait for each other keep their processors busy for as long as it takes them to count
# to 300,000. Where other processes want the processors too, these then wait for the waiting:
# docs/developer/experiments.md. Read by GNU's OpenMP when torch loads it.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

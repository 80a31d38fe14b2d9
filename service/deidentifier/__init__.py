"""The reference de-identifier: an HTTP client of the hand-off API.

May import `models.deidentification`, settings and the set-up of processes; nothing else of
`service`. Transcripts stay in memory, and only ids, codes and counts are logged.
"""

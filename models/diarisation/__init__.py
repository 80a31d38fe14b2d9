"""Who spoke when: segmentation, speaker embeddings, clustering and turns.

May import `models.audio`, `models.transcript` and the modules on top of `models`.
"""

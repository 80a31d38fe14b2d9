"""Who spoke when: segmentation, speaker embeddings, clustering and turns.

May import `models.audio.recording` and the modules directly in `models`, except the pipeline. Used
by the pipeline, by `models.weights`, which loads its models, and by steps that use speech regions.
"""

"""Identifying spans: segments and a roster in, occurrences out; and their replacement.

`detect.py` combines the detectors, and `redaction.py` replaces what a person has accepted. Rules
written for speech need no weights; a spaCy pipeline is an optional second detector
(`spacy_model.py`). Everything is a pure function of its arguments: no network, no files but the
word lists in `lexicons/`, and no text in errors or logs.
"""

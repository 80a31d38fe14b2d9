"""Encrypted artefacts in three classes, each with its own folder and its own root key.

`streaming` is the file format, `store` the folder, `uploads` the parts of an unfinished recording,
`keys` the key hierarchy and erasure, `roots` where root keys come from. The store knows no key
hierarchy: whoever holds a data key (a worker, for the job it has claimed) can use it.
"""

from enum import StrEnum


class ArtefactClass(StrEnum):
    IDENTIFIED = "identified"
    DEIDENTIFIED = "deidentified"
    LINKAGE = "linkage"

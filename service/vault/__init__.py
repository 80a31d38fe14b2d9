"""Encrypted artefacts in three classes, each with its own folder and its own root key.

`streaming` is the file format, `store` a class's artefacts, `objects` the folder and `bucket` the
S3-compatible storage that may hold them, `uploads` the parts of an unfinished recording, `keys` the
key hierarchy and erasure, `roots` reading and creating root keys. The store does not know the key
hierarchy: any process that has a data key, such as a worker with that of its job, can use it.
"""

from enum import StrEnum


class ArtefactClass(StrEnum):
    IDENTIFIED = "identified"
    DEIDENTIFIED = "deidentified"
    LINKAGE = "linkage"

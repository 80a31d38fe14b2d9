"""Which parts of pyannote.audio are used."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent

ALLOWED = (
    "pyannote.audio.models.",  # the classes of the models
    "pyannote.audio.core.model",  # named in checkpoints
    "pyannote.audio.core.task",
    "pyannote.audio.core.plda",
    "pyannote.audio.pipelines.clustering",
)


def test_only_the_models_and_clustering_of_pyannote_audio_are_used():
    """Its pipeline, loaders and inference loop change settings of the whole process."""
    used = set()
    for path in sorted((ROOT / "models").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                used |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
    of_pyannote = {name for name in used if name.startswith("pyannote.audio")} - {"pyannote.audio"}

    assert {name for name in of_pyannote if not name.startswith(ALLOWED)} == set()
    assert "pyannote.audio.pipelines.clustering" in of_pyannote

"""What of pyannote.audio the product lets in."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent

OF_PYANNOTE_AUDIO = (
    "pyannote.audio.models.",  # the classes of the models
    "pyannote.audio.core.model",  # what checkpoints name
    "pyannote.audio.core.task",
    "pyannote.audio.core.plda",
    "pyannote.audio.pipelines.clustering",
)


def test_of_pyannote_audio_only_models_and_clustering_are_used():
    """Its pipeline, its loaders and its inference loop turn switches for the whole process."""
    used = set()
    for path in sorted((ROOT / "models").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                used |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
    of_audio = {name for name in used if name.startswith("pyannote.audio")} - {"pyannote.audio"}

    assert {name for name in of_audio if not name.startswith(OF_PYANNOTE_AUDIO)} == set()
    assert "pyannote.audio.pipelines.clustering" in of_audio

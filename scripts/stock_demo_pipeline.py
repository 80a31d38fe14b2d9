"""Write a copy of the demo pipeline that stock pyannote.audio loads.

    python -m scripts.stock_demo_pipeline OUT

pyannote.audio builds its WeSpeaker ResNet with 32 channels, the demo's has 8. The copy has 24 more
whose weights are zero: 27 MB, the same embeddings, the same turns.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from models.pyannote_guard import import_pyannote_audio
from models.weights.catalogue import DEMO_FOLDER
from models.weights.checkpoints import read_checkpoint

POOLED = ("resnet.seg_1.weight", 2)  # its input: mean and standard deviation of each channel


def widen(state: dict[str, torch.Tensor], template: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Fill a larger network with a smaller one; what is added has no effect.

    Args:
        template: the state of the larger network, for the shapes.
    """
    wide = {}
    for name, shape in ((name, tensor.shape) for name, tensor in template.items()):
        fill = torch.ones if name.endswith("running_var") else torch.zeros
        source = state[name]
        target = fill(shape, dtype=source.dtype)
        if name == POOLED[0]:
            source = source.reshape(len(source), POOLED[1], -1)
            target.view(len(target), POOLED[1], -1)[:, :, : source.shape[2]] = source
        else:
            target[tuple(slice(n) for n in source.shape)] = source
        wide[name] = target
    return wide


def write_stock_pipeline(out: Path) -> None:
    import_pyannote_audio()
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import WeSpeakerResNet34

    shutil.copytree(DEMO_FOLDER / "pyannote", out)
    path = out / "embedding" / "pytorch_model.bin"
    with path.open("rb") as file:
        checkpoint = read_checkpoint(file, [Problem, Resolution, Specifications])
    template = WeSpeakerResNet34().state_dict()
    torch.save({**checkpoint, "state_dict": widen(checkpoint["state_dict"], template)}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    write_stock_pipeline(parser.parse_args().out)


if __name__ == "__main__":
    main()

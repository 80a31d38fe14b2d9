"""Fetch the part of QualCoder's source that tests/test_qualcoder.py runs, into .venv/qualcoder.

    scripts/test_qualcoder                      # fetches it once and runs the test
    scripts/test_qualcoder --from QualCoder     # from a checkout, on a machine without network

QualCoder is in no package index. Its licence is the LGPL, so it is neither part of this repository
nor a dependency: only tests read it. The files are those of one commit, by their checksums.
"""

import argparse
import hashlib
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

COMMIT = "c3204641e0a997c08219d2377eb5736cd94504bc"  # 22 August 2026
ADDRESS = f"https://raw.githubusercontent.com/ccbogel/QualCoder/{COMMIT}"
FILES = {
    "LICENSE.txt": "e3a994d82e644b03a792a930f574002658412f62407f5fee083f2555c5f23118",
    "src/qualcoder/__main__.py": "203547ff512a8922e29976321d528b3e87d52983068b162c602dc451f12bcba6",
    "src/qualcoder/color_selector.py": (
        "0a321a020d8f57c7f168fca40ff26e8a38e1ece55dc77732c7333535218d030b"
    ),
    "src/qualcoder/refi.py": "b02a0aed36cd67045a872c900f9827837804761604c6840f14d36f69ac95bce3",
}
FOLDER = Path(__file__).parent.parent / ".venv" / "qualcoder"
SECONDS = 20.0  # for each file


def download(name: str) -> bytes:
    with urllib.request.urlopen(f"{ADDRESS}/{name}", timeout=SECONDS) as answer:
        content: bytes = answer.read()
    return content


def fetch(folder: Path, read: Callable[[str], bytes]) -> None:
    """Write the files whose content is missing or another.

    Raises:
        ValueError: a file is not that of the commit.
        OSError
    """
    for name, sha256 in FILES.items():
        path = folder / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            continue
        content = read(name)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"{name} is not that of QualCoder {COMMIT[:7]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", dest="checkout", type=Path, help="a checkout of QualCoder")
    checkout: Path | None = parser.parse_args().checkout
    try:
        fetch(FOLDER, download if checkout is None else lambda name: (checkout / name).read_bytes())
    except (OSError, ValueError) as error:
        sys.exit(f"QualCoder's source cannot be fetched: {error}")
    print(f"QualCoder {COMMIT[:7]}: {FOLDER}")


if __name__ == "__main__":
    main()

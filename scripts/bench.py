"""Measure speed against other engines, in one run on one machine.

    scripts/bench whisper --help

docs/developer/performance.md explains the measurements and holds the results.
"""

import argparse
from types import ModuleType

from scripts import (
    bench_diarisation,
    bench_first_minute,
    bench_gpu,
    bench_pages,
    bench_real_speech,
    bench_service,
    bench_short_jobs,
    bench_whisper,
    bench_whole_path,
)

BENCHES: dict[str, ModuleType] = {
    "whisper": bench_whisper,
    "whole-path": bench_whole_path,
    "real-speech": bench_real_speech,
    "first-minute": bench_first_minute,
    "diarisation": bench_diarisation,
    "gpu": bench_gpu,
    "service": bench_service,
    "short-jobs": bench_short_jobs,
    "pages": bench_pages,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(required=True)
    for name, bench in BENCHES.items():
        subparser = subparsers.add_parser(
            name, description=bench.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        bench.add_arguments(subparser)
        subparser.set_defaults(run=bench.run)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()

"""Fuzzes one target, guided by coverage: `python -m tests.fuzz.run TARGET [--seconds 60]`. Needs atheris.

What breaks the law is kept in tests/fuzz/corpus/TARGET/crash-*, which `test_corpus.py` runs ever after.
"""

import argparse
import random
import sys
from pathlib import Path
from tempfile import mkdtemp

import atheris

CORPUS = Path(__file__).parent / "corpus"
MAX_BYTES = 16_384
SECONDS_AN_INPUT = 10
MEGABYTES = 2048

# What is imported before is not measured, and then nothing guides.
with atheris.instrument_imports(include=["schemas", "agents", "inference", "runtime", "yaml"]):
    from tests.fuzz.mutators import with_another_value
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run until the time is over or something is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    target = TARGETS[options.target]
    found = CORPUS / options.target
    found.mkdir(parents=True, exist_ok=True)
    work = Path(mkdtemp(prefix=f"fuzz-{options.target}-"))
    for name, value in target.seeds().items():
        (work / name).write_bytes(value)

    def run(data: bytes) -> None:
        target.run(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if target.body is None or chance.random() < 0.4:
            return bytes(atheris.Mutate(data, max_size))
        at = target.body(data)
        return (data[:at] + with_another_value(data[at:], chance))[:max_size]

    arguments = [
        sys.argv[0],
        str(work),
        str(found),
        f"-max_total_time={options.seconds}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={SECONDS_AN_INPUT}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

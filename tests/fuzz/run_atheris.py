"""Fuzzes one reader with coverage guidance, by hand: python tests/fuzz/run_atheris.py image -max_total_time=600."""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["cxrbase"]):
    import hostile_files


def main() -> None:
    kind = sys.argv.pop(1)
    _, suffixes = hostile_files.READERS[kind]

    def one(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        suffix = suffixes[provider.ConsumeIntInRange(0, len(suffixes) - 1)]
        hostile_files.feed(kind, provider.ConsumeBytes(provider.remaining_bytes()), suffix)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""How long the source pass takes over a folder, beside ast.parse, TorchFix and the start of the command.

    python tests/bench/source_pass.py [FOLDER] [--torchfix PATH-OF-TORCHFIX]

FOLDER is the installed transformers where none is given. Prints seconds: ast.parse of the files that mention torch, in
one process; a cold and a warm `gradlint check`, the least of three; TorchFix over the same folder, where it is given;
the start of `gradlint --version` and of `import click, rich`. Bytecode is kept, as it is where a package is installed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

REPEATS = 3


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, nargs="?", default=_transformers())
    options.add_argument("--torchfix")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PYTHONPYCACHEPREFIX"] = scratch + "/bytecode"
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        gradlint = [sys.executable, "-m", "gradlint"]
        check = [*gradlint, "check", str(given.folder), "--isolated", "--cache-dir"]
        _seconds([*check, scratch + "/first"])
        # in turn, so that whatever else the machine does is shared by all
        rounds = [
            (_parsing(given.folder), _seconds([*check, f"{scratch}/{n}"]), _seconds([*check, f"{scratch}/{n}"]))
            for n in range(REPEATS)
        ]
        parse, cold, warm = (min(column) for column in zip(*rounds, strict=True))
        print(f"ast.parse of the {len(_texts(given.folder))} files that mention torch: {parse:.2f}")
        print(f"gradlint, cold: {cold:.2f} ({cold / parse:.2f} of ast.parse)")
        print(f"gradlint, warm: {warm:.2f} ({warm / cold:.1%} of cold)")
        version = _least(lambda: _seconds([*gradlint, "--version"]))
        libraries = _least(lambda: _seconds([sys.executable, "-c", "import click, rich"]))
        print(f"gradlint --version: {version:.3f} ({version / libraries:.2f} of import click, rich)")
    if given.torchfix:
        other = _seconds([given.torchfix, "--select=ALL", str(given.folder)])
        print(f"TorchFix: {other:.2f} ({other / cold:.1f} times gradlint, cold)")


def _transformers() -> Path | None:
    found = importlib.util.find_spec("transformers")
    return Path(found.origin).parent if found is not None and found.origin else None


def _seconds(command: Sequence[str]) -> float:
    """Wall time of a command, whatever it finds."""
    start = time.perf_counter()
    subprocess.run(command, check=False, capture_output=True)
    return time.perf_counter() - start


def _least(measured: Callable[[], float]) -> float:
    return min(measured() for _ in range(2 * REPEATS))


def _texts(folder: Path) -> list[bytes]:
    return [text for path in folder.rglob("*.py") if b"torch" in (text := path.read_bytes())]


def _parsing(folder: Path) -> float:
    """Seconds that ast.parse needs for the files that mention torch."""
    texts = _texts(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        for text in texts:
            ast.parse(text)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()

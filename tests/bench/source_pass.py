"""How long the source pass takes over a folder, beside ast.parse, TorchFix and the start of the command.

    python tests/bench/source_pass.py FOLDER [--torchfix PATH-OF-TORCHFIX]

Prints seconds: ast.parse of the files that mention torch, in one process; a cold and a warm `gradlint check`; TorchFix
over the same folder, where it is given; the start of `gradlint --version` and of `import click, rich`.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path


def seconds(command: Sequence[str]) -> float:
    """Wall time of a command, whatever it finds."""
    start = time.perf_counter()
    subprocess.run(command, check=False, capture_output=True)
    return time.perf_counter() - start


def parsing(folder: Path) -> tuple[int, float]:
    """(files that mention torch, seconds that ast.parse needs for them)."""
    texts = [text for path in folder.rglob("*.py") if b"torch" in (text := path.read_bytes())]
    start = time.perf_counter()
    for text in texts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    return len(texts), time.perf_counter() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--torchfix")
    given = options.parse_args()
    count, parse = parsing(given.folder)
    print(f"ast.parse of {count} files that mention torch: {parse:.2f}")
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "gradlint", "check", str(given.folder), "--isolated", "--cache-dir"]
        cold = seconds([*command, cache + "/c"])
        warm = min(seconds([*command, cache + "/c"]) for _ in range(2))
    print(f"gradlint, cold: {cold:.2f} ({cold / parse:.2f} of ast.parse)")
    print(f"gradlint, warm: {warm:.2f} ({warm / cold:.1%} of cold)")
    if given.torchfix:
        other = seconds([given.torchfix, "--select=ALL", str(given.folder)])
        print(f"TorchFix: {other:.2f} ({other / cold:.1f} times gradlint, cold)")
    version = min(seconds([sys.executable, "-m", "gradlint", "--version"]) for _ in range(5))
    libraries = min(seconds([sys.executable, "-c", "import click, rich"]) for _ in range(5))
    print(f"gradlint --version: {version:.3f} ({version / libraries:.2f} of import click, rich)")


if __name__ == "__main__":
    main()

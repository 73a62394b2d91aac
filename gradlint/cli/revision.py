"""The text of files at a revision of git, taken from its objects: no hook and no filter runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from gradlint.errors import UsageError
from gradlint.system.legible import one_line

_SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


def texts_at(revision: str, paths: Sequence[str]) -> dict[str, bytes]:
    """Return path → content at a revision, of the files that it has.

    Args:
        revision: as git names it: ``main``, ``HEAD~1``, a hash.
        paths: absolute paths; the repository is that of the first.

    Raises:
        UsageError: there is no git, no repository here, or no such revision.
    """
    shown, here = one_line(revision), os.path.dirname(paths[0]) if paths else os.getcwd()
    root = _git(here, ["rev-parse", "--show-toplevel"], f"--since {shown}: {one_line(here)} is in no git repository")
    name = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    commit = os.fsdecode(_git(here, name, f"--since {shown}: git knows no such revision"))
    top = os.path.realpath(os.fsdecode(root))
    inside = {path: os.path.relpath(os.path.realpath(path), top).replace(os.sep, "/") for path in paths}
    asked = [path for path, name in inside.items() if not name.startswith("../") and "\n" not in name]
    lines = b"".join(os.fsencode(f"{commit}:{inside[path]}\n") for path in asked)
    output = _git(here, ["cat-file", "--batch"], f"--since {shown}: git cannot read the files", lines)
    texts: dict[str, bytes] = {}
    for path in asked:
        head, _, output = output.partition(b"\n")
        words = head.split(b" ")
        if len(words) == 3 and words[1] in (b"blob", b"tree", b"commit") and words[2].isdigit():
            size = int(words[2])
            if words[1] == b"blob":
                texts[path] = output[:size]
            output = output[size + 1 :]
    return texts


def _git(folder: str, words: Sequence[str], problem: str, data: bytes = b"") -> bytes:
    """Return what git prints in a folder, without the last line break.

    Raises:
        UsageError: with the problem, if git fails or is missing.
    """
    try:
        done = subprocess.run(["git", "-C", folder, *_SAFE, *words], input=data, capture_output=True, check=True)
    except FileNotFoundError as error:
        raise UsageError("--since needs git, which is not on the PATH") from error
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(problem) from error
    return done.stdout.removesuffix(b"\n")

"""Source files for tests of the source pass, and a way to run the command on them."""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gradlint.cli import main
from gradlint.config.settings import forget

HEAD = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n\n"


def source(body: str, head: str = HEAD) -> str:
    """A file: the imports, and a dedented body."""
    return head + textwrap.dedent(body).lstrip("\n")


FROZEN_WRONG = source(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(3, 3)
            self.body.requires_grad = False
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.body(x))
    """
)
"""One GL102, in line 9, with a safe fix."""


@dataclass(frozen=True)
class Result:
    """What one run of the command gave."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with a cache of its own and no configuration above it."""
    monkeypatch.setenv("GRADLINT_CACHE_DIR", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    forget()
    return work


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in the folder."""

    def run(*arguments: str, stdin: str | bytes = b"") -> Result:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        forget()
        code = main(arguments)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def write(path: Path, text: str | bytes) -> Path:
    """Write a file as it is, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path

"""The hooks, run by the real pre-commit from a local clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from snippets import FROZEN_WRONG, write

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
repos:
  - repo: {repo}
    rev: {rev}
    hooks:
      - id: gradlint
      - id: gradlint-model
"""
MODEL = FROZEN_WRONG + "\ndef build():\n    return {'model': Net(), 'inputs': (torch.randn(2, 3),)}\n"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def hooks() -> dict[str, dict[str, str]]:
    """The hooks by id, as far as they are plain ``key: value`` lines."""
    text = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    rows = [
        dict(re.findall(r"^[- ] (\w+): (.+?)(?: #.*)?$", part, re.MULTILINE)) for part in re.split(r"(?m)^(?=- )", text)
    ]
    return {row["id"]: row for row in rows if row}


def test_hooks_run_commands_that_exist() -> None:
    assert {name: row["entry"] for name, row in hooks().items()} == {
        "gradlint": "gradlint check --force-exclude", "gradlint-model": "gradlint check",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_hooks_work(tmp_path: Path) -> None:
    clone, project = tmp_path / "clone", tmp_path / "project"
    for name in ("gradlint", "rules"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml"):
        shutil.copy(ROOT / name, clone)
    git(tmp_path, "init", "-q", str(clone))
    git(clone, "add", "-A")
    git(clone, "commit", "-qm", "x")
    write(project / "model.py", MODEL)
    write(project / "old" / "model.py", MODEL)
    write(project / "gradlint.toml", "targets = ['model.py:build']\nextend-exclude = ['old']\n")
    write(
        project / ".pre-commit-config.yaml", CONFIG.format(repo=clone.as_posix(), rev=git(clone, "rev-parse", "HEAD"))
    )
    git(tmp_path, "init", "-q", str(project))
    git(project, "add", "-A")
    found = Path(sys.executable).parent
    environment = {
        **os.environ, "PRE_COMMIT_HOME": str(tmp_path / "home"), "PATH": f"{found}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    environment.pop("PYTHONPATH", None)

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pre_commit", "run", "--all-files"],
            cwd=project, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout

    code, shown = run()
    assert (code, shown.count("Failed"), "old/model.py" in shown) == (1, 2, False), shown
    words = " ".join(shown.split())  # lines are wrapped to the terminal
    assert "an nn.Module, changes no parameter" in words and "body.* (2 tensors, 12 parameters) still train" in words
    installed = [path.name for path in (tmp_path / "home").rglob("site-packages/*")]
    assert "click" in installed and "torch" not in installed
    write(project / "model.py", MODEL.replace(".requires_grad = False", ".requires_grad_(False)"))
    git(project, "add", "-A")
    code, shown = run()
    assert (code, shown.count("Passed")) == (0, 2), shown

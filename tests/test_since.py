"""Only what is new since a revision of git: ``check --since``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, write

__all__ = ["folder", "run"]


def git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True
    )


@pytest.fixture
def repository(folder: Path) -> Path:
    """A repository whose one commit has one mistake."""
    git(folder, "init", "-q")
    write(folder / "m.py", FROZEN_WRONG)
    git(folder, "add", "m.py")
    git(folder, "commit", "-qm", "one")
    return folder


def lines(run: Run, *words: str) -> list[tuple[str, int]]:
    """(file, line) of each finding, after the number that is not new."""
    report = json.loads(run("check", *words, "--since", "HEAD", "--output-format", "json").out)
    return [("", report["baseline"]["known"]), *((f["path"], f["line"]) for f in report["findings"])]


def test_an_old_mistake_is_counted(run: Run, repository: Path) -> None:
    assert (lines(run, "."), run("check", ".", "--since", "HEAD").code) == ([("", 1)], 0)


def test_a_moved_mistake_is_not_new(run: Run, repository: Path) -> None:
    write(repository / "m.py", "# moved\n" + FROZEN_WRONG)
    assert lines(run, ".") == [("", 1)]


def test_a_mistake_beside_an_old_one_is_new(run: Run, repository: Path) -> None:
    write(
        repository / "m.py",
        FROZEN_WRONG.replace(
            "self.head = ", "self.tail = nn.Linear(3, 3)\n        self.tail.requires_grad = False\n        self.head = "
        ),
    )
    assert lines(run, "m.py") == [("", 1), ("m.py", 11)]


def test_all_of_a_new_file_is_new(run: Run, repository: Path) -> None:
    write(repository / "new.py", FROZEN_WRONG)
    assert lines(run, ".") == [("", 1), ("new.py", 9)]


def test_what_a_comment_silenced_is_new_without_it(run: Run, repository: Path) -> None:
    write(repository / "m.py", FROZEN_WRONG.replace("= False", "= False  # gradlint: ignore[GL102]"))
    git(repository, "commit", "-qam", "two")
    write(repository / "m.py", FROZEN_WRONG)
    assert lines(run, ".") == [("", 0), ("m.py", 9)]


def test_the_repository_is_that_of_the_files(run: Run, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository.parent)
    assert lines(run, repository.name) == [("", 1)]


def test_no_hook_or_filter_runs(run: Run, repository: Path) -> None:
    write(repository / ".gitattributes", "*.py filter=told\n")
    git(repository, "config", "filter.told.smudge", "touch ran; cat")
    git(repository, "config", "core.fsmonitor", "touch ran")
    assert lines(run, ".") == [("", 1)] and not (repository / "ran").exists()


@each(("words", "problem"), [
    (["--since", "nowhere"], "git knows no such revision"),
    (["--since", "--output=x"], "git knows no such revision"),
    (["--since", "HEAD:m.py"], "git knows no such revision"),
])  # fmt: skip
def test_a_wrong_revision_is_an_error(run: Run, repository: Path, words: list[str], problem: str) -> None:
    result = run("check", ".", *words)
    assert result.code == 2 and problem in result.err


def test_no_repository_is_an_error(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    result = run("check", ".", "--since", "HEAD")
    assert result.code == 2 and "is in no git repository" in result.err

"""The folder of the cache: only what gradlint made is deleted or written in it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, write

__all__ = ["folder", "run"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and modes of POSIX")

FIXED = FROZEN_WRONG.replace("requires_grad = False", "requires_grad_(False)")


def test_a_folder_of_somebodys_holds_no_cache(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    write(folder / "mine/thesis.txt", "years of work")
    result = run("check", "m.py", "--cache-dir", "mine")
    assert (result.code, "nothing is cached: mine holds other files" in result.out) == (1, True)
    assert run("clean", "--cache-dir", "mine").code == 2
    assert [path.name for path in (folder / "mine").iterdir()] == ["thesis.txt"]


@each(("made", "is_left"), [(False, ["mine"]), (True, [])])
def test_clean_deletes_what_gradlint_made(run: Run, folder: Path, made: bool, is_left: list[str]) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    cache = folder / f"cache{made}"
    if not made:
        cache.mkdir()
    run("check", "m.py", "--cache-dir", cache.name)
    write(cache / ".gradlint-0123456789abcdef.tmp", "left by a killed one")
    if not made:
        write(cache / "mine", "x")
        (cache / f"{'0' * 32}.json").symlink_to("mine")
    assert run("clean", "--cache-dir", cache.name).code == 0
    assert cache.exists() is not made
    assert made or sorted(path.name for path in cache.iterdir()) == [f"{'0' * 32}.json", "mine"]


def test_a_tag_of_somebody_else_is_no_cache(run: Run, folder: Path) -> None:
    for text in ("Signature: 8a477f597d28d172789f06886806bc55\n", "# gradlint\n", ""):
        write(folder / "mine/CACHEDIR.TAG", text)
        write(folder / f"mine/{'0' * 32}.json", "{}")
        assert run("clean", "--cache-dir", "mine").code == 2
        assert len(list((folder / "mine").iterdir())) == 2


@each("name", ["../mine", "inner/../../mine", "link", "link/below", "~/mine", "{folder}/../mine", "a\\u0000b"])
def test_a_found_configuration_keeps_its_cache_at_home(run: Run, folder: Path, name: str) -> None:
    write(folder.parent / "mine/thesis.txt", "x")
    write(folder / "m.py", FROZEN_WRONG)
    with contextlib.suppress(FileExistsError):
        (folder / "link").symlink_to("../mine")
    write(folder / "gradlint.toml", f'cache-dir = "{name.format(folder=folder)}"\n')
    for arguments in (["check", "m.py"], ["clean"]):
        result = run(*arguments)
        assert (result.code, "cache-dir" in result.err) == (2, True)
    assert run("check", "m.py", "--no-cache").code == 1 or "u0000" in name
    assert [path.name for path in (folder.parent / "mine").iterdir()] == ["thesis.txt"]


def test_a_named_configuration_puts_the_cache_anywhere(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    write(folder / "gradlint.toml", "cache-dir = '../far'\n")
    assert (run("check", "m.py", "--config", "gradlint.toml").code, (folder.parent / "far").is_dir()) == (1, True)
    assert (run("clean", "--config", "gradlint.toml").code, (folder.parent / "far").exists()) == (0, False)


def test_a_link_in_the_cache_is_not_followed(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    run("check", "m.py", "--cache-dir", "cache")
    [file] = (folder / "cache").glob("*.json")
    file.unlink()
    file.symlink_to(write(folder / "precious", "x"))
    assert (run("check", "m.py", "--cache-dir", "cache").code, (folder / "precious").read_text()) == (1, "x")


def test_stale_files_are_swept_and_no_others(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    run("check", "m.py", "--cache-dir", "cache")
    cache = folder / "cache"
    for name in (".gradlint-0123456789abcdef.tmp", f"{'0' * 32}.json", "tmpabc.tmp", "notes.json"):
        os.utime(write(cache / name, "{}"), (1e9, 1e9))
    for name in (".gradlint-fedcba9876543210.tmp", f"{'1' * 32}.json"):
        write(cache / name, "{}")
    write(folder / "m.py", FROZEN_WRONG + "\n")
    [known] = {path.name for path in cache.glob("*.json")} - {f"{c * 32}.json" for c in "01"} - {"notes.json"}
    run("check", "m.py", "--cache-dir", "cache")
    left = ["CACHEDIR.TAG", "tmpabc.tmp", "notes.json", ".gradlint-fedcba9876543210.tmp", f"{'1' * 32}.json", known]
    assert sorted(path.name for path in cache.iterdir()) == sorted(left)

"""What is shipped: the README's commands, the metadata, the wheel and the sdist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from gradlint._version import __version__

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_has_one_command_to_run_and_one_to_test() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert ["pytest" in command for command in commands] == [False, True]


def test_readme_runs_an_example_that_is_shipped() -> None:
    target = re.search(r"gradlint check (fixtures/\S+\.py):(\w+)", README)
    assert target is not None
    assert f"def {target[2]}(" in (ROOT / target[1]).read_text(encoding="utf-8")


def test_torch_is_no_base_dependency() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.search(r"^dependencies = (\[.*?\])", project, re.MULTILINE | re.DOTALL)
    assert dependencies is not None
    assert "torch" not in dependencies[1]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file modes")
def test_ci_script_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_wheel_holds_the_package_and_the_rules(built: Path) -> None:
    names = set(zipfile.ZipFile(built / f"torch_gradlint-{__version__}-py3-none-any.whl").namelist())
    rules = {f"gradlint/rules/{path.name}" for path in (ROOT / "rules").glob("*.py")}
    data = {"gradlint/cli/manual.md", "gradlint/report/assets/report.css"}
    assert {"gradlint/cli/app.py", "gradlint/py.typed", *data, *rules} <= names


@pytest.mark.slow
def test_wheel_holds_nothing_else(built: Path) -> None:
    names = zipfile.ZipFile(built / f"torch_gradlint-{__version__}-py3-none-any.whl").namelist()
    assert {name.split("/")[0] for name in names} == {"gradlint", f"torch_gradlint-{__version__}.dist-info"}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["rules", "fixtures", "tests", "LICENSE", "README.md", "CHANGELOG.md", ".ci/run"])
def test_sdist_is_complete(built: Path, part: str) -> None:
    top = f"torch_gradlint-{__version__}"
    with tarfile.open(built / f"{top}.tar.gz") as archive:
        assert any(name == f"{top}/{part}" or name.startswith(f"{top}/{part}/") for name in archive.getnames())

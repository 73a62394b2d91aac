"""What a fresh process imports: the command starts fast, and torch is imported only to record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from snippets import FROZEN_WRONG, write
from test_architecture import FILES, TORCH_FREE, room_of

COMMAND = "from gradlint.cli import main; main({})"
NAMES = [".".join(("gradlint", *path.with_suffix("").parts)).removesuffix(".__init__") for path in FILES]
TORCH_FREE_MODULES = [name for name, path in zip(NAMES, FILES, strict=True) if room_of(path) in TORCH_FREE]


def imported(program: str, folder: Path, *, without_torch: bool = False, output: str = "") -> set[str]:
    """Return the names of the modules that a program has imported at its end; its output must hold `output`."""
    absent = "sys.modules['torch'] = None" if without_torch else ""
    listing = "print(end='\\n' + ' '.join(name for name, module in sys.modules.items() if module is not None))"
    code = f"import sys; {absent}\ntry:\n    {program}\nexcept SystemExit:\n    pass\n{listing}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0 and output in done.stdout, done.stdout + done.stderr
    return set(done.stdout.rpartition("\n")[2].split())


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import gradlint", "torch click rich numpy ast inspect importlib.metadata"),
        (COMMAND.format(["--version"]), "torch rich numpy importlib.metadata gradlint.findings tempfile shutil"),
        (COMMAND.format(["rules"]), "torch numpy"),
        (COMMAND.format(["rule", "GL401"]), "torch numpy"),
        (COMMAND.format(["check", "m.py", "--no-cache"]), "torch numpy"),
        ("from gradlint.rulekit import registry; registry.load(packs=False)", "torch numpy rich click"),
        (f"import {', '.join(TORCH_FREE_MODULES)}", "torch numpy click"),
    ],
    ids=["gradlint", "version", "rules", "rule", "source pass", "registry", "rooms without torch"],
)
def test_nothing_heavy_is_imported(program, absent, tmp_path):
    write(tmp_path / "m.py", FROZEN_WRONG + "raise SystemExit('this file was run')\n")
    assert imported(program, tmp_path) & set(absent.split()) == set()


def test_gradlint_itself_is_few_modules(tmp_path):
    assert len([name for name in imported("import gradlint", tmp_path) if name.startswith("gradlint")]) <= 3


@pytest.mark.parametrize(
    ("arguments", "output"),
    [(["--version"], "torch-gradlint "), (["rules"], "GL401"), (["check", "m.py"], "m.py:9:9")],
    ids=["version", "rules", "source pass"],
)
def test_commands_work_where_torch_is_not_installed(arguments, output, tmp_path):
    write(tmp_path / "m.py", FROZEN_WRONG)
    names = imported(COMMAND.format(arguments), tmp_path, without_torch=True, output=output)
    assert not [name for name in names if name.startswith("torch.")]

"""Runs ``gradlint run`` over public training scripts, as they are and with seeded mistakes; no part of the test suite.

    python tests/public FOLDER [--no-seeds] [--no-times] [NAME...]

FOLDER holds clones of the repositories that `scripts.SCRIPTS` names, each under its own name; a script that is absent,
or whose imports are, is passed over. Data sets are replaced by generated ones of their kind. Of each script as it is,
the CPU seconds that ``gradlint run`` takes stand beside those of a plain run until its tenth step, each the least of
three runs on one thread, with compiled modules as after the first use. --no-times saves these runs, --no-seeds the
mistakes. Exit status 0 when every script is clean and every mistake is found at its line.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts import SCRIPTS, Mistake, Script

HERE = Path(__file__).resolve().parent
STEPS = 10
RUNS = 3


class Copy:
    """A copy of a script and its repository, prepared to run."""

    def __init__(self, folder: Path, spec: Script, scratch: Path) -> None:
        self.spec = spec
        project = Path(spec.path).parts[0]
        self.root = scratch / project
        shutil.copytree(folder / project, self.root, ignore=shutil.ignore_patterns(".git"))
        self.script = scratch / spec.path
        for prepared in spec.prepare:
            prepared(self.script.parent)
        shims = scratch / "stand_ins"
        shutil.copytree(HERE / "stand_ins", shims, ignore=None if spec.torchvision else lambda *_: ["torchvision"])
        paths = [str(shims), str(scratch / project), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "agg"}
        self.environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "hf"), "OMP_NUM_THREADS": "1"}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # gradlint would be compiled at each run

    def plain(self) -> float:
        """CPU seconds that a plain run takes until its tenth step.

        Raises:
            RuntimeError: it failed.
        """
        began = cpu_seconds()
        done = self._run([], {"PUBLIC_SCRIPT_STEPS": str(STEPS)})
        if done.returncode:
            raise RuntimeError(f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        return cpu_seconds() - began

    def checked(self, *options: str) -> tuple[dict[str, Any], float]:
        """The report on the script, and the CPU seconds it took."""
        began = cpu_seconds()
        done = self._run(["-m", "gradlint", "run", "--output-format", "json", "--timeout", "120", *options])
        try:
            report = json.loads(done.stdout)
        except ValueError:
            report = {"findings": [], "errors": [{"message": done.stderr[-3000:]}]}
        return report, cpu_seconds() - began

    def _run(self, before: list[str], more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        arguments = self.spec.arguments.split()
        command = [sys.executable, *before, self.script.name, *arguments]
        return subprocess.run(
            command,
            cwd=self.script.parent,
            capture_output=True,
            text=True,
            env={**self.environment, **(more or {})},
            check=False,
        )

    def seeded(self, mistake: Mistake) -> tuple[bool, dict[str, Any]]:
        """Whether a mistake is found at its line, and the report.

        Raises:
            LookupError: the file has changed, and has no place for it.
        """
        file = self.root / mistake.file if mistake.file else self.script
        text = file.read_text(encoding="utf-8")
        if mistake.old not in text:
            raise LookupError(f"{file.name} has no {mistake.old!r}")
        wrong = text.replace(mistake.old, mistake.new, 1)
        file.write_text(wrong, encoding="utf-8")
        report, _ = self.checked("--max-batches", "120")  # what never steps would go on to the limit
        file.write_text(text, encoding="utf-8")
        lines = wrong.splitlines()
        hit = any(
            f["code"].startswith(tuple(mistake.code.split("|"))) and mistake.blamed in lines[f["line"] - 1]
            for f in report["findings"]
            if f["path"] and Path(f["path"]).name == file.name
        )
        return hit, report


def cpu_seconds() -> float:
    """CPU seconds of all processes that this one has started, as far as they have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def told(report: dict[str, Any]) -> list[str]:
    """The findings and errors of a report, one line each."""
    lines = [f"{f['code']} {Path(f['path']).name}:{f['line']} {f['message'][:160]}" for f in report["findings"]]
    return lines + [f"error: {e['message']}" for e in report["errors"]]


def examine(name: str, copy: Copy, *, seeds: bool = True, times: bool = True) -> int:
    """Run a script as it is and with its mistakes, print a line for each; returns the number of faults."""
    report, seconds = copy.checked()
    cost = ""
    if times:
        seconds = min(seconds, *(copy.checked()[1] for _ in range(RUNS - 1)))
        plain = min(copy.plain() for _ in range(RUNS))
        cost = f"; plain until step {STEPS}: {plain:.1f} s, {'less' if seconds < plain else 'NOT LESS'}"
    wrong = [line for line in told(report) if line.partition(" ")[0] not in copy.spec.allowed]
    faults = len(wrong)
    verdict = "WRONG" if wrong else "clean"
    print(f"{verdict} {name} ({seconds:.1f} s of CPU{cost})", *wrong, sep="\n      ", flush=True)
    for mistake in copy.spec.mistakes if seeds else ():
        what = f"{mistake.old.strip()[:40]!r} -> {mistake.new.strip()[:40]!r}"
        hit, report = copy.seeded(mistake)
        faults += not hit
        more = [] if hit and len(report["findings"]) == 1 else told(report)
        print(f"  {'found ' if hit else 'MISSED'} {mistake.code} {what}", *more, sep="\n      ", flush=True)
    sys.stdout.flush()
    return faults


def main(folder: Path, names: list[str]) -> int:
    """Run all, or those named; returns the exit status."""
    faults = 0
    seeds, times = "--no-seeds" not in names, "--no-times" not in names
    names = [name for name in names if not name.startswith("-")]
    for name, spec in SCRIPTS.items():
        if (names and name not in names) or not (folder / spec.path).is_file():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            try:
                faults += examine(name, Copy(folder, spec, Path(scratch)), seeds=seeds, times=times)
            except (RuntimeError, LookupError) as error:
                print(f"CANNOT RUN {name}\n{error}")
                faults += 1
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))

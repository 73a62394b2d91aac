"""One program gives one verdict, whether gradlint is given its loss, its step, both, or the script that trains it."""

from __future__ import annotations

import subprocess
import sys
import zlib

import forms
import loop
import pytest
from table import FIXTURES, ROOT, kinds

EVERY = forms.builders()
SAMPLE = [b for b in EVERY if zlib.crc32(b.id.encode()) % 199 == 0]
"""About one builder in two hundred: chosen by its name, so that the choice does not change with the others."""
KINDS = set(kinds(EVERY))
MORE = [b for b in EVERY if b not in SAMPLE and (b in KINDS or zlib.crc32(b.id.encode()) % 4 == 0)]
"""One builder of each kind, and one in four of the others; ``python tests/kit/forms.py`` compares all of them."""


@pytest.mark.parametrize("builder", SAMPLE, ids=lambda b: b.id)
def test_forms_agree(builder):
    assert [str(d) for d in forms.differences(builder)] == []


@pytest.mark.parametrize("builder", SAMPLE, ids=lambda b: b.id)
def test_verdicts_of_one_form_agree(builder):
    assert [text for verdict in forms.verdicts(builder).values() for text in forms.contradictions(verdict)] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted({b.path for b in MORE}), ids=lambda p: p.stem)
def test_forms_of_more_builders_agree(path):
    found = []
    for builder in MORE:
        if builder.path == path:
            found += [str(d) for d in forms.differences(builder)]
            for verdict in forms.verdicts(builder).values():
                found += [f"{builder.id}: {text}" for text in forms.contradictions(verdict)]
    assert found == [], "\n".join(found)


def test_known_cases_exist():
    assert forms.CASES.keys() <= {b.id for b in EVERY}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detached_upstream:bad_two_cuts_in_series", "unregistered_submodule:bad_plain_list"])
def test_command_says_what_the_recorded_script_says(name, tmp_path):
    stem, builder = name.split(":")
    path = FIXTURES / f"{stem}.py"
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys\nsys.path[:0] = [{str(path.parent)!r}, {str(ROOT / 'tests/kit')!r}]\n"
        f"import loop\nfrom {stem} import {builder}\nsetup = {builder}()\n"
        "step = loop.round_of(setup['model'], setup['inputs'], [setup['optimizer']], setup['loss'])\n"
        f"for _ in range({loop.ROUNDS}):\n    step()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "gradlint", "run", "--output-format", "concise", str(script)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    (found,) = [b for b in EVERY if b.path == path and b.name == builder]
    said = forms.verdicts(found)[forms.Form.SCRIPT].said
    for finding in said:
        assert f"{path.name}:{finding.place}:" in done.stdout and finding.code in done.stdout, done.stderr

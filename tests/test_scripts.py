"""Training scripts as public repositories have them: clean as they are, and not with a mistake in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent / "scripts"
MISTAKES = {
    "one encoder for both": ("bootstrap", "copy.deepcopy(self.online)", "self.online", "GL109"),
    "one network in two variables": (
        "actor_critic",
        "actor, critic, target = Actor(), network(6, 1), network(6, 1)",
        "actor, critic = Actor(), network(6, 1); target = critic",
        "GL109",
    ),
    "gradients that add up": ("actor_critic", "        critic_optimizer.zero_grad()\n", "", "GL501"),
}


def _findings(folder: Path, text: str) -> list[dict[str, Any]]:
    """Return the findings in a script."""
    (folder / "train.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "gradlint", "run", "--output-format", "json", "train.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    report = json.loads(done.stdout)
    assert not report["errors"], report["errors"]
    return list(report["findings"])


def _codes(folder: Path, text: str) -> list[str]:
    """Return the codes of the findings in a script."""
    return [finding["code"] for finding in _findings(folder, text)]


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_script_is_clean(tmp_path, script):
    assert _codes(tmp_path, script.read_text(encoding="utf-8")) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_in_a_script_is_found(tmp_path, name):
    script, old, new, code = MISTAKES[name]
    text = (SCRIPTS / f"{script}.py").read_text(encoding="utf-8")
    assert text.count(old) == 1
    assert code in _codes(tmp_path, text.replace(old, new))


@pytest.mark.slow
def test_a_tied_parameter_has_the_name_that_was_registered_first(tmp_path):
    text = (SCRIPTS / "tied_encoders.py").read_text(encoding="utf-8")
    text = text.replace("self.q(self.encoder(x))", "self.q(self.encoder(x).detach())")
    (found,) = _findings(tmp_path, text)
    assert (found["code"], {name.partition(".")[0] for name in found["parameters"]}) == ("GL401", {"critic"})

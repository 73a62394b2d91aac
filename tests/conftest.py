"""Settings shared by all tests: real models are built from configs, nothing is fetched and nothing is chatted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def grad_mode_is_put_back():
    """Some fixtures leave grad mode off: that is their mistake, and not the next test's."""
    import torch

    before = torch.is_grad_enabled()
    yield
    torch.set_grad_enabled(before)


@pytest.fixture(autouse=True)
def gradlint_leaves_nothing():
    """After every test in which gradlint was used, it is gone from the process."""
    if "torch" not in sys.modules:
        yield
        return
    import fingerprint

    before = fingerprint.cheap()
    yield
    left = fingerprint.differences(before, fingerprint.cheap())
    fingerprint.mend()
    assert left == []


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A `pytester` whose runs in this process forget the project's modules alone: torch cannot be imported twice."""
    from _pytest.pytester import SysModulesSnapshot

    def lasts(name: str) -> bool:
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        return not file.startswith(str(pytester.path))

    monkeypatch.setattr(
        pytester, "_Pytester__take_sys_modules_snapshot", lambda: SysModulesSnapshot(preserve=lasts), raising=True
    )
    monkeypatch.setattr(pytester, "_sys_modules_snapshot", SysModulesSnapshot(preserve=lasts), raising=True)
    return pytester


@pytest.fixture(scope="module", params=["fork", pytest.param("new", marks=pytest.mark.slow)])
def processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the command in forks of a process that has imported torch; among the slow tests also in new processes."""
    from processes import Forks

    Forks.are_used = request.param == "fork" and hasattr(os, "fork")
    yield
    Forks.are_used = False

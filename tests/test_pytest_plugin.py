"""The pytest plugin as a user meets it: the marker, the configured targets, beside other plugins."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree

import pytest
from tested_project import PLUGIN, inside, project, run_test

__all__ = ["project"]

pytest_plugins = ["pytester"]


# -- marker -----------------------------------------------------------------------------------------------------


def test_marker(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.gradlint("model.py:build", "model.py:build_frozen", trains=["head.*"])
        def test_clean():
            pass

        @pytest.mark.gradlint("model.py:build", frozen=["encoder.*"], select="GL7")
        def test_bad():
            raise RuntimeError("the body is not run")

        @pytest.mark.gradlint
        def test_no_target():
            pass

        @pytest.mark.gradlint("model.py:build", frosen="x")
        def test_unknown():
            pass

        @pytest.mark.gradlint("model.py:build", select="GL999")
        def test_selector():
            pass

        @pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.gradlint("model.py:build_raises")), 2])
        def test_cases(number):
            pass

        def test_plain():
            pass
        """
    )
    result = inside(project, "--strict-markers", "-v")
    result.assert_outcomes(passed=3, failed=5)
    result.stdout.fnmatch_lines(
        [
            "*test_bad *",
            "model.py:build: 2 tensors declared frozen, moving",
            "GL702 declared-frozen-trains  error",
            "*test_no_target *",
            "the marker gradlint names no target; write @pytest.mark.gradlint('model.py:build')",
            "*test_unknown *",
            "the marker gradlint takes no frosen; *",
            "*test_selector *",
            "*no rule has the code, the prefix or the name 'GL999'*",
            "*test_cases?1? *",
            "*build_raises() raised ValueError: no data",
        ]
    )
    result.stdout.no_fnmatch_line("*the body is not run*")
    inside(project, "-m", "gradlint and not parametrize", "-k", "clean").assert_outcomes(passed=1, deselected=7)


def test_marker_is_documented(project: pytest.Pytester) -> None:
    inside(project, "--markers").stdout.fnmatch_lines(["@pytest.mark.gradlint(target, ...*"])


# -- configured targets -----------------------------------------------------------------------------------------


@pytest.fixture
def configured(project: pytest.Pytester) -> pytest.Pytester:
    """The project with three configured targets, of which one breaks its contract, and one ordinary test."""
    project.makepyprojecttoml(
        """
        [tool.gradlint]
        ignore = ["GL6"]
        [tool.gradlint.targets."model.py:build"]
        trains = ["*"]
        [tool.gradlint.targets."model.py:build_frozen"]
        trains = ["encoder.*"]
        [tool.gradlint.targets."model.py:build_raises"]
        """
    )
    project.makepyfile(test_plain="def test_plain():\n    pass\n")
    return project


def test_configured_targets(configured: pytest.Pytester) -> None:
    result = inside(configured, "--gradlint", "-v")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "pyproject.toml::model.py:build PASSED*",
            "pyproject.toml::model.py:build_frozen FAILED*",
            "pyproject.toml::model.py:build_raises FAILED*",
            "test_plain.py::test_plain PASSED*",
            "*_ gradlint model.py:build_frozen _*",
            "model.py:build_frozen: 2 tensors declared to train, not training",
            "  declared here: pyproject.toml:6:11",
            "FAILED pyproject.toml::model.py:build_frozen - model.py:build_frozen: 2 tens*",
        ]
    )
    result.stdout.no_fnmatch_line("*Error*pytest_plugin*")


CUT = """
import torch
from torch import nn


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.a(x).detach()){comment}


def build():
    model = Cut()
    return {{"model": model, "inputs": (torch.randn(2, 4),), "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}}
"""


@pytest.mark.parametrize(
    ("comment", "settings", "passed"),
    [
        ("", "", 0),
        ("  # gradlint: ignore[GL401]", "", 1),
        ("", 'ignore-parameters = {"GL401" = ["a.*"]}', 1),
        ("", 'per-file-ignores = {"cut.py" = ["GL401"]}', 1),
    ],
)
def test_silenced_findings_of_a_configured_target(
    project: pytest.Pytester, comment: str, settings: str, passed: int
) -> None:
    project.makepyfile(cut=CUT.format(comment=comment))
    project.makepyprojecttoml(f'[tool.gradlint]\n{settings}\n[tool.gradlint.targets."cut.py:build"]\n')
    inside(project, "--gradlint").assert_outcomes(passed=passed, failed=1 - passed)
    body = "gradlint.assert_clean('cut.py:build')"
    run_test(project, body).assert_outcomes(passed=passed, failed=1 - passed)


def test_not_without_the_option(configured: pytest.Pytester) -> None:
    inside(configured).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("args", "outcomes"),
    [
        (["pyproject.toml::model.py:build"], {"passed": 1}),
        (["-k", "build_frozen"], {"failed": 1, "deselected": 3}),
        (["-k", "plain or raises"], {"passed": 1, "failed": 1, "deselected": 2}),
        (["-m", "gradlint"], {"passed": 1, "failed": 2, "deselected": 1}),
        (["test_plain.py"], {"passed": 2, "failed": 2}),
        (["-p", "no:cacheprovider"], {"passed": 2, "failed": 2}),
        (["--deselect", "pyproject.toml::model.py:build_raises"], {"passed": 2, "failed": 1, "deselected": 1}),
    ],
)
def test_targets_are_chosen_like_tests(configured: pytest.Pytester, args: list[str], outcomes: dict[str, int]) -> None:
    inside(configured, "--gradlint", *args).assert_outcomes(**outcomes)


def test_last_failed(configured: pytest.Pytester) -> None:
    inside(configured, "--gradlint").assert_outcomes(passed=2, failed=2)
    inside(configured, "--gradlint", "--lf").assert_outcomes(failed=2)


def test_from_a_folder_below(configured: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    below = configured.mkdir("below")
    (below / "test_below.py").write_text(
        "def test_below(gradlint):\n    gradlint.assert_trains('model.py:build', '*')\n"
    )
    monkeypatch.chdir(below)
    inside(configured, "--gradlint").assert_outcomes(passed=2, failed=2)


def test_junit(configured: pytest.Pytester) -> None:
    inside(configured, "--gradlint", "--junit-xml=out.xml")
    cases = {case.get("name"): case for case in ElementTree.parse(configured.path / "out.xml").iter("testcase")}
    assert set(cases) == {"model.py:build", "model.py:build_frozen", "model.py:build_raises", "test_plain"}
    [failure] = cases["model.py:build_frozen"]
    assert failure.tag == "failure" and "GL701 declared-trainable-does-not-train" in (failure.text or "")
    assert not len(cases["model.py:build"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[tool.gradlint]\nselect = ['GL4']\n", "*--gradlint: no targets are configured in *pyproject.toml*"),
        ("[tool.other]\n", "*--gradlint: no targets are configured at or above *"),
        ("[tool.gradlint]\ntarget = []\n", "*unknown key tool.gradlint.target; did you mean targets?*"),
    ],
)
def test_configuration_without_targets(project: pytest.Pytester, settings: str, said: str) -> None:
    project.makepyprojecttoml(settings)
    result = inside(project, "--gradlint")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


# -- beside others ----------------------------------------------------------------------------------------------


def outside(project: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run pytest in a process of its own."""
    return project.runpytest_subprocess(*PLUGIN, *args)


PARAMETRISED = """
    import warnings
    from functools import partial
    import pytest
    from model import build, build_frozen

    @pytest.fixture(params=[False, True], ids=["plain", "norm"])
    def builder(request):
        return partial(build, norm=request.param)

    @pytest.fixture(scope="module")
    def report(gradlint):
        return gradlint.check(build)

    def test_of_fixture(gradlint, builder):
        gradlint.assert_trains(builder, "encoder.*")

    @pytest.mark.parametrize("made", [build, build_frozen, "model.py:build"])
    def test_of_parameter(gradlint, made):
        gradlint.assert_trains(made, "head.*")

    def test_of_module_scope(report):
        assert report.clean

    def test_noisy_build(gradlint):
        def noisy():
            warnings.warn("said while building")
            return build()
        gradlint.assert_clean(noisy)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("needs", "args"),
    [
        ("xdist", ["-n", "2", "-W", "error"]),
        ("", ["-W", "error", "-p", "no:cacheprovider"]),
        ("pytest_randomly", ["-p", "randomly", "-p", "no:xdist"]),
        ("pytest_randomly", ["-n", "2", "--dist", "loadscope"]),
    ],
)
def test_beside_other_plugins(configured: pytest.Pytester, needs: str, args: list[str]) -> None:
    if needs:
        pytest.importorskip(needs)
    if needs == "pytest_randomly" and "-n" in args:
        pytest.importorskip("xdist")
    if "randomly" in args and importlib.util.find_spec("pytest_randomly"):
        args = args[2:]  # its entry point loads it
    configured.makepyfile(test_parametrised=PARAMETRISED)
    outside(configured, "--gradlint", *args).assert_outcomes(passed=9, failed=2, warnings=None)


def test_torch_is_not_imported_before_it_is_used(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_light():
            loaded = set(sys.modules)
            assert not loaded & {"torch", "rich", "click", "gradlint.testing.assertions", "gradlint.engine.check"}
        """
    )
    outside(project, "-p", "no:randomly", "-p", "no:hypothesispytest").assert_outcomes(passed=1)

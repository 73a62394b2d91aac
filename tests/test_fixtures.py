"""The table: every rule has a fixture, every bad builder gives exactly what it announces, every good one is clean."""

from __future__ import annotations

import proof
import pytest
import table
from table import Builder

from gradlint import Severity
from gradlint.rulekit import registry

RULE_FILES = sorted(path for path in table.RULES.glob("*.py") if not path.name.startswith("_"))
BUILDERS = [b for path in table.fixture_files() for b in table.builders(path, "bad_", "good_")]
BAD = [b for b in BUILDERS if b.name.startswith("bad_")]
GOOD = [b for b in BUILDERS if b.name.startswith("good_")]

HINTS = frozenset(r.name for r in registry.load(packs=False).rules if r.severity is Severity.INFO)
"""Rules that never say more than info; in a good builder of theirs, not even that may come unannounced."""

WITHOUT_PARAMETERS = frozenset(
    "grad-mode-left-off unregistered-submodule unregistered-parameter layer-created-in-forward misspelled-requires-grad"
    " contract-matches-nothing module-backward-never-called graph-kept-across-steps"
    " state-kept-by-reference empty-parameter-group".split()
)
"""Rules that are about no parameter of the model: none in particular, or such as it does not hold."""


def names(builder: Builder) -> list[str]:
    """The names of all parameters of what a builder builds."""
    return list(proof.parts(builder.load()()).parameters)


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_rule_has_bad_and_good_builders(path):
    fixture = table.FIXTURES / path.name
    found = [b.name.partition("_")[0] for b in table.builders(fixture, "bad_", "good_")] if fixture.is_file() else []
    assert min(found.count("bad"), found.count("good")) >= 2, f"{fixture} needs two bad and two good builders"


@pytest.mark.parametrize("builder", BAD, ids=lambda b: b.id)
def test_bad_builder_announces_its_rule(builder):
    rule = builder.path.stem.replace("_", "-")
    assert any(a.rule == rule and (a.severity != "info" or rule in HINTS) for a in builder.annotations)


@pytest.mark.parametrize("builder", GOOD, ids=lambda b: b.id)
def test_good_builder_announces_no_fault(builder):
    assert not builder.bad, [str(a) for a in builder.annotations]


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.id)
def test_what_is_announced_is_true(builder):
    assert not list(proof.untruths(builder))


@pytest.mark.parametrize("builder", BAD, ids=lambda b: b.id)
def test_bad_builder_gives_what_it_announces(builder):
    report = table.report(builder.target)
    wrong = list(table.differences(builder, report, names(builder)))
    assert not wrong, "\n".join([*wrong, table.names_of(builder.id, report)])


@pytest.mark.parametrize("builder", GOOD, ids=lambda b: b.id)
def test_good_builder_is_clean(builder):
    report = table.report(builder.target)
    wrong = list(table.differences(builder, report, names(builder)))
    rule = builder.path.stem.replace("_", "-")
    hinted = [f for f in report.findings if f.name == rule and rule in HINTS]
    wrong += [f"unexpected: {f.message}" for f in hinted if not builder.annotations]
    assert not wrong, "\n".join([*wrong, table.names_of(builder.id, report)])


@pytest.mark.parametrize("builder", BAD, ids=lambda b: b.id)
def test_findings_name_parameters_that_exist(builder):
    known, announced = set(names(builder)), {a.rule for a in builder.annotations} - WITHOUT_PARAMETERS
    nameless = [
        finding.name
        for finding in table.report(builder.target).findings
        if finding.name in announced and not known & set(finding.parameters)
    ]
    assert not nameless

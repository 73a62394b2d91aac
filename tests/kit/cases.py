"""One test for a table of cases: `each` reads like `pytest.mark.parametrize` and makes no test of each row."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet

Test = Callable[..., None]


def each(names: str | tuple[str, ...], cases: Iterable[Any], ids: Callable[[Any], str] = str) -> Callable[[Test], Test]:
    """Return a decorator that runs a test for each case as a subtest, so that each failure names its case.

    All cases share what the test's fixtures prepare: a case may not rely on an empty folder or a fresh state. A test
    without fixtures has the attribute `alone`: each case as a function.
    """
    fields = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names
    rows = [_row(case, len(fields), ids) for case in cases]
    assert rows, f"no cases for {names}"

    def decorate(test: Test) -> Test:
        parameters = inspect.signature(test).parameters

        def test_each(subtests: pytest.Subtests, **fixtures: Any) -> None:
            used = {name: value for name, value in fixtures.items() if name in parameters}
            for title, values in rows:
                with subtests.test(msg=title):
                    test(**used, **dict(zip(fields, values, strict=True)))

        wanted = [p.replace(kind=p.KEYWORD_ONLY) for name, p in parameters.items() if name not in fields]
        subtests = inspect.Parameter("subtests", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        test_each.__signature__ = inspect.Signature([subtests, *wanted])  # type: ignore[attr-defined]
        if not wanted:
            test_each.__dict__["alone"] = [(title, functools.partial(test, *values)) for title, values in rows]
        test_each.__name__, test_each.__module__ = test.__name__, test.__module__
        test_each.__doc__, test_each.__dict__["pytestmark"] = test.__doc__, getattr(test, "pytestmark", [])
        return test_each

    return decorate


def _row(case: Any, width: int, ids: Callable[[Any], str]) -> tuple[str, tuple[Any, ...]]:
    """Return the title and the values of one case."""
    if isinstance(case, ParameterSet):
        return str(case.id), tuple(case.values)
    values = tuple(case) if width > 1 else (case,)
    return ", ".join(map(ids, values)), values

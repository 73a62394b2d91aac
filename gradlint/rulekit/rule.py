"""The base class of rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from gradlint.findings import Finding, Severity

if TYPE_CHECKING:
    from gradlint.rulekit.context import Context
    from gradlint.rulekit.source_context import SourceContext

ON_REQUEST = frozenset({"numeric", "numeric or step", "contract"})
"""Needs met only on request (--numeric, declared patterns); rules skipped for them are listed only with -v."""


class Rule:
    """One mistake that gradlint looks for.

    A subclass states its class attributes, and its messages (``MESSAGE``, ``MESSAGE_<CASE>``) and fixes (``FIX``,
    ``FIX_<CASE>``) as templates for `str.format`. Its docstring has the headings *What it does*, *Why it is bad*,
    *Example*, *Use instead*, *Known limits*, *References*. It has one or both of `check`, which judges a recorded
    training setup, and `check_source`, which judges a source file.
    """

    code: ClassVar[str]
    """For example ``GL401``; never changes once released."""
    name: ClassVar[str]
    """In kebab case; reads naturally after "allow …"."""
    severity: ClassVar[Severity]
    """The usual severity; a single finding may weigh less."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Parts of the training setup that the rule needs: any of ``optimizer``, ``forward``, ``loss``,
    ``gradient`` (a loss that requires grad), ``step``, ``numeric``, ``numeric or step``, ``contract``."""
    names_parameters: ClassVar[bool] = True
    """True if its findings name parameters of the model: not those about code, grad mode or unregistered tensors."""
    fixable: ClassVar[bool] = False
    """True if findings carry edits, where the source allows them."""
    yields_to: ClassVar[frozenset[str]] = frozenset()
    """Codes of rules that run before this one and take precedence: a finding whose parameters they have all reported
    is dropped. `Context.unreported` leaves out the parameters that they reported."""

    source_prefilter: ClassVar[tuple[str, ...]] = ()
    """Text that must occur in a file before it is parsed for this rule: every entry must match, ``a|b`` matches either.
    Plain text, which is found faster than a pattern."""
    suppressible_on: ClassVar[str] = ""
    """A regular expression that matches every statement on which the rule can report; empty if there is none. A
    suppression on any other statement is certainly unused."""
    same_mistake_as: ClassVar[frozenset[str]] = frozenset()
    """Codes of rules that report the same mistake, on the same line, from a recording."""
    recording_overrides_source: ClassVar[bool] = False
    """True if `check` alone judges executed code: `check_source` is then asked about other code only."""

    def check(self, context: Context) -> Iterable[Finding]:
        """Yield the findings on one recorded training setup."""
        return ()

    def check_source(self, context: SourceContext) -> Iterable[Finding]:
        """Yield the findings that the syntax tree of one file proves; run neither it nor torch."""
        return ()

    @classmethod
    def judges_recordings(cls) -> bool:
        """Return True if the rule has a `check` of its own."""
        return cls.check is not Rule.check

    @classmethod
    def judges_source(cls) -> bool:
        """Return True if the rule has a `check_source` of its own."""
        return cls.check_source is not Rule.check_source

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """Return what the rule judges, of ``source``, ``recording`` and ``step``."""
        kinds = ["source"] if cls.judges_source() else []
        if cls.judges_recordings():
            kinds.append("step" if "step" in cls.needs else "recording")
        return tuple(kinds)

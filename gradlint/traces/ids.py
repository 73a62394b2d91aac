"""The kinds of numbers and identities that a trace names its things by."""

from __future__ import annotations

from typing import NewType

ModuleIndex = NewType("ModuleIndex", int)
"""Index into `Trace.modules`."""
ParameterKey = NewType("ParameterKey", int)
"""Identity of a parameter's tensor within the recording, which holds the tensor so that no other gets it."""
OptimizerKey = NewType("OptimizerKey", int)
"""Identity of an optimizer object within the recording."""
BackwardIndex = NewType("BackwardIndex", int)
"""Index into `Training.backwards`."""

NO_MODULE = ModuleIndex(-1)
"""In place of a module where there is none."""

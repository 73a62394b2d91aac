"""The kinds of numbers and identities that a trace names its things by, and the names of "none" beside each."""

from __future__ import annotations

from typing import NewType

OpIndex = NewType("OpIndex", int)
"""Index into `Trace.ops`; as a point in time, the number of ops recorded before it."""
ValueId = NewType("ValueId", int)
"""Index into `Trace.values`."""
EventIndex = NewType("EventIndex", int)
"""Index into `Trace.events`."""
SiteId = NewType("SiteId", int)
"""Number of an interned call chain of user code in `Trace.sites`."""
CallIndex = NewType("CallIndex", int)
"""Index into `Trace.calls`."""
ModuleIndex = NewType("ModuleIndex", int)
"""Index into `Trace.modules`."""
ParameterIndex = NewType("ParameterIndex", int)
"""Index into `Trace.parameters`, and the bit of a parameter in a mask."""
ParameterKey = NewType("ParameterKey", int)
"""Identity of a parameter's tensor within the recording, which holds the tensor so that no other gets it."""
OptimizerIndex = NewType("OptimizerIndex", int)
"""Index into `Trace.optimizers`."""
OptimizerKey = NewType("OptimizerKey", int)
"""Identity of an optimizer object within the recording."""
BackwardIndex = NewType("BackwardIndex", int)
"""Index into `Training.backwards`."""
StepIndex = NewType("StepIndex", int)
"""Index into `Training.steps`."""

NO_OP = OpIndex(-1)
"""Stands for no op: the producer of a value from before the recording."""
NO_VALUE = ValueId(-1)
NO_EVENT = EventIndex(-1)
NO_SITE = SiteId(-1)
"""In place of a site where the recording has not seen one."""
NO_CALL = CallIndex(-1)
"""In place of a module call: outside any."""
NO_MODULE = ModuleIndex(-1)
"""Stands for no module: the parent of a root, or the module of an event outside all forwards."""

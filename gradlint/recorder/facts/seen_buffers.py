"""The content of buffers when a recording first sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.module_tree import places
from gradlint.restore.tensors import inner_tensors, is_readable, same_values
from gradlint.traces.ids import ValueId


class _Seen(NamedTuple):
    module: nn.Module
    content: Tensor
    value: ValueId


class SeenBuffers:
    """The buffers of modules as they were when each module was first seen.

    They are kept by module, not by name: the networks of a script get their names when all of them are known.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._seen: dict[tuple[int, str], _Seen] = {}

    def note_new(self, roots: Mapping[str, nn.Module]) -> None:
        """Keep the content of the buffers that are new."""
        for _, module, attribute, tensor in _buffers(roots):
            if self._of(module, attribute) is None:
                value = self._recorder.tensors.read(tensor)
                self._seen[id(module), attribute] = _Seen(module, tensor.detach().clone(), value)

    def changed(self, roots: Mapping[str, nn.Module]) -> frozenset[str]:
        """Return the names of the buffers whose content has changed since."""
        return frozenset(
            name
            for name, module, attribute, tensor in _buffers(roots)
            if (seen := self._of(module, attribute)) is not None and not same_values(tensor, seen.content)
        )

    def named(self, roots: Mapping[str, nn.Module]) -> dict[ValueId, str]:
        """Return value → name of the buffer whose content it was."""
        return {
            seen.value: name
            for name, module, attribute, _ in _buffers(roots)
            if (seen := self._of(module, attribute)) is not None
        }

    def _of(self, module: nn.Module, attribute: str) -> _Seen | None:
        seen = self._seen.get((id(module), attribute))
        return seen if seen is not None and seen.module is module else None


def _buffers(roots: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield (name, module, name in the module, tensor) of each buffer with values to compare."""
    for place in places(roots):
        for attribute, tensor in place.module._buffers.items():
            # a buffer that torch.func has put in for a call is gone afterwards, and cannot be compared
            if isinstance(tensor, Tensor) and is_readable(tensor) and not inner_tensors(tensor):
                yield f"{place.fqn}.{attribute}" if place.fqn else attribute, place.module, attribute, tensor

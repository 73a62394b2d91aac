"""Memory handed out of torch is found again by its address."""

from __future__ import annotations

import weakref

from cases import each

from gradlint.recorder.calls.exported_memory import ExportedMemory


class Thing:
    """Stands for a tensor."""


@each(
    ("given", "dead", "address", "found"),
    [
        ([], "", 5, ""),
        ([("a", 0, 10)], "", 9, "a"),
        ([("a", 0, 10)], "", 10, ""),
        ([("a", 4, 10)], "", 3, ""),
        ([("a", 0, 10), ("b", 0, 10)], "", 0, "ab"),
        ([("a", 0, 10), ("b", 0, 10)], "b", 0, "a"),
        ([("a", 0, 10), ("b", 20, 30)], "", 15, ""),
        ([("a", 0, 10), ("b", 20, 30)], "", 25, "b"),
        ([("a", 0, 100), ("b", 20, 30)], "b", 50, "a"),  # its memory was given away anew
        ([("a", 0, 100), ("b", 20, 30)], "ab", 50, ""),
    ],
)
def test_the_living_at_an_address(given, dead, address, found):
    exports: ExportedMemory[weakref.ref[Thing]] = ExportedMemory()
    things = {}
    for name, start, end in given:
        things[name] = Thing()
        exports.add(start, end, weakref.ref(things[name]))
    names = {id(thing): name for name, thing in things.items() if name not in dead}
    for name in dead:
        del things[name]
    assert [names[id(tensor())] for tensor in exports.at(address)] == list(found)


def test_the_dead_take_no_room():
    exports: ExportedMemory[weakref.ref[Thing]] = ExportedMemory()
    kept = [Thing() for _ in range(20)]
    for thing in kept:
        exports.add(0, 10, weakref.ref(thing))
    for _ in range(1000):
        exports.add(0, 10, weakref.ref(Thing()))
    assert len(exports._blocks[0]._tensors) < 100
    assert len(exports.at(5)) == 20

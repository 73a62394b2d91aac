"""Memory handed out of torch is found again by its address."""

from __future__ import annotations

import weakref

import torch
from cases import each
from torch import nn

import gradlint
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


@each(
    ("takes", "codes"),
    [
        (lambda h: h.detach().numpy(), ["GL403"]),
        (lambda h: h.detach().cpu().numpy()[:, :2], ["GL403"]),
        (lambda h: h.detach().numpy().copy(), []),
    ],
)
def test_memory_comes_back_though_the_tensor_that_gave_it_is_gone(takes, codes):
    first, second = nn.Linear(4, 4), nn.Linear(2, 1)
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], 0.1)
    with gradlint.record() as recording:
        for _ in range(3):
            array = takes(first(torch.randn(3, 4)))
            optimizer.zero_grad()
            second(torch.from_numpy(array)[:, :2]).square().mean().backward()
            optimizer.step()
    assert [finding.code for finding in gradlint.check(recording).findings] == codes


def test_a_bootstrapped_target_by_way_of_numpy_is_clean():
    first, second = nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], 0.1)
    with gradlint.record() as recording:
        for _ in range(3):
            features = first(torch.randn(3, 4))
            target = torch.from_numpy(features.detach().numpy()).mean(1, keepdim=True)
            optimizer.zero_grad()
            (second(features) - target).square().mean().backward()
            optimizer.step()
    assert not gradlint.check(recording).findings

"""Derive better guesses at the inputs from the error message of a failed forward."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from gradlint.load.inputs.shapes import BATCH, LENGTH, SIZES, images_of
from gradlint.load.inputs.values import Guess

_SIZE_PAIRS = [
    r"to have (?P<want>\d+) channels, but got (?P<got>\d+) channels",
    r"cannot be multiplied \(\d+x(?P<got>\d+) and (?P<want>\d+)x\d+\)",
    r"size mismatch, got input \(\d+\), mat \(\d+x(?P<got>\d+)\), vec \((?P<want>\d+)\)",
    r"input_size. Expected (?P<want>\d+), got (?P<got>\d+)",
    r"inconsistent input_size: got (?P<got>\d+),? expected (?P<want>\d+)",
    r"(?:running_mean|weight) should contain (?P<got>\d+) elements not (?P<want>\d+)",
    r"normalized_shape=\[(?P<want>\d+)\], expected input .* of size\s*\[(?:\d+, )*(?P<got>\d+)\]",
    r"embedding dimension of (?P<want>\d+), but got (?P<got>\d+)",
    r"tensor a \((?P<got>\d+)\) must match the size of tensor b \((?P<want>\d+)\)",
    r"tensor a \((?P<want>\d+)\) must match the size of tensor b \((?P<got>\d+)\)",
    r"Expected size (?P<want>\d+) but got size (?P<got>\d+)",
    r"Expected size (?P<got>\d+) but got size (?P<want>\d+)",
    r"batch2 tensor to be: \[\d+, (?P<want>\d+)\] but got: \[\d+, (?P<got>\d+)\]",
    r"batch2 tensor to be: \[\d+, (?P<got>\d+)\] but got: \[\d+, (?P<want>\d+)\]",
    r"has size (?P<got>\d+) .*does not broadcast with previously seen size (?P<want>\d+)",
    r"has size (?P<want>\d+) .*does not broadcast with previously seen size (?P<got>\d+)",
    r"weight of shape \[(?P<want>\d+)\] and input of shape \[\d+, (?P<got>\d+)",
    r"expanded size of the tensor \((?P<want>\d+)\) must match the existing size \((?P<got>\d+)\)",
    r"expanded size of the tensor \((?P<got>\d+)\) must match the existing size \((?P<want>\d+)\)",
]
_DIMENSIONS = [
    r"expected (?P<n>\d+)D(?: or \d+D)? input \(got",
    r"not enough values to unpack \(expected (?P<n>\d+), got",
    r"too many values to unpack \(expected (?P<n>\d+)",
    r"expected (?P<n>\d+) dims",
    r"must have (?P<n>\d+) dimensions",
    r"not equal to len\(dims\) = (?P<n>\d+)",
    r"\(unbatched\) or (?P<n>\d)D \(batched\)",
    r"[Ee]xpected (?P<n>\d)-?[dD]",
    r"to be (?P<n>\d)-?D",
    r"number of subscripts in the equation \((?P<n>\d)\)",
]
_WANTS_INT = (
    r"Long, Int|must be long|index tensor|dtype int[^ ]* for index|must be integers|scalar type Long but|Long but found"
)
_WANTS_FLOAT = (
    r"not implemented for '(Long|Int|Bool)|floating point|Long and|long int|and Long|long long|found Long|"
    r"Long != |LongTensor|dtype.*torch.int64|Float but found"
)
_TOO_SMALL = (
    r"can't be greater than actual input|too small|more than 1 (value|spatial)|Padding size should be less|"
    r"non-empty|zero|negative|divisible|must be greater|smaller than"
)


def hinted_guesses(guesses: dict[str, Guess], message: str) -> Iterator[dict[str, Guess]]:
    """Yield the guesses that an error message suggests, the likeliest first.

    Some repeat, and some make no sense.
    """
    for pattern in _SIZE_PAIRS:
        if match := re.search(pattern, message, re.S):
            yield from _resize(guesses, int(match["got"]), int(match["want"]))
    yield from _swap(guesses, [tuple(map(int, s.split(","))) for s in re.findall(r"\[(\d+(?:, ?\d+)*)\]", message)])
    if match := re.search(r"shape '\[([-\d, ]+)\]' is invalid for input of size (\d+)", message):
        yield from _reshape(guesses, [int(n) for n in match[1].split(",")], int(match[2]))
    for pattern in _DIMENSIONS:
        if match := re.search(pattern, message):
            yield from _each(guesses, lambda g, n=int(match["n"]): _with_dimensions(g, n))  # type: ignore[misc]
    if re.search(r"Dimension out of range|tuple index out of range|too many indices|list index out of range", message):
        yield from _each(guesses, lambda g: _with_dimensions(g, len(g.shape) + 1))
    if re.search(_WANTS_INT, message):
        yield from _each(guesses, lambda g: [replace(g, kind="int", high=2)] if g.kind == "float" else [])
    if re.search(_WANTS_FLOAT, message):
        yield from _each(guesses, lambda g: [replace(g, kind="float")] if g.kind in ("int", "full", "ones") else [])
    if "index out of range" in message or "out of bounds" in message or "num_classes" in message:
        yield from _each(guesses, _lower)
    if re.search(_TOO_SMALL, message):
        yield from _each(guesses, _larger)
    if match := re.search(r"doesn't match model \((\d+)", message):
        yield from _each(guesses, lambda g: [g.resized(int(match[1]))] if g.spatial else [])
    numbers = sorted({int(n) for n in re.findall(r"(?<![\d.])\d{1,5}(?![\d.])", message)} - {0, BATCH})
    for number in numbers[:6]:
        yield from _each(guesses, lambda g, n=number: _with_number(g, n))  # type: ignore[misc]


def _each(guesses: dict[str, Guess], change: Callable[[Guess], list[Guess]]) -> Iterator[dict[str, Guess]]:
    for name, guess in guesses.items():
        if guess.kind != "value":
            for other in change(guess):
                yield {**guesses, name: other}


def _resize(guesses: dict[str, Guess], got: int, want: int) -> Iterator[dict[str, Guess]]:
    def same(guess: Guess) -> list[Guess]:
        dims = [d for d in range(1, len(guess.shape)) if guess.shape[d] == got]
        # The likeliest first: channels, then features, then lengths.
        dims.sort(key=lambda d: (d != 1 or len(guess.shape) == 3, d != len(guess.shape) - 1))
        return [guess.at(d, want) for d in dims] + ([guess.resized(want)] if guess.spatial[:1] == (got,) else [])

    def scaled(guess: Guess) -> list[Guess]:
        if not guess.spatial or guess.kind != "float":
            return []
        size = guess.spatial[0]
        near = round(size * (want / got) ** (1 / len(guess.spatial)))
        around = sorted(range(max(1, near - 6), near + 7), key=lambda s: abs(s - near))
        return [guess.resized(s) for s in around if s != size and s < 1024]

    def shifted(guess: Guess) -> list[Guess]:
        return [guess.at(-1, s)] if len(guess.shape) > 1 and (s := guess.shape[-1] + want - got) > 0 else []

    yield from _each(guesses, same)
    if len(guesses) > 1:
        yield from _each(guesses, shifted)
    yield from _each(guesses, scaled)
    if len(guesses) == 1:
        yield from _each(guesses, shifted)
    yield from _each(guesses, lambda g: [g.at(0, want)] if g.shape[:1] == (got,) and got != want else [])


def _swap(guesses: dict[str, Guess], shapes: list[tuple[int, ...]]) -> Iterator[dict[str, Guess]]:
    """Give an argument of one shape the other, where the message compares two shapes."""
    if len(shapes) == 2 and shapes[0] != shapes[1]:
        for old, new in (shapes, reversed(shapes)):
            yield from _each(guesses, lambda g, o=old, n=new: [replace(g, shape=n)] if g.shape == o else [])  # type: ignore[misc]


def _reshape(guesses: dict[str, Guess], shape: list[int], numel: int) -> Iterator[dict[str, Guess]]:
    size = math.prod(n for n in shape if n > 0)
    per_item = size // BATCH if shape[0] == BATCH else size

    def unflattened(guess: Guess) -> list[Guess]:
        if math.prod(guess.shape) != numel:
            return []
        whole = Guess((BATCH, per_item), guess.kind, guess.high)
        return [replace(guess, shape=g.shape) for g in images_of(per_item)] + [whole, guess.at(-1, shape[-1])]

    yield from _each(guesses, unflattened)
    yield from _resize(guesses, max(1, numel // BATCH), max(1, per_item))


def _with_dimensions(guess: Guess, n: int) -> list[Guess]:
    last = guess.shape[-1] if guess.shape else 1
    if n == len(guess.shape) or n > 5:
        return []
    if n <= 2:
        shapes = [(BATCH, last)[:n]]
    elif n == 3:
        shapes = [(BATCH, LENGTH, last), (BATCH, last, LENGTH)]
    elif n == 4:
        images = [g.shape for g in images_of(math.prod(guess.shape[1:]))]
        shapes = [*images, (BATCH, 3, 32, 32), (BATCH, 1, 28, 28), (BATCH, last, 8, 8), (BATCH, LENGTH, LENGTH, last)]
    else:
        shapes = [(BATCH, 3, LENGTH, 32, 32), (BATCH, LENGTH, 3, 32, 32)]
    return [replace(guess, shape=tuple(s)) for s in shapes]


def _lower(guess: Guess) -> list[Guess]:
    if guess.kind != "int":
        return []
    shorter = [guess.at(-1, n) for n in (4, 2, 1)] if len(guess.shape) > 1 else []
    return [replace(guess, high=h) for h in (guess.high // 2, 2, 1) if 0 < h < guess.high] + shorter


def _larger(guess: Guess) -> list[Guess]:
    if not guess.spatial or guess.kind != "float":
        return []
    return [guess.resized(s) for s in SIZES.get(len(guess.spatial), (8, 16, 32)) if s > max(guess.spatial)][:4]


def _with_number(guess: Guess, number: int) -> list[Guess]:
    if len(guess.shape) < 2 or number in guess.shape or number > 4096:
        return []
    return [guess.resized(number)] if len(guess.shape) > 3 and number < 512 else [guess.at(-1, number)]

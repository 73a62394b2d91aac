"""Data sets of random images, of the sizes and with the labels of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

IMAGES = 600
"""How many different ones there are."""


class _Images(Dataset[Any]):
    """Random images; `transform` and `target_transform` are applied as torchvision applies them."""

    size = (32, 32)
    """Width and height."""
    mode = "RGB"
    repeats = 1
    classes = tuple("0123456789")

    def __init__(
        self,
        *args: Any,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        given = [a for a in args if callable(a)]
        self.transform = transform or (given[0] if given else None)
        self.target_transform = target_transform
        width, height = self.size
        shape = (IMAGES, height, width) if self.mode == "L" else (IMAGES, height, width, 3)
        self.data = torch.randint(0, 256, shape, dtype=torch.uint8).repeat(self.repeats, *[1] * (len(shape) - 1))
        self.targets = torch.arange(len(self.data)) % len(self.classes)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = Image.fromarray(self.data[index].numpy())
        target: Any = int(self.targets[index])
        return (
            image if self.transform is None else self.transform(image),
            target if self.target_transform is None else self.target_transform(target),
        )


class MNIST(_Images):
    """Grey images of 28 by 28."""

    size = (28, 28)
    mode = "L"
    repeats = 100
    mirrors = ()
    resources = ()


class FashionMNIST(MNIST):
    """As MNIST."""


class CIFAR10(_Images):
    """Colour images of 32 by 32."""


class CIFAR100(_Images):
    """A hundred classes."""

    classes = tuple(map(str, range(100)))


class ImageFolder(_Images):
    """Whatever the folder: colour images of 64 by 64."""

    size = (64, 64)
    samples = imgs = [("", 0)] * IMAGES


class FakeData(_Images):
    """What torchvision itself generates."""

    def __init__(
        self, size: int = 1000, image_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 10, **kwargs: Any
    ) -> None:
        self.size = (image_size[2], image_size[1])
        self.classes = tuple(map(str, range(num_classes)))
        super().__init__(**kwargs)

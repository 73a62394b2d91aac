"""The transforms of torchvision that scripts use, on PIL images; chance is left out of what crops and colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy
import torch
from PIL import Image


class InterpolationMode(Enum):
    """As torchvision's."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class ToTensor:
    """Image → tensor of channels, height, width between 0 and 1."""

    def __call__(self, image: Any) -> torch.Tensor:
        array = numpy.array(image, copy=True)
        array = array[:, :, None] if array.ndim == 2 else array
        return torch.from_numpy(array).permute(2, 0, 1).float().div(255).contiguous()


class Normalize:
    """Subtracts a mean and divides by a deviation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.mean) / self.std


class Lambda:
    """A function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, image: Any) -> Any:
        return self.function(image)


class _Sized:
    """Gives an image of a size: (height, width), or the side of a square."""

    def __init__(self, size: int | Sequence[int], *args: Any, **kwargs: Any) -> None:
        self.size = (size, size) if isinstance(size, int) else (size[1], size[0])

    def __call__(self, image: Any) -> Any:
        return image.resize(self.size, Image.Resampling.BILINEAR)


class Resize(_Sized):
    """Squares stay squares."""


class CenterCrop(_Sized):
    """A crop."""


class RandomCrop(_Sized):
    """A crop."""


class RandomResizedCrop(_Sized):
    """A crop."""


class _Same:
    """Leaves an image as it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, image: Any) -> Any:
        return image


class RandomHorizontalFlip(_Same):
    """Never."""


class RandomRotation(_Same):
    """Never."""


class RandomApply(_Same):
    """Never."""


class RandomGrayscale(_Same):
    """Never."""


class ColorJitter(_Same):
    """Never."""

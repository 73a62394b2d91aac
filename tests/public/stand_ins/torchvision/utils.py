"""Pictures are not written."""

from __future__ import annotations

from typing import Any

import torch


def make_grid(tensor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The images in one row."""
    images = torch.stack(tensor) if isinstance(tensor, (list, tuple)) else tensor
    with torch.no_grad():
        return torch.cat(list(images), -1)


def save_image(tensor: Any, *args: Any, **kwargs: Any) -> None:
    """Nothing."""

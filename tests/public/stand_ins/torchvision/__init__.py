"""What public training scripts use of torchvision, with generated images for data sets."""

from torchvision import datasets, models, transforms, utils

__version__ = "0.0"
__all__ = ["datasets", "models", "transforms", "utils"]

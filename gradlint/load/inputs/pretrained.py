"""Make inputs of Hugging Face models from their config and the signature of their forward."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import torch

from gradlint.load.inputs.values import generator, normal

BATCH = 2
LENGTH = 8

_PER_ITEM = ("SequenceClassification", "ImageClassification", "AudioClassification", "VideoClassification")
_PER_TOKEN = ("LMHead", "CausalLM", "MaskedLM", "ConditionalGeneration", "SpeechSeq2Seq", "Seq2SeqLM", "PreTraining")


def is_pretrained(model: Any) -> bool:
    """Return True if a module is a PreTrainedModel, without importing transformers."""
    kind = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    return isinstance(kind, type) and isinstance(model, kind)


def config_inputs(model: Any) -> Iterator[dict[str, Any]]:
    """Yield keyword arguments for the forward of a PreTrainedModel, the likeliest first.

    Labels are included if the forward takes them. The batch size is 2, then 1 for models that cannot pad. Tokens have
    the shape [2, 8]; images, audio features and waveforms have the sizes of the config.
    """
    for batch in (BATCH, 1):
        factory = _TensorFactory(model, batch)
        for base in factory.bases():
            for labels in factory.labels(base):
                yield {**base, **labels}
            yield base
            if "decoder_input_ids" in factory.accepts:
                yield {**base, "decoder_input_ids": factory.tokens()}


class _TensorFactory:
    """Makes the tensors for one model and one batch size."""

    def __init__(self, model: Any, batch: int) -> None:
        self.model = model
        self.batch = batch
        self.config = model.config
        self.accepts = frozenset(inspect.signature(model.forward).parameters)
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        wide = first is not None and first.dtype.itemsize > 1
        self.dtype = first.dtype if first is not None and wide else torch.float32
        self.device = first.device if first is not None else torch.device("cpu")
        self.generator = generator()

    def bases(self) -> Iterator[dict[str, Any]]:
        """Yield the inputs without labels."""
        main = str(getattr(self.model, "main_input_name", "input_ids"))
        text = self.ids() if "input_ids" in self.accepts else {}
        media = list(self.media())
        decoder: dict[str, Any] = {}
        if "decoder_input_ids" in self.accepts and not self.takes_labels():
            decoder = {"decoder_input_ids": self.tokens()}
        if main == "input_ids":
            # Models of text and images together (CLIP, BLIP, ViLT) need both. A language model with vision runs on
            # text alone: its images would need placeholder tokens.
            for extra in media:
                yield {**text, **extra, **decoder}
            yield {**text, **decoder}
        else:
            for extra in media:
                yield {**extra, **decoder}
            for extra in media:
                yield {**text, **extra, **decoder}

    def takes_labels(self) -> bool:
        return "labels" in self.accepts and "For" in type(self.model).__name__

    def labels(self, base: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield labels in the shapes that heads take, the likeliest for the class name first."""
        name = type(self.model).__name__
        if "return_loss" in self.accepts and "labels" not in self.accepts:
            yield {"return_loss": True}
        if {"start_positions", "end_positions"} <= self.accepts:
            where = torch.arange(self.batch, device=self.device)
            yield {"start_positions": where, "end_positions": where + 1}
        if "labels" not in self.accepts:
            return
        classes = max(1, int(getattr(self.config, "num_labels", 2) or 2))
        ids = base.get("input_ids", base.get("decoder_input_ids"))
        item = self.ints((self.batch,), classes)
        number = self.normal((self.batch,))
        forms: list[dict[str, Any]] = []
        if getattr(self.config, "problem_type", None) == "multi_label_classification":
            forms.append({"labels": torch.rand(self.batch, classes, generator=self.generator).to(self.device)})
        if any(word in name for word in _PER_TOKEN):
            tokens = ids if ids is not None else self.tokens()
            if "next_sentence_label" in self.accepts:
                forms.append({"labels": tokens, "next_sentence_label": self.ints((self.batch,), 2)})
            forms.append({"labels": tokens})
        if "TokenClassification" in name and ids is not None:
            forms.append({"labels": self.ints(tuple(ids.shape), classes)})
        if "CTC" in name:
            forms.append({"labels": 1 + self.ints((self.batch, 2), max(1, self.vocabulary() - 1))})
        if "Segmentation" in name and "pixel_values" in base:
            forms.append({"labels": self.ints((self.batch, *base["pixel_values"].shape[-2:]), classes)})
        per_item = [{"labels": number}, {"labels": item}] if classes == 1 else [{"labels": item}]
        if any(word in name for word in _PER_ITEM):
            forms = [*forms, *per_item]
        elif ids is not None:
            forms += [{"labels": ids}, *per_item]
        else:
            forms += per_item
        yield from forms

    def vocabulary(self) -> int:
        for config in self.configs("text_config", "text_encoder", "decoder"):
            size = getattr(config, "vocab_size", None)
            if isinstance(size, int) and size > 0:
                return size
        embedding = self.model.get_input_embeddings()
        return int(getattr(embedding, "num_embeddings", 2))

    def configs(self, *names: str) -> Iterator[Any]:
        """Yield the sub-configs of these names that exist, then the config itself."""
        for name in names:
            if (config := getattr(self.config, name, None)) is not None and not isinstance(config, (str, int)):
                yield config
        yield self.config

    def setting(self, names: tuple[str, ...], parts: tuple[str, ...], default: Any) -> Any:
        """Return the first of some settings that the sub-configs `parts` or the config itself have."""
        for config in self.configs(*parts):
            for name in names:
                if (value := getattr(config, name, None)) is not None:
                    return value
        return default

    def ids(self) -> dict[str, Any]:
        return {"input_ids": self.tokens()}

    def tokens(self) -> torch.Tensor:
        """Return ordinary tokens [batch, 8] that end with the end-of-sequence token, if any."""
        vocabulary = self.vocabulary()
        longest = self.setting(("max_position_embeddings", "n_positions"), ("text_config",), LENGTH)
        length = min(LENGTH, longest) if isinstance(longest, int) and longest > 1 else LENGTH
        special = set()
        for config in self.configs("text_config"):
            for name, value in vars(config).items():
                if name.endswith(("_token_id", "_token_index")):
                    special |= {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
        ordinary = [i for i in range(min(vocabulary, 1000)) if i not in special] or [0]
        positions = self.ints((self.batch, length), len(ordinary))
        tokens = torch.tensor(ordinary, device=self.device)[positions]
        end = self.setting(("eos_token_id",), ("text_config",), None)
        if isinstance(end, int) and 0 <= end < vocabulary:
            tokens[:, -1] = end
        return tokens

    def media(self) -> Iterator[dict[str, Any]]:
        """Yield the images, audio features and waveforms that the forward takes."""
        vision = ("vision_config", "vision_encoder", "encoder", "backbone_config")
        if "pixel_values" in self.accepts:
            channels = int(self.setting(("num_channels", "in_channels", "in_chans"), vision, 3))
            image_size = self.setting(("image_size",), vision, None)
            sizes = [image_size] if image_size is not None else [64, 128, 224]
            if isinstance(image_size, dict):
                sizes = [(image_size.get("height", 224), image_size.get("width", 224))]
            frames = self.setting(("num_frames",), vision, None)
            for size in sizes:
                height, width = (size[0], size[-1]) if isinstance(size, (tuple, list)) else (size, size)
                shape = (self.batch, channels, int(height), int(width))
                if isinstance(frames, int):
                    yield {"pixel_values": self.normal((self.batch, frames, *shape[1:]))}
                yield {"pixel_values": self.normal(shape)}
        audio = ("audio_config", "audio_encoder", "encoder", "encoder_config")
        if "input_features" in self.accepts:
            mels = int(self.setting(("num_mel_bins", "input_feat_per_channel", "feature_size"), audio, 80))
            longest = self.setting(("max_source_positions",), audio, None)
            if isinstance(longest, int):
                yield {"input_features": self.normal((self.batch, mels, 2 * longest))}
            yield {"input_features": self.normal((self.batch, 64, mels))}
        if "input_values" in self.accepts:
            mels, longest = (self.setting((n,), audio, None) for n in ("num_mel_bins", "max_length"))
            if isinstance(mels, int) and isinstance(longest, int):
                yield {"input_values": self.normal((self.batch, longest, mels))}
            for samples in (4000, 16000):
                yield {"input_values": self.normal((self.batch, samples))}

    def ints(self, shape: tuple[int, ...], high: int) -> torch.Tensor:
        return torch.randint(0, max(high, 1), shape, generator=self.generator, device="cpu").to(self.device)

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        return normal(shape, self.generator, self.dtype).to(self.device)

"""Classification of images by a pretrained vision model."""

from __future__ import annotations

import logging
from typing import Any

import transformers
from torch import Tensor
from torch.nn import functional as F

from hiso_pl.models.adapters import LoRA
from hiso_pl.models.heads import head_labels
from hiso_pl.models.loading import load_pretrained
from hiso_pl.models.transformers_model import TransformersModel

logger = logging.getLogger(__name__)


class ImageClassifier(TransformersModel):
    """``AutoModelForImageClassification`` in fp32, on images of any size.

    Grey images are repeated over the model's channels, and all are resized to its image size, bilinearly; how they are
    standardised is the data module's affair. A head that the files do not hold, or hold for another number of classes,
    is drawn from torch's global generator, which the CLI seeds alike on all ranks.

    Args:
        pretrained: A model's folder, or its name on the hub.
        num_labels: Number of classes.
        peft: Adapter to train, beside the head, instead of the whole model: the fields of ``LoRA``, or a dict with
            ``peft_type``.
        trainable: Regular expression searched in the names of the model's parameters; parameters in whose name it is
            not found are frozen, a new head too. None trains all.
        attention: Attention implementation (``sdpa``, ``eager``, ...); None leaves the choice to transformers.
        revision: Branch, tag or commit on the hub.
        use_safetensors: Whether to refuse pickled weights.
        trust_remote_code: Whether Python code that comes with the model may run.

    Raises:
        ValueError: If the model cannot be loaded or adapted, or nothing of it would be trained.
    """

    def __init__(
        self,
        pretrained: str,
        num_labels: int = 10,
        peft: LoRA | dict[str, Any] | None = None,
        trainable: str | None = None,
        attention: str | None = None,
        revision: str | None = None,
        use_safetensors: bool = True,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        if num_labels < 2:
            raise ValueError(f"num_labels={num_labels} must be at least 2")
        model, missing = load_pretrained(
            transformers.AutoModelForImageClassification,
            pretrained,
            attention=attention,
            revision=revision,
            use_safetensors=use_safetensors,
            trust_remote_code=trust_remote_code,
            num_labels=num_labels,
            ignore_mismatched_sizes=True,
        )
        if missing:
            logger.info("new in %s: %s", pretrained, ", ".join(missing))
        self.num_labels, self.labels = num_labels, head_labels(model, missing)
        self._channels = int(getattr(model.config, "num_channels", 3))
        size = getattr(model.config, "image_size", None)
        self._size = (size, size) if isinstance(size, int) else None if size is None else (int(size[0]), int(size[1]))
        if isinstance(peft, LoRA):
            peft = peft.options()
        if peft is not None and peft.get("modules_to_save") is None and hasattr(model, "classifier"):
            # what PEFT does by itself where it has a type for the task
            peft = {**peft, "modules_to_save": ["classifier"]}
        self._take(model, missing, pretrained, revision, peft, trainable, None)

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits from ``batch["pixels"]`` of shape ``[B, 1 or the model's channels, H, W]``, fp32, shape ``[B, C]``.

        Raises:
            ValueError: If the images have another number of channels.
        """
        pixels = batch["pixels"]
        if pixels.shape[1] != self._channels:
            if pixels.shape[1] != 1:
                raise ValueError(
                    f"pixels of {pixels.shape[1]} channels given, must be 1 or the model's {self._channels}"
                )
            pixels = pixels.expand(-1, self._channels, -1, -1)
        if self._size is not None and tuple(pixels.shape[2:]) != self._size:
            pixels = F.interpolate(pixels, self._size, mode="bilinear", align_corners=False)
        dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return self.model(pixel_values=pixels.to(dtype)).logits.float()

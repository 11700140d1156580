"""The original model run by torch for many conversations at once: for machines with a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from dovetail_ort_export.families import head_size
from dovetail_ort_runtime.arrays import FloatArray, TokenArray


class TorchTarget:
    """The model with B slots, as `text_writer.SlottedTarget`.

    Args:
        model: transformers causal LM; it is moved to `device`, to bfloat16 on CUDA.
        num_slots: B.
        capacity: tokens a slot has room for.
        device: that it runs on.

    Attributes:
        num_slots: as given.
        capacity: as given.
        hidden_size: E.
    """

    def __init__(self, model: Any, *, num_slots: int, capacity: int, device: torch.device) -> None:
        config = model.config
        self.num_slots, self.capacity, self.hidden_size = num_slots, capacity, int(config.hidden_size)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._model = model.to(device=device, dtype=dtype)
        shape = (num_slots, config.num_key_value_heads, capacity, head_size(config))
        layers = [_SlotLayer(shape, dtype, device) for _ in range(config.num_hidden_layers)]
        self._cache = Cache(layers=layers)
        self._layers = layers
        self._slots = torch.arange(capacity, device=device)
        self._device = device

    @torch.no_grad()
    def read(self, token_ids: TokenArray, positions: TokenArray) -> tuple[FloatArray, FloatArray]:
        """As `SlottedTarget.read`."""
        places = torch.from_numpy(positions).to(self._device)
        for layer in self._layers:
            layer.places = places
        outputs = self._model.model(
            input_ids=torch.from_numpy(token_ids).to(self._device)[:, None],
            position_ids=places[:, None],
            attention_mask=(self._slots <= places[:, None])[:, None, None],
            past_key_values=self._cache,
            use_cache=True,
            cache_position=torch.zeros(1, dtype=torch.int64, device=self._device),
        )
        hidden_states = outputs.last_hidden_state[:, 0]
        logits = self._model.lm_head(hidden_states)
        return _array(logits), _array(hidden_states)


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """One block's keys and values; every slot is written at a place of its own."""

    is_compileable = False

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.is_initialized = True
        self.places = torch.zeros(shape[0], dtype=torch.int64, device=device)

    def update(self, key_states: Tensor, value_states: Tensor, cache_kwargs: Any = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002  transformers' signature
        rows = torch.arange(len(self.places), device=self.places.device)
        self.keys[rows, :, self.places] = key_states[:, :, 0]
        self.values[rows, :, self.places] = value_states[:, :, 0]
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor) -> None:
        """Nothing to do: the buffers are there."""

    def get_seq_length(self, cache_position: Any = None) -> int:  # noqa: ARG002  transformers' signature
        return 0

    def get_mask_sizes(self, cache_position: Any) -> tuple[int, int]:  # noqa: ARG002  transformers' signature
        return self.keys.shape[2], 0

    def get_max_cache_shape(self) -> int:
        return int(self.keys.shape[2])


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.float().cpu().numpy().astype(np.float32, copy=False)
    return array

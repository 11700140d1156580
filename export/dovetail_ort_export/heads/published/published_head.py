"""A head as its publisher made it, understood whole: its settings, its tensors, its ways to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dovetail_ort_export.heads.config import Eagle3Config, HeadConfig
from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.heads.eagle3 import Eagle3Head
from dovetail_ort_export.heads.level_fusion import LevelFusion
from dovetail_ort_export.heads.published.readings import Reading
from dovetail_ort_export.heads.published.settings import EAGLE, PublishedConfig
from dovetail_ort_export.heads.published.tensors import EMBEDDING, LM_HEAD
from dovetail_ort_export.heads.rotary import RotaryTables, rotary_tables
from dovetail_ort_export.heads.taps import Taps
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_entries import HeadOrigin, TargetEntry
from dovetail_ort_runtime.errors import SourceError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PublishedHead:
    """A head that others have trained.

    Attributes:
        config: its settings.
        tensors: its tensors by canonical names, in the number types of the files.
        draft_token_ids: (Vd,) int64, the tokens that it can draft, in the order of its logits.
        origin: name, form, revision and licence.
    """

    config: PublishedConfig
    tensors: Mapping[str, Tensor]
    draft_token_ids: TokenArray
    origin: HeadOrigin

    @property
    def form(self) -> str:
        """`eagle` for EAGLE-1 and 2, `eagle3`."""
        return self.config.form

    @property
    def embedding(self) -> Tensor | None:
        """(V, E) of the head, or None if it reads the target's embedding."""
        return self.tensors.get(EMBEDDING)

    @property
    def lm_head(self) -> Tensor | None:
        """(Vd, E) of the head, or None if logits are made by the target's rows of `draft_token_ids`."""
        own = self.tensors.get(LM_HEAD)
        if own is None and self.config.has_tied_ends and self.embedding is not None:
            return self.embedding[torch.from_numpy(self.draft_token_ids)]
        return own

    def readings(self, num_layers: int) -> tuple[Reading, ...]:
        """The readings that the configuration leaves open for a target of so many blocks, the likeliest one first.

        Raises:
            SourceError: the head is of a target with another number of blocks.
        """
        stated = self.config.num_target_layers
        if stated is not None and stated != num_layers:
            raise SourceError(f"the head must be of the bundle's target, got one of {stated} blocks for {num_layers}")
        if self.form == EAGLE:
            return (Reading(),)
        return self.config.choices.readings(num_layers)

    def check_target(self, target: TargetEntry) -> None:
        """Refuse a target that the head was not trained for.

        Raises:
            SourceError: hidden size, vocabulary or number of blocks differ.
        """
        for what, own, wanted in (
            ("hidden size", self.config.target_hidden_size, target.hidden_size),
            ("vocabulary", self.config.target_vocabulary_size, target.vocabulary_size),
        ):
            if own != wanted:
                raise SourceError(
                    f"the head must be of the bundle's target, got one for a {what} of {own}, and the target has "
                    f"{wanted}; is it the head of another model?"
                )
        self.readings(target.num_layers)

    def network(self, reading: Reading) -> Eagle3Head | DraftHead:
        """The network in float32 by one reading, in evaluation mode, with the head's tensors in it."""
        if self.form == EAGLE:
            network: Eagle3Head | DraftHead = DraftHead(self._eagle_config())
        else:
            network = Eagle3Head(self._eagle3_config(reading))
        values = {name: tensor.to(torch.float32) for name, tensor in self.network_tensors().items()}
        network.load_state_dict(values, assign=True)
        return network.eval()

    def network_config(self, reading: Reading) -> Eagle3Config | HeadConfig:
        """What decides the shape of the network by one reading."""
        return self._eagle_config() if self.form == EAGLE else self._eagle3_config(reading)

    def network_tensors(self) -> dict[str, Tensor]:
        """The network's parameters by its names for them, in the number types of the files."""
        own = {name: tensor for name, tensor in self.tensors.items() if name.startswith(("layers.", "norm."))}
        return own | self._fusion_tensors() if self.form == EAGLE else own

    def level_fusion(self) -> LevelFusion | None:
        """What makes a feature of levels, in float32; None for the form `eagle`."""
        config = self.config.level_fusion
        if config is None:
            return None
        fusion = LevelFusion(config)
        names = fusion.state_dict().keys()
        fusion.load_state_dict({name: self.tensors[name].to(torch.float32) for name in names}, assign=True)
        return fusion.eval()

    def taps(self, reading: Reading, precision: Literal["int8", "fp32"]) -> Taps | None:
        """What the target's graph computes for the head; None for the form `eagle`, which reads the hidden states."""
        fusion = self.config.level_fusion
        if fusion is None:
            return None
        norms = [f"fc_norm.{index}.weight" for index in range(fusion.num_levels)]
        return Taps(
            levels=reading.levels,
            weight=self._array("fc.weight"),
            bias=self._array("fc.bias") if fusion.bias else None,
            norm_before_fc=self._array("input_norm.weight") if fusion.norm == "all" else None,
            level_norms=tuple(map(self._array, norms)) if fusion.norm == "each" else None,
            norm_epsilon=fusion.norm_epsilon,
            precision=precision,
        )

    def rotary(self, max_context: int) -> RotaryTables:
        """Rotary tables by the head's own settings, for as many positions as the target has.

        Raises:
            SourceError: the angles would change with the length of the text.
        """
        config = self.config
        return rotary_tables(config.rotary, config.block.head_size, config.max_positions, max_context)

    def _eagle3_config(self, reading: Reading) -> Eagle3Config:
        return Eagle3Config(
            num_blocks=self.config.num_layers,
            block=self.config.block,
            norm_before_residual=reading.norm_before_residual,
            feeds_back_norm=reading.feeds_back_norm,
        )

    def _eagle_config(self) -> HeadConfig:
        return HeadConfig.of_block(self.config.block, fusion="concatenation", num_blocks=self.config.num_layers)

    def _fusion_tensors(self) -> dict[str, Tensor]:
        """EAGLE's fc reads embedding and feature side by side; here it is a product of each."""
        weight = self.tensors["fc.weight"]
        size = self.config.block.hidden_size
        bias = self.tensors.get("fc.bias")
        return {
            "fusion.embedding_proj.weight": weight[:, :size],
            "fusion.embedding_proj.bias": torch.zeros(size) if bias is None else bias,
            "fusion.feature_proj.weight": weight[:, size:],
        }

    def _array(self, name: str) -> FloatArray:
        values: FloatArray = self.tensors[name].to(torch.float32).numpy()
        return values

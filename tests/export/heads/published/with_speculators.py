"""Draft with speculators, in its own environment: python with_speculators.py HEAD INPUTS OUTPUTS.

INPUTS has `levels` (T, k * E) and `token_ids` (T,), the token after each level. OUTPUTS gets `states` and `logits`,
(steps, T, ...): entry (j, s) is step j of the chain from position s.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig

STEPS = 5


@torch.no_grad()
def main(head, inputs, outputs):
    """Load a head with speculators and draft a chain from every position."""
    given = np.load(inputs)
    config = Eagle3SpeculatorConfig.from_pretrained(head)
    config.transformer_layer_config._attn_implementation = "eager"
    model = Eagle3DraftModel(config).to(torch.float32).eval()
    found = model.load_state_dict(load_file(Path(head) / "model.safetensors"), strict=False)
    assert not found.unexpected_keys
    assert set(found.missing_keys) <= {"verifier_norm.weight", "verifier_lm_head.weight"}
    create_mask = model._create_mask_fn
    model._create_mask_fn = lambda *arguments, **options: create_mask(*arguments, **options, dtype=torch.float32)
    states, logits = [], []
    model.norm.register_forward_hook(lambda _, read, given: states.append(given if config.norm_output else read[0]))
    model.lm_head.register_forward_hook(lambda _, read, given: logits.append(given))
    length = len(given["token_ids"])
    model(
        torch.from_numpy(given["levels"])[None],
        torch.from_numpy(given["token_ids"])[None],
        torch.zeros(1, length, dtype=torch.long),
        ttt_steps=STEPS,
    )
    np.savez(outputs, states=torch.cat(states).numpy(), logits=torch.cat(logits).numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])

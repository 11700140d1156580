"""From a checkpoint to a bundle with a draft head of its own, in Python; needs `pip install 'dovetail-ort[export]'`.

    python examples/export_and_train.py CHECKPOINT BUNDLE [ANSWER_TOKENS]

The target writes the text that the head is trained on, so no data set is needed. The default number of tokens takes an
hour or two on two cores for a model of 135M parameters. Run the same command again to continue a training that was
stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import dovetail_ort
from dovetail_ort_export import ExportOptions, TrainingOptions, attach_drafter, export_bundle, train_head


def main(checkpoint: str, bundle: str, num_answer_tokens: str = "300000") -> None:
    """Export, train, attach, and answer a question."""
    head = Path(bundle).with_name(f"{Path(bundle).name}-head")
    export_bundle(checkpoint, bundle, ExportOptions(), print)
    record = train_head(bundle, head, TrainingOptions(num_answer_tokens=int(num_answer_tokens)), report=print)
    print(f"{record.history[-1].accepted_length:.2f} tokens a round on held-out text")
    attach_drafter(bundle, head)
    with dovetail_ort.load(bundle) as model:
        answer = model.generate([{"role": "user", "content": "Why is the sky blue?"}])
    print(answer.text, f"\n\n{answer.statistics.accepted_length:.2f} tokens a round")


if __name__ == "__main__":
    main(*sys.argv[1:4])

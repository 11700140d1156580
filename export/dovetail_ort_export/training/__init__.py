"""Train a draft head on text that its target writes itself.

    trainer: text_plan ──> training_text ──> run ──> head_files, training_plot
             │                               │
             batched_target, text_writer,    batches, chains, optimisers,
             chat_turns, loops, text_shards  checkpoint

`conversation` is what the target writes, `options` holds the settings of a training.
"""

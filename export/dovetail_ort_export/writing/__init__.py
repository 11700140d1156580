"""Files of a bundle, which appear whole or not at all.

options -> recipe_choice: recipes; recipe + skeleton graph -> target_writer (gpu_layers, chain_graph) -> graph_file
head + target_ends, what it shares with its target -> drafter_writer -> graph_file
tokenizer_entry, generation_entry: what else a manifest names; bundle_output: the directory that takes all of it
figures: pictures of a training or of an ablation
"""

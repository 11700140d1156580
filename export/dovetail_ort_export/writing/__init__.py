"""Files of a bundle, which appear whole or not at all.

recipe + skeleton graph -> target_writer (formats, chain_graph) -> graph_file, in a directory of bundle_output
bundle -> target_ends: what a drafter shares with its target, read back
"""

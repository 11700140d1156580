"""From a bundle on disk to what a model answers with.

    bundle + load_options -> loaded_bundle: target on its devices, exactness here, drafter, prompt reader
    drafters: a name -> draft_models (the bundle's head, or a smaller model) + curves (times of this machine) -> planner

It generates nothing.
"""

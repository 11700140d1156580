"""Today's native bundle beside the bundle and the runtime of commit f2faf98, the last one before the kernels.

    make kernels-comparison                                       # all parts
    python -m benchmarks.kernels_comparison forwards contexts     # some of them

Each side is a process of its own (`worker`), in the environment of its commit, with its own bundle. Both sides take
turns (`sides`). A part has several steps, each with new processes. A journal keeps the steps that are finished, so that
a run that was stopped continues after them.

    __main__ -> a part (forwards, drafting, contexts, loading, training_text, suites) -> sides -> worker
    a part -> journal -> kernels-PART.json
"""

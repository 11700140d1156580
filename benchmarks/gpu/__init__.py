"""What a GPU gains, measured on a machine that has one and no network.

    with a network: wheels (fatbin), the model -> pack -> parts
    with a GPU:     parts -> measure -> environment -> plan -> step, a process for each -> gpu.json
    steps:          contact, exports, training, ahead, forwards, paper_drafter and their neighbours

On a machine with a network:

    python -m benchmarks.gpu.pack                              # build/gpu/parts/1, 2, 3

On the machine with the GPU, in the root of a copy of the checkout, once for each part that has come:

    python3 -m benchmarks.gpu.measure build/gpu/parts/1        # steps that need no model: does CUDA work at all?
    python3 -m benchmarks.gpu.measure build/gpu/parts/2
    python3 -m benchmarks.gpu.measure build/gpu/parts/3        # the other steps
    python3 -m benchmarks.gpu.measure build/gpu/parts/3 STEP   # steps by name, once more

`docs/gpu.md` says what is measured. The modules that run there before packages are unpacked import the standard library
only: `measure`, `parts`, `environment`, `plan`, `step`.
"""

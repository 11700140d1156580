"""What a GPU brings, measured on a machine that has one and can fetch nothing.

Here, where packages can be had:

    python -m benchmarks.gpu.pack                              # build/gpu/parts/1, 2, 3

There, in the root of a copy of the checkout, once for each part that has come:

    python3 -m benchmarks.gpu.measure build/gpu/parts/1        # steps that need no model: does CUDA work at all?
    python3 -m benchmarks.gpu.measure build/gpu/parts/2
    python3 -m benchmarks.gpu.measure build/gpu/parts/3        # the other steps
    python3 -m benchmarks.gpu.measure build/gpu/parts/3 STEP   # steps by name, once more

`docs/gpu.md` says what is measured. Modules that run there before packages are unpacked import the standard library
only: `measure`, `parts`, `environment`, `plan`, `step`.
"""

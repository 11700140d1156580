"""What this machine and its Python environment offer: processor, memory, ONNX Runtime, CUDA's libraries.

    onnxruntime package -> environment      /proc, cgroups -> cpu_quota, environment      driver, pip -> cuda_runtime

It knows no bundle and no session.
"""

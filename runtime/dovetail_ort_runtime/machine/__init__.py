"""What this machine and its Python environment offer: ONNX Runtime, processor, memory and CUDA.

    onnxruntime package -> onnx_runtime      /proc, control groups -> processor (cpu_quota), process_memory
    pip packages, loader -> cuda_libraries -> cuda_runtime

It knows no bundle.
"""

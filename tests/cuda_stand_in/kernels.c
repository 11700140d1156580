/* Kernels of the stand-in: known by name, launched without effect. */
#include <search.h>
#include <stdlib.h>

#include "cuda_runtime_api.h"

void stand_in_note(const char *format, ...);

struct kernel {
    const void *address;
    const char *name;
};
static void *kernels;

static int compare(const void *one, const void *other) {
    const char *first = ((const struct kernel *)one)->address;
    const char *second = ((const struct kernel *)other)->address;
    return (first > second) - (first < second);
}

static cudaError_t launch(const void *address) {
    struct kernel wanted = {address, NULL};
    struct kernel **found = tfind(&wanted, &kernels, compare);
    stand_in_note("kernel %s", found == NULL ? "unknown" : (*found)->name);
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                             cudaStream_t stream) {
    return launch(function);
}

cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block, void **arguments,
                                        size_t shared_bytes, cudaStream_t stream) {
    return launch(function);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                               cudaStream_t stream) {
    return launch(kernel);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *configuration, const void *function, void **arguments) {
    return launch(function);
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

/* What nvcc's code calls around `kernel<<<grid, block>>>()`: the configuration is put down here and picked up there. */

static __thread struct {
    dim3 grid;
    dim3 block;
    size_t shared_bytes;
    cudaStream_t stream;
} configuration;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
    configuration.grid = grid;
    configuration.block = block;
    configuration.shared_bytes = shared_bytes;
    configuration.stream = stream;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, void *stream) {
    *grid = configuration.grid;
    *block = configuration.block;
    *shared_bytes = configuration.shared_bytes;
    *(cudaStream_t *)stream = configuration.stream;
    return cudaSuccess;
}

/* What it calls when its library is loaded: this is where the names come from. */

void **__cudaRegisterFatBinary(void *binary) { return malloc(sizeof(void *)); }
void __cudaRegisterFatBinaryEnd(void **module) {}
void __cudaUnregisterFatBinary(void **module) { free(module); }

void __cudaRegisterFunction(void **module, const char *host, char *device, const char *name, int thread_limit,
                            uint3 *thread, uint3 *block, dim3 *block_size, dim3 *grid_size, int *warp_size) {
    struct kernel *kernel = malloc(sizeof *kernel);
    *kernel = (struct kernel){host, name};
    tsearch(kernel, &kernels, compare);
}

void __cudaRegisterVar(void **module, char *host, char *device, const char *name, int external, size_t bytes,
                       int constant, int global) {}

/* What a kernel may use: its own code decides on real devices, plenty here. */

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value) {
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *function) {
    *found =
        (struct cudaFuncAttributes){.maxThreadsPerBlock = 1024, .numRegs = 32, .ptxVersion = 90, .binaryVersion = 90};
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int threads,
                                                                   size_t shared_bytes, unsigned flags) {
    *blocks = 2;
    return cudaSuccess;
}

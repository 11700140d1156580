/* A stand-in of the CUDA runtime: one device whose memory is the host's and whose kernels do nothing.
 *
 * As nothing is computed, a copy from the device to the host brings zeros, so that what a program reads is defined.
 *
 * What a program asks of the device can be traced to a file, one call a line:
 *   allocate BYTES, release BYTES        memory of the device
 *   copy FROM TO BYTES                   of: device, pinned (host memory that the device can reach), pageable
 *   kernel NAME                          a launch, the name as C++ mangles it
 *   product NAME                         a call of cuBLAS or cuBLASLt that computes
 *   graph                                a launch of a captured graph
 *   wait NAME                            the host waits for a stream, an event or the device
 *   unsupported NAME                     a function that is not in the stand-in; it fails
 *
 * Read from the environment: CUDA_VISIBLE_DEVICES, where empty or -1 hides the device, STAND_IN_MEMORY, its bytes, and
 * STAND_IN_DRIVER, the newest CUDA that the driver knows, as 1000 * major + 10 * minor.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cuda_runtime_api.h"

enum { BUILT_FOR = 13000 };

/* ---- the trace ---- */

static pthread_mutex_t trace_lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *trace_file;

void stand_in_trace(const char *path) {
    pthread_mutex_lock(&trace_lock);
    if (trace_file != NULL) fclose(trace_file);
    trace_file = path == NULL ? NULL : fopen(path, "w");
    pthread_mutex_unlock(&trace_lock);
}

void stand_in_note(const char *format, ...) {
    va_list values;
    pthread_mutex_lock(&trace_lock);
    if (trace_file != NULL) {
        va_start(values, format);
        vfprintf(trace_file, format, values);
        va_end(values);
        fputc('\n', trace_file);
    }
    pthread_mutex_unlock(&trace_lock);
}

/* ---- errors: the last one stays until it is asked for ---- */

static __thread cudaError_t last_error;

static cudaError_t told(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "cudaSuccess" : "cudaErrorOfStandIn"; }

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorInsufficientDriver:
            return "CUDA driver version is insufficient for CUDA runtime version";
        case cudaErrorNoDevice:
            return "no CUDA-capable device is detected";
        case cudaErrorInvalidDevice:
            return "invalid device ordinal";
        case cudaErrorStreamCaptureUnsupported:
            return "operation not permitted when stream is capturing";
        default:
            return "operation not supported";
    }
}

/* ---- waiting, which must not be while a graph is captured ---- */

static int capturing;

static cudaError_t waited(const char *name) {
    stand_in_note("wait %s", name);
    return told(capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}

/* ---- the device: an H100 as far as ONNX Runtime looks ---- */

static size_t number_from_environment(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text == NULL ? otherwise : strtoull(text, NULL, 10);
}

static size_t memory_bytes(void) { return number_from_environment("STAND_IN_MEMORY", 80000000000); }

static int driver_version(void) { return (int)number_from_environment("STAND_IN_DRIVER", BUILT_FOR); }

static cudaError_t device_state(void) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (driver_version() < BUILT_FOR) return cudaErrorInsufficientDriver;
    if (visible != NULL && (*visible == '\0' || strcmp(visible, "-1") == 0)) return cudaErrorNoDevice;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = device_state() == cudaSuccess;
    return told(device_state());
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return told(device_state());
}

cudaError_t cudaSetDevice(int device) { return told(device == 0 ? device_state() : cudaErrorInvalidDevice); }

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = BUILT_FOR;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = driver_version();
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    struct cudaDeviceProp properties = {
        .name = "CUDA stand-in",
        .totalGlobalMem = memory_bytes(),
        .major = 9,
        .minor = 0,
        .warpSize = 32,
        .sharedMemPerBlock = 49152,
        .sharedMemPerBlockOptin = 232448,
        .sharedMemPerMultiprocessor = 233472,
        .reservedSharedMemPerBlock = 1024,
        .regsPerBlock = 65536,
        .regsPerMultiprocessor = 65536,
        .maxThreadsPerBlock = 1024,
        .maxThreadsPerMultiProcessor = 2048,
        .maxBlocksPerMultiProcessor = 32,
        .maxThreadsDim = {1024, 1024, 64},
        .maxGridSize = {2147483647, 65535, 65535},
        .totalConstMem = 65536,
        .multiProcessorCount = 132,
        .l2CacheSize = 52428800,
        .memoryBusWidth = 5120,
        .asyncEngineCount = 3,
        .concurrentKernels = 1,
        .unifiedAddressing = 1,
        .cooperativeLaunch = 1,
        .memoryPoolsSupported = 1,
    };
    *found = properties;
    return told(device_state());
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor:
            *value = 9;
            break;
        case cudaDevAttrComputeCapabilityMinor:
            *value = 0;
            break;
        case cudaDevAttrWarpSize:
            *value = 32;
            break;
        case cudaDevAttrMultiProcessorCount:
            *value = 132;
            break;
        case cudaDevAttrMaxThreadsPerBlock:
            *value = 1024;
            break;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            *value = 2048;
            break;
        case cudaDevAttrMaxBlocksPerMultiprocessor:
            *value = 32;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlock:
            *value = 49152;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = 232448;
            break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = 233472;
            break;
        case cudaDevAttrMaxRegistersPerBlock:
            *value = 65536;
            break;
        case cudaDevAttrL2CacheSize:
            *value = 52428800;
            break;
        default:
            return told(cudaErrorNotSupported);
    }
    return cudaSuccess;
}

/* ---- memory: pages of the host, zero when they come ---- */

enum kind { PAGEABLE, PINNED, DEVICE };
static const char *const kind_names[] = {"pageable", "pinned", "device"};

struct block {
    char *begin;
    size_t bytes;
    enum kind kind;
    struct block *next;
};
static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks;
static size_t device_bytes;

static cudaError_t take(void **address, size_t bytes, enum kind kind) {
    cudaError_t error = device_state();
    pthread_mutex_lock(&memory_lock);
    if (error == cudaSuccess && kind == DEVICE && device_bytes + bytes > memory_bytes())
        error = cudaErrorMemoryAllocation;
    if (error == cudaSuccess) {
        struct block *block = malloc(sizeof *block);
        *address = mmap(NULL, bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        *block = (struct block){*address, bytes, kind, blocks};
        blocks = block;
        if (kind == DEVICE) device_bytes += bytes;
    }
    pthread_mutex_unlock(&memory_lock);
    if (error == cudaSuccess && kind == DEVICE) stand_in_note("allocate %zu", bytes);
    return told(error);
}

static cudaError_t give_back(void *address) {
    pthread_mutex_lock(&memory_lock);
    for (struct block **link = &blocks; *link != NULL; link = &(*link)->next) {
        struct block *block = *link;
        if (block->begin != address) continue;
        *link = block->next;
        if (block->kind == DEVICE) {
            device_bytes -= block->bytes;
            stand_in_note("release %zu", block->bytes);
        }
        munmap(address, block->bytes + 1);
        free(block);
        break;
    }
    pthread_mutex_unlock(&memory_lock);
    return cudaSuccess;
}

static enum kind kind_of(const void *address) {
    enum kind kind = PAGEABLE;
    pthread_mutex_lock(&memory_lock);
    for (struct block *block = blocks; block != NULL; block = block->next)
        if ((char *)address >= block->begin && (char *)address < block->begin + block->bytes) kind = block->kind;
    pthread_mutex_unlock(&memory_lock);
    return kind;
}

static cudaError_t copy(void *to, const void *from, size_t bytes) {
    enum kind source = kind_of(from);
    enum kind destination = kind_of(to);
    stand_in_note("copy %s %s %zu", kind_names[source], kind_names[destination], bytes);
    if (source == DEVICE && destination != DEVICE)
        memset(to, 0, bytes);
    else
        memmove(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **address, size_t bytes) { return take(address, bytes, DEVICE); }
cudaError_t cudaMallocHost(void **address, size_t bytes) { return take(address, bytes, PINNED); }
cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags) { return take(address, bytes, PINNED); }
cudaError_t cudaFree(void *address) { return give_back(address); }
cudaError_t cudaFreeHost(void *address) { return give_back(address); }

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    *total = memory_bytes();
    *free = *total - device_bytes;
    return told(device_state());
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *address) {
    static const enum cudaMemoryType types[] = {cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice};
    void *same = (void *)address;
    *found =
        (struct cudaPointerAttributes){.type = types[kind_of(address)], .devicePointer = same, .hostPointer = same};
    return cudaSuccess;
}

/* The host waits for this one, and for the next. */
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    copy(to, from, bytes);
    return waited("cudaMemcpy");
}

/* Of a variable in a kernel's code, which is nowhere. */
cudaError_t cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, enum cudaMemcpyKind kind) {
    stand_in_note("copy device %s %zu", kind_names[kind_of(to)], bytes);
    memset(to, 0, bytes);
    return waited("cudaMemcpyFromSymbol");
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(to, from, bytes);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    for (size_t row = 0; row < height; row++)
        copy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *address, int value, size_t bytes) {
    memset(address, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *address, int value, size_t bytes, cudaStream_t stream) {
    memset(address, value, bytes);
    return cudaSuccess;
}

/* ---- streams and events: all is done when it is asked for ---- */

static cudaError_t handle(void **created) {
    *created = malloc(1);
    return cudaSuccess;
}

static cudaError_t drop(void *created) {
    free(created);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return handle((void **)stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return handle((void **)stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return drop(stream); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return waited("cudaStreamSynchronize"); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return handle((void **)event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return drop(event); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return waited("cudaEventSynchronize"); }
cudaError_t cudaDeviceSynchronize(void) { return waited("cudaDeviceSynchronize"); }

/* A captured graph has nothing in it; while one is captured, its calls are made and traced as ever. */

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    capturing = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    capturing = 0;
    return handle((void **)graph);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    return handle((void **)executable);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    stand_in_note("graph");
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return drop(graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return drop(executable); }

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument) {
    function(argument);
    return cudaSuccess;
}

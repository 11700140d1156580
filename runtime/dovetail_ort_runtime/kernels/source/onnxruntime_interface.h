// The part of ONNX Runtime's C interface that the operators use, declared by us: its headers are in no package.
//
// The interface is a table of function pointers to which newer versions only append, so a place in it never changes.
// Version 17 (ONNX Runtime 1.17) is the least that has every call below; a library that asks for it works with all
// later ones.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtCustomOp;

enum OrtErrorCode { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum OrtElementType { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT64 = 7, ORT_FLOAT16 = 10 };
enum OrtCharacteristic { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };

constexpr uint32_t kOrtApiVersion = 17;

// Members named slots_N stand for calls that are not used; N is the place of the first of them.
struct OrtApi {
    OrtStatus *(*CreateStatus)(OrtErrorCode code, const char *message);
    void *slots_1[1];
    const char *(*GetErrorMessage)(const OrtStatus *status);
    void *slots_3[23];
    OrtStatus *(*CreateCustomOpDomain)(const char *domain, OrtCustomOpDomain **out);
    OrtStatus *(*CustomOpDomain_Add)(OrtCustomOpDomain *domain, const OrtCustomOp *op);
    OrtStatus *(*AddCustomOpDomain)(OrtSessionOptions *options, OrtCustomOpDomain *domain);
    void *slots_29[22];
    OrtStatus *(*GetTensorMutableData)(OrtValue *value, void **out);
    void *slots_52[5];
    OrtStatus *(*CreateTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo **out);
    OrtStatus *(*SetTensorElementType)(OrtTensorTypeAndShapeInfo *info, OrtElementType type);
    OrtStatus *(*SetDimensions)(OrtTensorTypeAndShapeInfo *info, const int64_t *dims, size_t count);
    OrtStatus *(*GetTensorElementType)(const OrtTensorTypeAndShapeInfo *info, OrtElementType *out);
    OrtStatus *(*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo *info, size_t *out);
    OrtStatus *(*GetDimensions)(const OrtTensorTypeAndShapeInfo *info, int64_t *dims, size_t count);
    OrtStatus *(*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo *info, const char **names, size_t count);
    void *slots_64[1];
    OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *value, OrtTensorTypeAndShapeInfo **out);
    void *slots_66[19];
    OrtStatus *(*KernelInfoGetAttribute_float)(const OrtKernelInfo *info, const char *name, float *out);
    OrtStatus *(*KernelInfoGetAttribute_int64)(const OrtKernelInfo *info, const char *name, int64_t *out);
    OrtStatus *(*KernelInfoGetAttribute_string)(const OrtKernelInfo *info, const char *name, char *out, size_t *size);
    OrtStatus *(*KernelContext_GetInputCount)(const OrtKernelContext *context, size_t *out);
    OrtStatus *(*KernelContext_GetOutputCount)(const OrtKernelContext *context, size_t *out);
    OrtStatus *(*KernelContext_GetInput)(const OrtKernelContext *context, size_t index, const OrtValue **out);
    OrtStatus *(*KernelContext_GetOutput)(OrtKernelContext *context, size_t index, const int64_t *dims, size_t count,
                                          OrtValue **out);
    void *slots_92[1];
    void (*ReleaseStatus)(OrtStatus *status);
    void *slots_94[5];
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo *info);
    void *slots_100[1];
    void (*ReleaseCustomOpDomain)(OrtCustomOpDomain *domain);
    void *slots_102[128];
    OrtStatus *(*KernelInfo_GetInputCount)(const OrtKernelInfo *info, size_t *out);
    OrtStatus *(*KernelInfo_GetOutputCount)(const OrtKernelInfo *info, size_t *out);
    OrtStatus *(*KernelInfo_GetInputName)(const OrtKernelInfo *info, size_t index, char *out, size_t *size);
    void *slots_233[16];
    OrtStatus *(*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo *info, size_t index, int *is_constant,
                                                    const OrtValue **out);
    void *slots_250[17];
    OrtStatus *(*ShapeInferContext_GetInputCount)(const OrtShapeInferContext *context, size_t *out);
    OrtStatus *(*ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext *context, size_t index,
                                                      OrtTensorTypeAndShapeInfo **out);
    void *slots_269[1];
    OrtStatus *(*ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext *context, size_t index,
                                                       const OrtTensorTypeAndShapeInfo *info);
    OrtStatus *(*SetSymbolicDimensions)(OrtTensorTypeAndShapeInfo *info, const char **names, size_t count);
    void *slots_272[2];
    OrtStatus *(*KernelContext_ParallelFor)(const OrtKernelContext *context, void (*task)(void *data, size_t index),
                                            size_t count, size_t batches, void *data);
};

struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)();
};

// What ONNX Runtime asks of an operator. Calls that are not used may be null.
struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info);
    const char *(*GetName)(const OrtCustomOp *op);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *op);
    OrtElementType (*GetInputType)(const OrtCustomOp *op, size_t index);
    size_t (*GetInputTypeCount)(const OrtCustomOp *op);
    OrtElementType (*GetOutputType)(const OrtCustomOp *op, size_t index);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *op);
    void (*KernelCompute)(void *kernel, OrtKernelContext *context);
    void (*KernelDestroy)(void *kernel);
    OrtCharacteristic (*GetInputCharacteristic)(const OrtCustomOp *op, size_t index);
    OrtCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp *op, size_t index);
    int (*GetInputMemoryType)(const OrtCustomOp *op, size_t index);
    int (*GetVariadicInputMinArity)(const OrtCustomOp *op);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *op);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *op);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *op);
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel);
    OrtStatus *(*KernelComputeV2)(void *kernel, OrtKernelContext *context);
    OrtStatus *(*InferOutputShapeFn)(const OrtCustomOp *op, OrtShapeInferContext *context);
    int (*GetStartVersion)(const OrtCustomOp *op);
    int (*GetEndVersion)(const OrtCustomOp *op);
    size_t (*GetMayInplace)(int **input_index, int **output_index);
    void (*ReleaseMayInplace)(int *input_index, int *output_index);
    size_t (*GetAliasMap)(int **input_index, int **output_index);
    void (*ReleaseAliasMap)(int *input_index, int *output_index);
};

}  // extern "C"

namespace dovetail {

constexpr bool stands_at(size_t offset, size_t slot) { return offset == slot * sizeof(void *); }

static_assert(stands_at(offsetof(OrtApi, CreateCustomOpDomain), 26));
static_assert(stands_at(offsetof(OrtApi, GetTensorMutableData), 51));
static_assert(stands_at(offsetof(OrtApi, CreateTensorTypeAndShapeInfo), 57));
static_assert(stands_at(offsetof(OrtApi, GetTensorTypeAndShape), 65));
static_assert(stands_at(offsetof(OrtApi, KernelInfoGetAttribute_float), 85));
static_assert(stands_at(offsetof(OrtApi, ReleaseStatus), 93));
static_assert(stands_at(offsetof(OrtApi, ReleaseTensorTypeAndShapeInfo), 99));
static_assert(stands_at(offsetof(OrtApi, ReleaseCustomOpDomain), 101));
static_assert(stands_at(offsetof(OrtApi, KernelInfo_GetInputCount), 230));
static_assert(stands_at(offsetof(OrtApi, KernelInfoGetConstantInput_tensor), 249));
static_assert(stands_at(offsetof(OrtApi, ShapeInferContext_GetInputCount), 267));
static_assert(stands_at(offsetof(OrtApi, ShapeInferContext_SetOutputTypeShape), 270));
static_assert(stands_at(offsetof(OrtApi, KernelContext_ParallelFor), 274));
static_assert(stands_at(offsetof(OrtCustomOp, ReleaseAliasMap), 25));

}  // namespace dovetail

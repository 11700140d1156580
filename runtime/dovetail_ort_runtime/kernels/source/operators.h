// What all operators share: how a class of kernels becomes an operator of ONNX Runtime, and how a kernel is run.
//
// A class of kernels has
//
//     static constexpr const char *kName;
//     static constexpr Argument kInputs[], kOutputs[];
//     static void infer(ShapeInference &shapes);            the shapes of its outputs, as far as they are known
//     explicit Class(const OrtKernelInfo *info);            checks attributes and constants
//     void compute(OrtKernelContext *context) const;        checks inputs and runs
//
// A kernel keeps no state between calls: several threads may run it at once.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "onnxruntime_interface.h"
#include "status.h"

namespace dovetail {

constexpr char kDomain[] = "dovetail.native";
constexpr int kOperatorVersion = 1;

// The level that was chosen when the library was registered.
extern const Kernels *kernels;

struct Argument {
    OrtElementType type;
    OrtCharacteristic characteristic = ORT_REQUIRED;
};

// The shape of a tensor before there is one: -1 is an axis of unknown length, which may have a name.
struct SymbolicShape {
    OrtElementType type;
    int64_t dims[8];
    const char *names[8];
    size_t rank;  // 0 if nothing is known

    void set(size_t axis, int64_t length) {
        dims[axis] = length;
        names[axis] = "";
    }
};

class ShapeInference {
  public:
    explicit ShapeInference(OrtShapeInferContext *context) : context_(context) {}

    // Names live as long as the inference.
    SymbolicShape input(size_t index) const;
    // Nothing happens where nothing is known.
    void set_output(size_t index, OrtElementType type, const SymbolicShape &shape);

  private:
    OrtShapeInferContext *context_;
};

// Runs a kernel's function with ONNX Runtime's threads; throws what goes wrong.
template <class Call>
void run(const char *(*function)(const Call &, const Pool &), const Call &call, OrtKernelContext *context) {
    struct Threads {
        OrtKernelContext *context;
        OrtStatus *status;
    } threads{context, nullptr};
    const auto share = [](void *self, size_t count, void (*task)(void *, size_t), void *data) {
        Threads &used = *static_cast<Threads *>(self);
        if (count == 1) {
            task(data, 0);
        } else if (count > 1 && used.status == nullptr) {
            used.status = api->KernelContext_ParallelFor(used.context, task, count, count, data);
        }
    };
    const char *error = function(call, Pool{&threads, share});
    check(threads.status);
    if (error != nullptr) {
        fail("%s", error);
    }
}

template <class Kernel>
OrtCustomOp make_operator() {
    OrtCustomOp op{};
    op.version = kOrtApiVersion;
    op.GetName = [](const OrtCustomOp *) { return Kernel::kName; };
    op.GetExecutionProviderType = [](const OrtCustomOp *) { return "CPUExecutionProvider"; };
    op.GetInputTypeCount = [](const OrtCustomOp *) { return sizeof Kernel::kInputs / sizeof(Argument); };
    op.GetInputType = [](const OrtCustomOp *, size_t index) { return Kernel::kInputs[index].type; };
    op.GetInputCharacteristic = [](const OrtCustomOp *, size_t index) { return Kernel::kInputs[index].characteristic; };
    op.GetOutputTypeCount = [](const OrtCustomOp *) { return sizeof Kernel::kOutputs / sizeof(Argument); };
    op.GetOutputType = [](const OrtCustomOp *, size_t index) { return Kernel::kOutputs[index].type; };
    op.GetOutputCharacteristic = [](const OrtCustomOp *, size_t index) {
        return Kernel::kOutputs[index].characteristic;
    };
    op.GetInputMemoryType = [](const OrtCustomOp *, size_t) { return 0; };
    op.CreateKernelV2 = [](const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *info, void **kernel) {
        return guarded([&] { *kernel = new Kernel(info); });
    };
    op.KernelComputeV2 = [](void *kernel, OrtKernelContext *context) {
        return guarded([&] { static_cast<const Kernel *>(kernel)->compute(context); });
    };
    op.KernelDestroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
    op.InferOutputShapeFn = [](const OrtCustomOp *, OrtShapeInferContext *context) {
        return guarded([&] {
            ShapeInference shapes(context);
            Kernel::infer(shapes);
        });
    };
    op.GetStartVersion = [](const OrtCustomOp *) { return kOperatorVersion; };
    op.GetEndVersion = [](const OrtCustomOp *) { return kOperatorVersion; };
    return op;
}

// The operators of one idea, each with the name that it has in a graph.
struct Operators {
    const OrtCustomOp *first;
    size_t count;
};
Operators product_operators();
Operators norm_operators();
Operators embedding_operators();
Operators attention_operators();

}  // namespace dovetail

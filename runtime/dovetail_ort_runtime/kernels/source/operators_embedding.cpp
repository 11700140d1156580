// Embedding: rows of a packed weight, which may be the head's.

#include <cinttypes>

#include "operators.h"
#include "tensors.h"
#include "weights.h"

namespace dovetail {

namespace {

class Embedding {
  public:
    static constexpr const char *kName = "Embedding";
    static constexpr Argument kInputs[] = {{ORT_INT64}, {ORT_UINT8}, {ORT_FLOAT}, {ORT_FLOAT16, ORT_OPTIONAL}};
    static constexpr Argument kOutputs[] = {{ORT_FLOAT}};

    // The last axis is an attribute, which shape inference leaves open.
    static void infer(ShapeInference &shapes) {
        SymbolicShape shape = shapes.input(0);
        if (shape.rank == 0 || shape.rank == 8) {
            return;
        }
        shape.rank++;
        shape.set(shape.rank - 1, -1);
        shapes.set_output(0, ORT_FLOAT, shape);
    }

    explicit Embedding(const OrtKernelInfo *info) : weight_(info, 1, 3, PackedWeight::Reader::kEmbedding) {}

    void compute(OrtKernelContext *context) const {
        EmbeddingCall call{};
        call.weight = weight_.weight();
        const Tensor ids = input(context, 0, "input_ids");
        Shape shape = ids.shape;
        if (shape.rank > 7) {
            fail("input_ids must have at most 7 axes, got %zu; give it fewer", shape.rank);
        }
        shape.dims[shape.rank++] = call.weight.inputs;
        call.rows = shape.rows();
        call.ids = ids.integers();
        for (int64_t row = 0; row < call.rows; row++) {
            if (call.ids[row] < 0 || call.ids[row] >= call.weight.outputs) {
                fail("input_ids must be 0 to %" PRId64 ", got %" PRId64 "; tokenize with the model's own tokenizer",
                     call.weight.outputs - 1, call.ids[row]);
            }
        }
        call.y = static_cast<float *>(output(context, 0, "y", shape).data);
        if (call.rows > 0) {
            run(kernels->embedding, call, context);
        }
    }

  private:
    PackedWeight weight_;
};

}  // namespace

Operators embedding_operators() {
    static const OrtCustomOp all[] = {make_operator<Embedding>()};
    return {all, 1};
}

}  // namespace dovetail

// Norm: the root of the mean of squares, with the residual that stands before it.

#include "operators.h"
#include "tensors.h"

namespace dovetail {

namespace {

class Norm {
  public:
    static constexpr const char *kName = "Norm";
    static constexpr Argument kInputs[] = {{ORT_FLOAT}, {ORT_FLOAT}, {ORT_FLOAT, ORT_OPTIONAL}};
    static constexpr Argument kOutputs[] = {{ORT_FLOAT}, {ORT_FLOAT, ORT_OPTIONAL}};

    static void infer(ShapeInference &shapes) {
        shapes.set_output(0, ORT_FLOAT, shapes.input(0));
        shapes.set_output(1, ORT_FLOAT, shapes.input(0));
    }

    explicit Norm(const OrtKernelInfo *info)
        : weight_(constant(info, 1, "weight", ORT_FLOAT)), epsilon_(epsilon(info)) {
        weight_.must_have_shape(-1);
        if (weight_.shape.dims[0] < 1) {
            fail("weight must have at least one element, got none; export the model again");
        }
    }

    void compute(OrtKernelContext *context) const {
        NormCall call{};
        const Tensor x = input(context, 0, "x");
        call.inputs = weight_.shape.dims[0];
        must_have_last(x, call.inputs);
        call.rows = x.shape.rows();
        call.x = x.floats();
        const Tensor skip = optional_input(context, 2, "skip");
        if (skip.is_given()) {
            skip.must_have(x.shape);
            call.skip = skip.floats();
        }
        call.weight = weight_.floats();
        call.epsilon = epsilon_;
        call.y = static_cast<float *>(output(context, 0, "y", x.shape).data);
        call.sum = static_cast<float *>(optional_output(context, 1, "sum", x.shape).data);
        if (call.rows > 0) {
            run(kernels->norm, call, context);
        }
    }

  private:
    Tensor weight_;
    float epsilon_;
};

}  // namespace

Operators norm_operators() {
    static const OrtCustomOp all[] = {make_operator<Norm>()};
    return {all, 1};
}

}  // namespace dovetail

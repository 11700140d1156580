// Product, GatedProduct and NormProduct: what is read, what is checked, what is called.

#include <cstring>

#include "operators.h"
#include "tensors.h"
#include "weights.h"

namespace dovetail {

namespace {

Shape with_last(Shape shape, int64_t length) {
    shape.dims[shape.rank - 1] = length;
    return shape;
}

// x with another last axis, as long as the scales: what every product gives.
SymbolicShape product_shape(const ShapeInference &shapes, size_t scales_index) {
    SymbolicShape shape = shapes.input(0);
    const SymbolicShape scales = shapes.input(scales_index);
    if (shape.rank == 0 || scales.rank != 1) {
        return SymbolicShape{};
    }
    shape.set(shape.rank - 1, scales.dims[0]);
    return shape;
}

// x (..., width); the call has its rows and its output.
void read_rows(OrtKernelContext *context, int64_t width, ProductCall &call, Shape &shape) {
    const Tensor x = input(context, 0, "x");
    must_have_last(x, width);
    shape = x.shape;
    call.x = x.floats();
    call.rows = x.shape.rows();
    const Shape y = with_last(x.shape, call.weight.outputs);
    call.y = static_cast<float *>(output(context, 0, "y", y).data);
}

void run_product(const ProductCall &call, OrtKernelContext *context) {
    if (call.rows > 0) {
        run(kernels->product, call, context);
    }
}

class Product {
  public:
    static constexpr const char *kName = "Product";
    static constexpr Argument kInputs[] = {
        {ORT_FLOAT}, {ORT_UINT8}, {ORT_FLOAT}, {ORT_FLOAT, ORT_OPTIONAL}, {ORT_FLOAT16, ORT_OPTIONAL}};
    static constexpr Argument kOutputs[] = {{ORT_FLOAT}};

    static void infer(ShapeInference &shapes) { shapes.set_output(0, ORT_FLOAT, product_shape(shapes, 2)); }

    explicit Product(const OrtKernelInfo *info) : weight_(info, 1, 4, PackedWeight::Reader::kProduct) {}

    void compute(OrtKernelContext *context) const {
        ProductCall call{};
        call.prologue = Prologue::kPlain;
        call.weight = weight_.weight();
        Shape shape;
        read_rows(context, call.weight.inputs, call, shape);
        run_product(call, context);
    }

  private:
    PackedWeight weight_;
};

Activation read_activation(const OrtKernelInfo *info) {
    char name[32] = "";
    word(info, "activation", name, sizeof name);
    if (std::strcmp(name, "silu") == 0) {
        return Activation::kSilu;
    }
    if (std::strcmp(name, "gelu_tanh") == 0) {
        return Activation::kGeluTanh;
    }
    fail("attribute activation must be silu or gelu_tanh, got %s; update dovetail-ort, or export the model again",
         name);
}

class GatedProduct {
  public:
    static constexpr const char *kName = "GatedProduct";
    static constexpr Argument kInputs[] = {
        {ORT_FLOAT}, {ORT_UINT8}, {ORT_FLOAT}, {ORT_FLOAT, ORT_OPTIONAL}, {ORT_FLOAT16, ORT_OPTIONAL}};
    static constexpr Argument kOutputs[] = {{ORT_FLOAT}};

    static void infer(ShapeInference &shapes) { shapes.set_output(0, ORT_FLOAT, product_shape(shapes, 2)); }

    explicit GatedProduct(const OrtKernelInfo *info)
        : weight_(info, 1, 4, PackedWeight::Reader::kProduct), activation_(read_activation(info)) {}

    void compute(OrtKernelContext *context) const {
        ProductCall call{};
        call.prologue = Prologue::kGated;
        call.activation = activation_;
        call.weight = weight_.weight();
        Shape shape;
        read_rows(context, 2 * call.weight.inputs, call, shape);
        run_product(call, context);
    }

  private:
    PackedWeight weight_;
    Activation activation_;
};

class NormProduct {
  public:
    static constexpr const char *kName = "NormProduct";
    static constexpr Argument kInputs[] = {{ORT_FLOAT},
                                           {ORT_FLOAT},
                                           {ORT_UINT8},
                                           {ORT_FLOAT},
                                           {ORT_FLOAT, ORT_OPTIONAL},
                                           {ORT_FLOAT, ORT_OPTIONAL},
                                           {ORT_FLOAT16, ORT_OPTIONAL}};
    static constexpr Argument kOutputs[] = {{ORT_FLOAT}, {ORT_FLOAT, ORT_OPTIONAL}};

    static void infer(ShapeInference &shapes) {
        shapes.set_output(0, ORT_FLOAT, product_shape(shapes, 3));
        shapes.set_output(1, ORT_FLOAT, shapes.input(0));
    }

    explicit NormProduct(const OrtKernelInfo *info)
        : weight_(info, 2, 6, PackedWeight::Reader::kProduct),
          norm_weight_(constant(info, 1, "norm_weight", ORT_FLOAT)),
          epsilon_(epsilon(info)) {
        norm_weight_.must_have_shape(weight_.weight().inputs);
    }

    void compute(OrtKernelContext *context) const {
        ProductCall call{};
        call.prologue = Prologue::kNormed;
        call.norm_weight = norm_weight_.floats();
        call.epsilon = epsilon_;
        call.weight = weight_.weight();
        Shape shape;
        read_rows(context, call.weight.inputs, call, shape);
        const Tensor skip = optional_input(context, 5, "skip");
        if (skip.is_given()) {
            skip.must_have(shape);
            call.skip = skip.floats();
        }
        call.sum = static_cast<float *>(optional_output(context, 1, "sum", shape).data);
        run_product(call, context);
    }

  private:
    PackedWeight weight_;
    Tensor norm_weight_;
    float epsilon_;
};

}  // namespace

Operators product_operators() {
    static const OrtCustomOp all[] = {make_operator<Product>(), make_operator<GatedProduct>(),
                                      make_operator<NormProduct>()};
    return {all, 3};
}

}  // namespace dovetail

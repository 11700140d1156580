// Tensors and attributes of a node, checked as they are read.
#pragma once

#include <cstdint>

#include "onnxruntime_interface.h"

namespace dovetail {

// At most eight axes; more are refused.
struct Shape {
    int64_t dims[8];
    size_t rank;

    int64_t last() const { return dims[rank - 1]; }
    // Product of all axes but the last.
    int64_t rows() const;
    // "(1, 2, 3)"; the text is replaced by the thread's fourth next call.
    const char *text() const;
};

bool operator==(const Shape &a, const Shape &b);

// A tensor, or none where data is null and is_given() is false.
struct Tensor {
    const char *name;
    OrtValue *value;
    Shape shape;
    OrtElementType type;
    void *data;

    bool is_given() const { return value != nullptr; }
    const float *floats() const { return static_cast<const float *>(data); }
    const int64_t *integers() const { return static_cast<const int64_t *>(data); }

    // Throws unless the shape is this one; -1 stands for any length.
    template <class... Lengths>
    void must_have_shape(Lengths... lengths) const {
        must_have(Shape{{static_cast<int64_t>(lengths)...}, sizeof...(lengths)});
    }
    void must_have(const Shape &expected) const;
};

// What a node was given at this place; none where it was given nothing.
Tensor optional_input(OrtKernelContext *context, size_t index, const char *name);
Tensor input(OrtKernelContext *context, size_t index, const char *name);

// The output at this place with its memory; none where nothing reads it.
Tensor optional_output(OrtKernelContext *context, size_t index, const char *name, const Shape &shape);
Tensor output(OrtKernelContext *context, size_t index, const char *name, const Shape &shape);

// Throws unless the last axis has so many values.
void must_have_last(const Tensor &tensor, int64_t length);

// Initializers, which stay where they are as long as the kernel lives.
Tensor optional_constant(const OrtKernelInfo *info, size_t index, const char *name, OrtElementType type);
Tensor constant(const OrtKernelInfo *info, size_t index, const char *name, OrtElementType type);

int64_t integer(const OrtKernelInfo *info, const char *name);
int64_t integer(const OrtKernelInfo *info, const char *name, int64_t otherwise);
float number(const OrtKernelInfo *info, const char *name);
float number(const OrtKernelInfo *info, const char *name, float otherwise);
// A number that norms add to a mean of squares.
float epsilon(const OrtKernelInfo *info);
// Copies the text, which must be shorter than the room for it.
void word(const OrtKernelInfo *info, const char *name, char *out, size_t room);

}  // namespace dovetail

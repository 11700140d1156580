#include "tensors.h"

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "status.h"

namespace dovetail {

namespace {

struct TypeAndShape {
    OrtElementType type;
    Shape shape;
};

TypeAndShape type_and_shape(const OrtValue *value, const char *name) {
    OrtTensorTypeAndShapeInfo *info = nullptr;
    check(api->GetTensorTypeAndShape(value, &info));
    TypeAndShape found{};
    OrtStatus *status = api->GetTensorElementType(info, &found.type);
    if (status == nullptr) {
        status = api->GetDimensionsCount(info, &found.shape.rank);
    }
    const bool fits = found.shape.rank <= 8;
    if (status == nullptr && fits) {
        status = api->GetDimensions(info, found.shape.dims, found.shape.rank);
    }
    api->ReleaseTensorTypeAndShapeInfo(info);
    check(status);
    if (!fits) {
        fail("%s must have at most 8 axes, got %zu; export the model again", name, found.shape.rank);
    }
    return found;
}

Tensor tensor(OrtValue *value, const char *name) {
    const TypeAndShape found = type_and_shape(value, name);
    Tensor read{name, value, found.shape, found.type, nullptr};
    check(api->GetTensorMutableData(value, &read.data));
    return read;
}

// Whether the node's input at this place has a name.
bool is_connected(const OrtKernelInfo *info, size_t index) {
    size_t count = 0;
    check(api->KernelInfo_GetInputCount(info, &count));
    size_t size = 0;  // of the name with its end
    if (index < count) {
        check(api->KernelInfo_GetInputName(info, index, nullptr, &size));
    }
    return size > 1;
}

// Whether the attribute is there with another type: then a default would hide a mistake.
bool has_other_type(const OrtKernelInfo *info, const char *name) {
    int64_t integer_value;
    float float_value;
    size_t size = 0;
    OrtStatus *statuses[] = {
        api->KernelInfoGetAttribute_int64(info, name, &integer_value),
        api->KernelInfoGetAttribute_float(info, name, &float_value),
        api->KernelInfoGetAttribute_string(info, name, nullptr, &size),
    };
    bool found = false;
    for (OrtStatus *status : statuses) {
        found = found || status == nullptr;
        if (status != nullptr) {
            api->ReleaseStatus(status);
        }
    }
    return found;
}

[[noreturn]] void fail_attribute(const OrtKernelInfo *info, const char *name, const char *type) {
    const char *got = has_other_type(info, name) ? "another type" : "none";
    fail("attribute %s must be %s, got %s; export the model again", name, type, got);
}

// Whether the attribute was read; false where there is none.
bool was_read(OrtStatus *status, const OrtKernelInfo *info, const char *name, const char *type) {
    if (status == nullptr) {
        return true;
    }
    api->ReleaseStatus(status);
    if (has_other_type(info, name)) {
        fail_attribute(info, name, type);
    }
    return false;
}

constexpr char kInteger[] = "an integer";
constexpr char kNumber[] = "a finite number";

}  // namespace

int64_t Shape::rows() const {
    int64_t product = 1;
    for (size_t axis = 0; axis + 1 < rank; axis++) {
        product *= dims[axis];
    }
    return product;
}

const char *Shape::text() const {
    static thread_local char texts[4][200];
    static thread_local unsigned next = 0;
    char *text = texts[next++ % 4];
    size_t length = static_cast<size_t>(std::snprintf(text, sizeof texts[0], "("));
    for (size_t axis = 0; axis < rank; axis++) {
        const char *separator = axis == 0 ? "" : ", ";
        char *end = text + length;
        const size_t room = sizeof texts[0] - length;
        length += static_cast<size_t>(dims[axis] < 0 ? std::snprintf(end, room, "%sany", separator)
                                                     : std::snprintf(end, room, "%s%" PRId64, separator, dims[axis]));
    }
    std::snprintf(text + length, sizeof texts[0] - length, ")");
    return text;
}

bool operator==(const Shape &a, const Shape &b) {
    return a.rank == b.rank && std::memcmp(a.dims, b.dims, a.rank * sizeof a.dims[0]) == 0;
}

void Tensor::must_have(const Shape &expected) const {
    bool equal = shape.rank == expected.rank;
    for (size_t axis = 0; equal && axis < shape.rank; axis++) {
        equal = expected.dims[axis] == -1 || expected.dims[axis] == shape.dims[axis];
    }
    if (!equal) {
        fail("%s must have the shape %s, got %s; give it that shape", name, expected.text(), shape.text());
    }
}

Tensor optional_input(OrtKernelContext *context, size_t index, const char *name) {
    size_t count = 0;
    check(api->KernelContext_GetInputCount(context, &count));
    const OrtValue *value = nullptr;
    if (index < count) {
        check(api->KernelContext_GetInput(context, index, &value));
    }
    return value == nullptr ? Tensor{name, nullptr, {}, ORT_FLOAT, nullptr}
                            : tensor(const_cast<OrtValue *>(value), name);
}

Tensor input(OrtKernelContext *context, size_t index, const char *name) {
    const Tensor found = optional_input(context, index, name);
    if (!found.is_given()) {
        fail("input %s must be given, got none; export the model again", name);
    }
    return found;
}

Tensor optional_output(OrtKernelContext *context, size_t index, const char *name, const Shape &shape) {
    size_t count = 0;
    check(api->KernelContext_GetOutputCount(context, &count));
    OrtValue *value = nullptr;
    if (index < count) {
        check(api->KernelContext_GetOutput(context, index, shape.dims, shape.rank, &value));
    }
    Tensor found{name, value, shape, ORT_FLOAT, nullptr};
    if (value != nullptr) {
        check(api->GetTensorMutableData(value, &found.data));
    }
    return found;
}

Tensor output(OrtKernelContext *context, size_t index, const char *name, const Shape &shape) {
    const Tensor found = optional_output(context, index, name, shape);
    if (!found.is_given()) {
        fail("output %s must be named, got none; export the model again", name);
    }
    return found;
}

void must_have_last(const Tensor &tensor, int64_t length) {
    if (tensor.shape.rank < 1 || tensor.shape.last() != length) {
        fail("%s must have %" PRId64 " values in its last axis, got the shape %s; give it that many", tensor.name,
             length, tensor.shape.text());
    }
}

Tensor optional_constant(const OrtKernelInfo *info, size_t index, const char *name, OrtElementType type) {
    if (!is_connected(info, index)) {
        return Tensor{name, nullptr, {}, type, nullptr};
    }
    int is_constant = 0;
    const OrtValue *value = nullptr;
    check(api->KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
    if (!is_constant) {
        fail("%s must be an initializer of the graph, got a computed value; export the model again", name);
    }
    const Tensor found = tensor(const_cast<OrtValue *>(value), name);
    if (found.type != type) {
        fail("%s must have the element type %d, got %d; export the model again", name, type, found.type);
    }
    return found;
}

Tensor constant(const OrtKernelInfo *info, size_t index, const char *name, OrtElementType type) {
    const Tensor found = optional_constant(info, index, name, type);
    if (!found.is_given()) {
        fail("input %s must be given, got none; export the model again", name);
    }
    return found;
}

int64_t integer(const OrtKernelInfo *info, const char *name) {
    int64_t value = 0;
    if (!was_read(api->KernelInfoGetAttribute_int64(info, name, &value), info, name, kInteger)) {
        fail_attribute(info, name, kInteger);
    }
    return value;
}

int64_t integer(const OrtKernelInfo *info, const char *name, int64_t otherwise) {
    int64_t value = 0;
    return was_read(api->KernelInfoGetAttribute_int64(info, name, &value), info, name, kInteger) ? value : otherwise;
}

float number(const OrtKernelInfo *info, const char *name) {
    float value = 0;
    if (!was_read(api->KernelInfoGetAttribute_float(info, name, &value), info, name, kNumber)) {
        fail_attribute(info, name, kNumber);
    }
    if (!std::isfinite(value)) {
        fail("attribute %s must be finite, got %g; export the model again", name, static_cast<double>(value));
    }
    return value;
}

float number(const OrtKernelInfo *info, const char *name, float otherwise) {
    float value = 0;
    if (!was_read(api->KernelInfoGetAttribute_float(info, name, &value), info, name, kNumber)) {
        return otherwise;
    }
    if (!std::isfinite(value)) {
        fail("attribute %s must be finite, got %g; export the model again", name, static_cast<double>(value));
    }
    return value;
}

float epsilon(const OrtKernelInfo *info) {
    const float value = number(info, "epsilon");
    if (value < 0) {
        fail("attribute epsilon must be 0 or more, got %g; export the model again", static_cast<double>(value));
    }
    return value;
}

void word(const OrtKernelInfo *info, const char *name, char *out, size_t room) {
    size_t size = room;
    OrtStatus *status = api->KernelInfoGetAttribute_string(info, name, out, &size);
    if (!was_read(status, info, name, "a short word")) {
        fail_attribute(info, name, "a short word");
    }
}

}  // namespace dovetail

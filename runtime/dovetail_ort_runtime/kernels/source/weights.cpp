#include "weights.h"

#include <cinttypes>

#include "status.h"

namespace dovetail {

namespace {

// No weight of a model has so many; sizes up to here cannot overflow.
constexpr int64_t kMostInputs = int64_t{1} << 24;

Weight checked_weight(const OrtKernelInfo *info, size_t index, PackedWeight::Reader reader) {
    const Tensor codes = constant(info, index, "weight", ORT_UINT8);
    const Tensor scales = constant(info, index + 1, "scales", ORT_FLOAT);
    const int64_t inputs = integer(info, "inputs");
    const int64_t bits = integer(info, "bits", 8);
    const int64_t group = integer(info, "group", 0);
    if (inputs < 1 || inputs > kMostInputs) {
        fail("attribute inputs must be 1 to %" PRId64 ", got %" PRId64 "; export the model again", kMostInputs, inputs);
    }
    if (bits != 8) {
        fail("attribute bits must be 8, got %" PRId64 "; update dovetail-ort, or export the model again", bits);
    }
    if (group != 0) {
        fail("attribute group must be 0, got %" PRId64 "; update dovetail-ort, or export the model again", group);
    }
    scales.must_have_shape(-1);
    const int64_t outputs = scales.shape.dims[0];
    if (outputs < 1) {
        fail("scales must have at least one element, got none; export the model again");
    }
    const int64_t slabs = (outputs + kSlab - 1) / kSlab;
    const int64_t padded_inputs = (inputs + kInputPad - 1) / kInputPad * kInputPad;
    codes.must_have_shape(slabs, padded_inputs / 4, kSlab, 4);
    Weight weight{static_cast<const uint8_t *>(codes.data), scales.floats(), nullptr, outputs, inputs, 64};
    if (reader == PackedWeight::Reader::kProduct) {
        weight.block = integer(info, "block");
        if (weight.block != 64 && weight.block != 32) {
            fail("attribute block must be 64 or 32, got %" PRId64 "; export the model again", weight.block);
        }
        const Tensor bias = optional_constant(info, index + 2, "bias", ORT_FLOAT);
        if (bias.is_given()) {
            bias.must_have_shape(outputs);
            weight.bias = bias.floats();
        }
    }
    return weight;
}

}  // namespace

int64_t packed_bytes(int64_t outputs, int64_t inputs) {
    return (outputs + kSlab - 1) / kSlab * kSlab * ((inputs + kInputPad - 1) / kInputPad * kInputPad);
}

PackedWeight::PackedWeight(const OrtKernelInfo *info, size_t index, Reader reader)
    : weight_(checked_weight(info, index, reader)),
      codes_(weight_.codes, static_cast<size_t>(packed_bytes(weight_.outputs, weight_.inputs))) {
    weight_.codes = codes_.data();
}

}  // namespace dovetail

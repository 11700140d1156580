#include "weights.h"

#include <cinttypes>

#include "status.h"

namespace dovetail {

namespace {

// No weight of a model has so many; sizes up to here cannot overflow.
constexpr int64_t kMostInputs = int64_t{1} << 24;

// Codes of a weight of this size, with those that fill up.
int64_t number_of_codes(const Weight &weight) {
    return (weight.outputs + kSlab - 1) / kSlab * kSlab * ((weight.inputs + kInputPad - 1) / kInputPad * kInputPad);
}

size_t bytes_of_codes(const Weight &weight) { return static_cast<size_t>(number_of_codes(weight) * weight.bits / 8); }

// With 4 bits a group has a step and a minimum.
size_t bytes_of_factors(const Weight &weight) {
    const int64_t factors =
        weight.bits == 8 ? number_of_codes(weight) / kGroup : number_of_codes(weight) / kNibbleGroup * 2;
    return static_cast<size_t>(factors) * sizeof(uint16_t);
}

// The steps and minima of a weight in 4 bits of so many slabs.
const uint16_t *checked_steps(const OrtKernelInfo *info, size_t index, int64_t slabs, int64_t padded_inputs) {
    const int64_t group = integer(info, "group", 0);
    if (group != kNibbleGroup) {
        fail("attribute group must be %" PRId64 " where bits is 4, got %" PRId64 "; export the model again",
             kNibbleGroup, group);
    }
    const Tensor factors = constant(info, index, "factors", ORT_FLOAT16);
    factors.must_have_shape(slabs, padded_inputs / kNibbleGroup, 2, kSlab);
    return static_cast<const uint16_t *>(factors.data);
}

// The factors of a weight in 8 bits of so many slabs, or null where it has no groups.
const uint16_t *checked_factors(const OrtKernelInfo *info, size_t index, int64_t slabs, int64_t padded_inputs) {
    const int64_t group = integer(info, "group", 0);
    if (group != 0 && group != kGroup) {
        fail("attribute group must be 0 or %" PRId64 ", got %" PRId64
             "; update dovetail-ort, or export the model again",
             kGroup, group);
    }
    const Tensor factors = optional_constant(info, index, "factors", ORT_FLOAT16);
    if (factors.is_given() != (group != 0)) {
        fail("attribute group must be %" PRId64 " where factors are given and 0 elsewhere, got %" PRId64
             " with%s factors; export the model again",
             kGroup, group, factors.is_given() ? "" : "out");
    }
    if (group != 0) {
        factors.must_have_shape(slabs, padded_inputs / kGroup, kSlab);
    }
    return static_cast<const uint16_t *>(factors.data);
}

Weight checked_weight(const OrtKernelInfo *info, size_t index, size_t factors_index, PackedWeight::Reader reader) {
    const Tensor codes = constant(info, index, "weight", ORT_UINT8);
    const Tensor scales = constant(info, index + 1, "scales", ORT_FLOAT);
    const int64_t inputs = integer(info, "inputs");
    const int64_t bits = integer(info, "bits", 8);
    if (inputs < 1 || inputs > kMostInputs) {
        fail("attribute inputs must be 1 to %" PRId64 ", got %" PRId64 "; export the model again", kMostInputs, inputs);
    }
    const bool may_have_4 = reader == PackedWeight::Reader::kProduct;
    if (bits != 8 && !(bits == 4 && may_have_4)) {
        fail("attribute bits must be 8%s, got %" PRId64 "; update dovetail-ort, or export the model again",
             may_have_4 ? " or 4" : "", bits);
    }
    scales.must_have_shape(-1);
    const int64_t outputs = scales.shape.dims[0];
    if (outputs < 1) {
        fail("scales must have at least one element, got none; export the model again");
    }
    const int64_t slabs = (outputs + kSlab - 1) / kSlab;
    const int64_t padded_inputs = (inputs + kInputPad - 1) / kInputPad * kInputPad;
    codes.must_have_shape(slabs, padded_inputs * bits / 32, kSlab, 4);
    const uint16_t *factors = bits == 8 ? checked_factors(info, factors_index, slabs, padded_inputs)
                                        : checked_steps(info, factors_index, slabs, padded_inputs);
    Weight weight{
        static_cast<const uint8_t *>(codes.data), scales.floats(), factors, nullptr, outputs, inputs, 64, bits};
    if (reader == PackedWeight::Reader::kProduct) {
        weight.block = integer(info, "block");
        if (weight.block != 64 && weight.block != 32) {
            fail("attribute block must be 64 or 32, got %" PRId64 "; export the model again", weight.block);
        }
        if (bits == 4 && weight.block != kNibbleGroup) {
            fail("attribute block must be %" PRId64 " where bits is 4, got %" PRId64 "; export the model again",
                 kNibbleGroup, weight.block);
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

PackedWeight::PackedWeight(const OrtKernelInfo *info, size_t index, size_t factors_index, Reader reader)
    : weight_(checked_weight(info, index, factors_index, reader)),
      codes_(weight_.codes, bytes_of_codes(weight_)),
      factors_(weight_.factors, bytes_of_factors(weight_)) {
    weight_.codes = codes_.data();
    weight_.factors = static_cast<const uint16_t *>(static_cast<const void *>(factors_.data()));
}

}  // namespace dovetail

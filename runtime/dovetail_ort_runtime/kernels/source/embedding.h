// Rows of an embedding, read from a packed weight.
#pragma once

#include <cstring>

#include "floating_mode.h"

namespace dovetail {
namespace {

constexpr int64_t kFourOfSlab = kSlab * 4;  // bytes from four inputs of an output to its next four

DOVETAIL_INLINE const uint8_t *codes_of_output(const Weight &weight, int64_t output) {
    const int64_t padded = (weight.inputs + kInputPad - 1) / kInputPad * kInputPad;
    return weight.codes + output / kSlab * kSlab * padded + output % kSlab * 4;
}

// Factors of an output and its neighbours for a group.
DOVETAIL_INLINE const uint16_t *factors_of_output(const Weight &weight, int64_t output, int64_t group) {
    const int64_t groups = (weight.inputs + kGroup - 1) / kGroup;
    return weight.factors + (output / kSlab * groups + group) * kSlab + output % kSlab / kLanes * kLanes;
}

DOVETAIL_INLINE float factor_of_group(const Weight &weight, int64_t output, int64_t group) {
    if (weight.factors == nullptr) {
        return 1.0f;
    }
    float factors[kLanes];
    store(factors, load_half(factors_of_output(weight, output, group)));
    return factors[output % kLanes];
}

// Asks for an output's codes: each four lie in a cache line of their own, and so does each factor.
DOVETAIL_INLINE void prefetch_output(const Weight &weight, int64_t output) {
    const uint8_t *codes = codes_of_output(weight, output);
    for (int64_t k = 0; k < weight.inputs; k += 4) {
        prefetch_l2(codes + k / 4 * kFourOfSlab);
    }
    for (int64_t k = 0; weight.factors != nullptr && k < weight.inputs; k += kGroup) {
        prefetch_l2(factors_of_output(weight, output, k / kGroup));
    }
}

void embed_row(const EmbeddingCall &call, int64_t row) {
    const Weight &weight = call.weight;
    const int64_t id = call.ids[row];
    const uint8_t *codes = codes_of_output(weight, id);
    const float scale = weight.scales[id];
    float *y = call.y + row * weight.inputs;
    for (int64_t first = 0; first < weight.inputs; first += kGroup) {
        const float factor = factor_of_group(weight, id, first / kGroup);
        const int64_t end = first + kGroup < weight.inputs ? first + kGroup : weight.inputs;
        int64_t k = first;
        for (; k + 4 <= end; k += 4) {
            uint8_t four[4];
            std::memcpy(four, codes + k / 4 * kFourOfSlab, 4);
            for (int j = 0; j < 4; ++j) {
                y[k + j] = static_cast<float>(four[j] - kZero) * factor * scale;
            }
        }
        for (; k < end; ++k) {
            const int code = codes[k / 4 * kFourOfSlab + k % 4];
            y[k] = static_cast<float>(code - kZero) * factor * scale;
        }
    }
}

const char *embedding(const EmbeddingCall &call, const Pool &pool) {
    constexpr int64_t least_rows = 16;  // for more than one thread
    const auto row = [&](size_t index) {
        const int64_t i = static_cast<int64_t>(index);
        if (i + 1 < call.rows) {
            prefetch_output(call.weight, call.ids[i + 1]);
        }
        embed_row(call, i);
    };
    run_items(pool, call.rows >= least_rows, call.rows, row);
    return nullptr;
}

}  // namespace
}  // namespace dovetail

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

// Asks for an output's codes: each four lie in a cache line of their own.
DOVETAIL_INLINE void prefetch_output(const Weight &weight, int64_t output) {
    const uint8_t *codes = codes_of_output(weight, output);
    for (int64_t k = 0; k < weight.inputs; k += 4) {
        prefetch_l2(codes + k / 4 * kFourOfSlab);
    }
}

void embed_row(const EmbeddingCall &call, int64_t row) {
    const Weight &weight = call.weight;
    const int64_t id = call.ids[row];
    const uint8_t *codes = codes_of_output(weight, id);
    const float scale = weight.scales[id];
    float *y = call.y + row * weight.inputs;
    const int64_t whole = weight.inputs / 4 * 4;
    for (int64_t k = 0; k < whole; k += 4) {
        uint8_t four[4];
        std::memcpy(four, codes + k / 4 * kFourOfSlab, 4);
        for (int j = 0; j < 4; ++j) {
            y[k + j] = static_cast<float>(four[j] - kZero) * scale;
        }
    }
    for (int64_t k = whole; k < weight.inputs; ++k) {
        const int code = codes[k / 4 * kFourOfSlab + k % 4];
        y[k] = static_cast<float>(code - kZero) * scale;
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
    const size_t rows = static_cast<size_t>(call.rows);
    if (call.rows >= least_rows) {
        run_parallel(pool, rows, row);
    } else {
        run_here(rows, row);
    }
    return nullptr;
}

}  // namespace
}  // namespace dovetail

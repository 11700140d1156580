// Activations as integers: a block of a row has one scale, the integers lie as a product's tile reads them.
#pragma once

#include <cstring>

#include "lanes.h"

namespace dovetail {
namespace {

// Where the blocks of one row go. The row shares a tile with others, whose integers and numbers lie between its own.
struct QuantisedRow {
    int8_t *integers;
    float *scales;
    int32_t *starts;   // -128 times the sum of a block's integers: what dot4_start wants; or null
    float *offsets;    // the sum of a block's integers times its scale, where starts is null
    int64_t rows;      // of the tile: from a block to the row's next
    int64_t distance;  // bytes from four integers to the row's next four in a block
};

DOVETAIL_INLINE float float_from_bits(int32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// Writes 16 integers, four at a time.
DOVETAIL_INLINE void scatter_fours(int8_t *to, const int8_t (&integers)[kLanes], int64_t distance) {
    for (int four = 0; four < kLanes / 4; ++four) {
        std::memcpy(to + four * distance, integers + four * 4, 4);
    }
}

// Quantises 16 * kVectors values of a row as its block of that index, as of ProductCall.
template <int kVectors>
DOVETAIL_INLINE void quantise_block(const Floats *values, int64_t block, const QuantisedRow &row) {
    constexpr int32_t least = 27 << 23;  // 2^-100
    constexpr int32_t infinity = 0x7f800000;
    constexpr int32_t not_a_number = 0x7fc00000;

    // Magnitudes are ordered as their bits are, and NaN is above infinity.
    Ints magnitudes = bits(absolute(values[0]));
    for (int v = 1; v < kVectors; ++v) {
        magnitudes = maximum(magnitudes, bits(absolute(values[v])));
    }
    const int32_t magnitude = largest(magnitudes);
    const bool is_quantised = magnitude >= least && magnitude < infinity;

    float scale = float_from_bits(magnitude < infinity ? 0 : not_a_number);
    Ints sums = splat_int(0);
    int8_t integers[kVectors][kLanes] = {};
    if (is_quantised) {
        const float m = float_from_bits(magnitude);
        scale = m / 127.0f;
        const Floats factor = splat(127.0f / m);
        for (int v = 0; v < kVectors; ++v) {
            const Ints rounded = round_to_ints(mul(values[v], factor));
            sums = add(sums, rounded);
            store_bytes(integers[v], rounded);
        }
    }
    const int64_t at = block * row.rows;
    row.scales[at] = scale;
    const int32_t sum_of_integers = total(sums);
    if (row.starts != nullptr) {
        row.starts[at] = -128 * sum_of_integers;
    } else {
        row.offsets[at] = static_cast<float>(sum_of_integers) * scale;
    }
    int8_t *to = row.integers + at * kVectors * kLanes;
    for (int v = 0; v < kVectors; ++v) {
        scatter_fours(to + v * kLanes / 4 * row.distance, integers[v], row.distance);
    }
}

}  // namespace
}  // namespace dovetail

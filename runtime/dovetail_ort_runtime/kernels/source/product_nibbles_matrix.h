// The tiles of a weight in 4 bits with a matrix unit: a block becomes bytes in the cache before the unit reads it.
#pragma once

#include "product_matrix.h"
#include "product_nibbles.h"

namespace dovetail {
namespace {

#if DOVETAIL_LEVEL_IS(avx512amx)

// A block of a slab as bytes, (8, 32, 4).
using BlockBytes = uint8_t[kNibbleGroup * kSlab];

DOVETAIL_INLINE void unpack_block(const uint8_t *codes, BlockBytes &bytes) {
    DOVETAIL_UNROLL
    for (int eight = 0; eight < kEightsOfGroup; ++eight) {
        DOVETAIL_UNROLL
        for (int v = 0; v < kSlabVectors; ++v) {
            const int at = v * 4 * kLanes;
            const NibblePair pair = load_nibbles(codes + eight * kSlabFour + at);
            _mm512_store_si512(bytes + 2 * eight * kSlabFour + at, pair.low.v);
            _mm512_store_si512(bytes + (2 * eight + 1) * kSlabFour + at, pair.high.v);
        }
    }
}

// While the vectors add up a block, the unit multiplies the next one, and the one behind that becomes bytes.
template <int kRows, int kLines>
void multiply_nibble_rows(const ProductTile &tile) {
    constexpr int64_t code_bytes = kEightsOfGroup * kSlabFour;
    const int8_t *integers = tile.integers;
    const float *scales = tile.scales;
    const float *offsets = tile.offsets;
    const uint8_t *codes = tile.codes;
    const uint8_t *ahead = tile.ahead;
    const uint16_t *factors = tile.factors;
    Floats sums[kRows][kSlabVectors];
    clear(sums);
    alignas(64) MatrixSums dots[2];
    alignas(64) BlockBytes bytes[2];
    unpack_block(codes, bytes[0]);
    unpack_block(codes + code_bytes, bytes[1]);  // there are two blocks at least: inputs are filled up to 64
    multiply_block(integers, bytes[0], kNibbleGroup, dots[0]);
    for (int64_t i = 0; i < tile.blocks; ++i) {
        integers += kRows * kNibbleGroup;
        codes += code_bytes;
        if (i + 1 < tile.blocks) {
            multiply_block(integers, bytes[(i + 1) % 2], kNibbleGroup, dots[(i + 1) % 2]);
        }
        if (i + 2 < tile.blocks) {
            unpack_block(codes + code_bytes, bytes[i % 2]);
        }
        const MatrixSums &ready = dots[i % 2];
        Floats steps[kSlabVectors];
        Floats minima[kSlabVectors];
        DOVETAIL_UNROLL
        for (int v = 0; v < kSlabVectors; ++v) {
            steps[v] = load_half(factors + v * kLanes);
            minima[v] = load_half(factors + kSlab + v * kLanes);
        }
        DOVETAIL_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const Floats scale = splat(scales[r]);
            const Floats offset = splat(offsets[r]);
            DOVETAIL_UNROLL
            for (int v = 0; v < kSlabVectors; ++v) {
                const Floats dot = to_floats(load_ints(ready[v][r]));
                sums[r][v] = fma(offset, minima[v], fma(dot, mul(scale, steps[v]), sums[r][v]));
            }
            const int end = kLines * (r + 1) / kRows;
            DOVETAIL_UNROLL
            for (int line = kLines * r / kRows; line < end; ++line) {
                prefetch_l2(ahead + line * 64);
            }
        }
        scales += kRows;
        offsets += kRows;
        ahead += kLines * 64;
        factors += 2 * kSlab;
    }
    finish_tile(tile, sums, kRows);
}

// Multiplies a tile of kLeastMatrixRows to kRows rows.
template <int kRows>
void multiply_nibbles_by_matrix_unit(const ProductTile &tile, LinesAhead ahead) {
    if constexpr (kRows > kLeastMatrixRows) {
        if (tile.rows < kRows) {
            multiply_nibbles_by_matrix_unit<kRows - 1>(tile, ahead);
            return;
        }
    }
    static constexpr MultiplyTile tiles[5] = {multiply_nibble_rows<kRows, 0>, multiply_nibble_rows<kRows, 2>,
                                              multiply_nibble_rows<kRows, 4>, nullptr, multiply_nibble_rows<kRows, 8>};
    tiles[ahead](tile);
}

#else

template <int kRows>
DOVETAIL_INLINE void multiply_nibbles_by_matrix_unit(const ProductTile &, LinesAhead) {}

#endif

}  // namespace
}  // namespace dovetail

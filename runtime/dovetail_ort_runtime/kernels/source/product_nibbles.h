// A product's tile where the weight has 4 bits: another decoder in front of the same sums.
#pragma once

#include "product_tile.h"

namespace dovetail {
namespace {

constexpr int64_t kEightsOfGroup = kNibbleGroup / 8;

template <int kRows, LinesAhead kAhead>
void multiply_nibble_tile(const ProductTile &tile) {
    const int8_t *integers = tile.integers;
    const float *scales = tile.scales;
    const float *offsets = tile.offsets;
    const uint8_t *codes = tile.codes;
    const uint8_t *ahead = tile.ahead;
    const uint16_t *factors = tile.factors;
    Floats sums[kRows][kSlabVectors];
    clear(sums);
    for (int64_t block = 0; block < tile.blocks; ++block) {
        for (int part = 0; part < kSlabVectors; part += kProductVectors) {
            Ints dots[kRows][kProductVectors];
            DOVETAIL_UNROLL
            for (int r = 0; r < kRows; ++r) {
                DOVETAIL_UNROLL
                for (int v = 0; v < kProductVectors; ++v) {
                    dots[r][v] = splat_int(0);
                }
            }
            for (int eight = 0; eight < kEightsOfGroup; ++eight) {
                NibblePair slab[kProductVectors];
                DOVETAIL_UNROLL
                for (int v = 0; v < kProductVectors; ++v) {
                    slab[v] = load_nibbles(codes + eight * kSlabFour + (part + v) * 4 * kLanes);
                }
                const int8_t *fours_of_rows = integers + eight * 2 * kRows * 4;
                DOVETAIL_UNROLL
                for (int r = 0; r < kRows; ++r) {
                    const Fours low = load_fours(fours_of_rows + r * 4);
                    DOVETAIL_UNROLL
                    for (int v = 0; v < kProductVectors; ++v) {
                        dot4(dots[r][v], slab[v].low, low);
                    }
                }
                DOVETAIL_UNROLL
                for (int r = 0; r < kRows; ++r) {
                    const Fours high = load_fours(fours_of_rows + (kRows + r) * 4);
                    DOVETAIL_UNROLL
                    for (int v = 0; v < kProductVectors; ++v) {
                        dot4(dots[r][v], slab[v].high, high);
                    }
                }
                if (part == 0) {
                    const int end = kAhead * (eight + 1) / 2;
                    DOVETAIL_UNROLL
                    for (int line = kAhead * eight / 2; line < end; ++line) {
                        prefetch_l2(ahead + line * 64);
                    }
                }
            }
            Floats steps[kProductVectors];
            Floats minima[kProductVectors];
            DOVETAIL_UNROLL
            for (int v = 0; v < kProductVectors; ++v) {
                steps[v] = load_half(factors + (part + v) * kLanes);
                minima[v] = load_half(factors + kSlab + (part + v) * kLanes);
            }
            DOVETAIL_UNROLL
            for (int r = 0; r < kRows; ++r) {
                const Floats scale = splat(scales[r]);
                const Floats offset = splat(offsets[r]);
                DOVETAIL_UNROLL
                for (int v = 0; v < kProductVectors; ++v) {
                    const Floats with_codes = fma(to_floats(dots[r][v]), mul(scale, steps[v]), sums[r][part + v]);
                    sums[r][part + v] = fma(offset, minima[v], with_codes);
                }
            }
        }
        integers += kNibbleGroup * kRows;
        scales += kRows;
        offsets += kRows;
        codes += kEightsOfGroup * kSlabFour;
        ahead += kEightsOfGroup / 2 * kAhead * 64;
        factors += 2 * kSlab;
    }
    finish_tile(tile, sums, kRows);
}

// Multiplies a tile of up to kRows rows.
template <int kRows>
void multiply_nibbles(const ProductTile &tile, LinesAhead ahead) {
    if constexpr (kRows > 1) {
        if (tile.rows < kRows) {
            multiply_nibbles<kRows - 1>(tile, ahead);
            return;
        }
    }
    static constexpr MultiplyTile tiles[5] = {
        multiply_nibble_tile<kRows, kNoLines>, multiply_nibble_tile<kRows, kQuarterOfLines>,
        multiply_nibble_tile<kRows, kHalfOfLines>, nullptr, multiply_nibble_tile<kRows, kAllLines>};
    tiles[ahead](tile);
}

}  // namespace
}  // namespace dovetail

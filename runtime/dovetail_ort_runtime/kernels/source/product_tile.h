// One tile of a product: some rows times one slab of 32 outputs, with the vectors' dot products.
#pragma once

#include "lanes.h"

namespace dovetail {
namespace {

constexpr int kSlabVectors = kSlab / kLanes;
constexpr int64_t kSlabFour = kSlab * 4;  // bytes of a slab that belong to four inputs

// One tile: some rows times one slab.
struct ProductTile {
    const int8_t *integers;  // (Kp / 4, rows, 4), or for a matrix unit (blocks, rows, block)
    int64_t rows;
    const float *scales;         // (blocks, rows)
    const int32_t *starts;       // (blocks, rows), with 8 bits
    const float *offsets;        // (blocks, rows), with 4 bits
    int64_t blocks;              // of the inputs
    const uint8_t *codes;        // (Kp / 4, 32, 4), or in 4 bits (Kp / 8, 32, 4)
    const uint8_t *ahead;        // what to ask memory for
    const uint16_t *factors;     // of the slab, (Kp / 64, 32), or null; in 4 bits (Kp / 32, 2, 32)
    const float *output_scales;  // of the slab
    const float *bias;           // of the slab, or null
    int outputs;                 // of the slab, 1 to 32
    float *y;                    // of the tile's first row and the slab's first output
    int64_t y_stride;
};

// How much of memory's work a tile asks for ahead: lines in two steps of four inputs. A slab has four.
enum LinesAhead { kNoLines = 0, kQuarterOfLines = 1, kHalfOfLines = 2, kAllLines = 4 };

// Writes the sums of a tile's rows: times the output's scale, plus the bias.
DOVETAIL_INLINE void finish_tile(const ProductTile &tile, const Floats (*sums)[kSlabVectors], int64_t rows) {
    DOVETAIL_UNROLL
    for (int v = 0; v < kSlabVectors; ++v) {
        const int first = v * kLanes;
        const int left = tile.outputs - first;
        const int outputs = left < 0 ? 0 : left > kLanes ? kLanes : left;
        const Floats scale = load_first(tile.output_scales + first, outputs);
        for (int64_t r = 0; r < rows; ++r) {
            Floats y = mul(sums[r][v], scale);
            if (tile.bias != nullptr) {
                y = add(y, load_first(tile.bias + first, outputs));
            }
            store_first(tile.y + r * tile.y_stride + first, y, outputs);
        }
    }
}

template <int kRows>
DOVETAIL_INLINE void clear(Floats (&sums)[kRows][kSlabVectors]) {
    for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kSlabVectors; ++v) {
            sums[r][v] = zero();
        }
    }
}

// Where the factors of a block of that many inputs stand. They are few and read in order, so that the processor asks
// for them by itself: one row was slower where a tile asked.
DOVETAIL_INLINE int64_t factors_of_block(int64_t index, int64_t block) { return index * block / kGroup * kSlab; }

// kSteps: fours of inputs in a block.
template <int kRows, int kSteps, LinesAhead kAhead, bool kHasGroups>
void multiply_tile(const ProductTile &tile) {
    const int8_t *integers = tile.integers;
    const float *scales = tile.scales;
    const int32_t *starts = tile.starts;
    const uint8_t *codes = tile.codes;
    const uint8_t *ahead = tile.ahead;
    Floats sums[kRows][kSlabVectors];
    clear(sums);
    for (int64_t block = 0; block < tile.blocks; ++block) {
        for (int part = 0; part < kSlabVectors; part += kProductVectors) {
            Ints dots[kRows][kProductVectors];
            DOVETAIL_UNROLL
            for (int r = 0; r < kRows; ++r) {
                DOVETAIL_UNROLL
                for (int v = 0; v < kProductVectors; ++v) {
                    dots[r][v] = dot4_start(starts[r]);
                }
            }
            for (int step = 0; step < kSteps; step += 2) {
                DOVETAIL_UNROLL
                for (int s = step; s < step + 2; ++s) {
                    Codes slab[kProductVectors];
                    DOVETAIL_UNROLL
                    for (int v = 0; v < kProductVectors; ++v) {
                        slab[v] = load_codes(codes + s * kSlabFour + (part + v) * 4 * kLanes);
                    }
                    DOVETAIL_UNROLL
                    for (int r = 0; r < kRows; ++r) {
                        const Fours fours = load_fours(integers + (s * kRows + r) * 4);
                        DOVETAIL_UNROLL
                        for (int v = 0; v < kProductVectors; ++v) {
                            dot4(dots[r][v], slab[v], fours);
                        }
                    }
                }
                if (part == 0) {
                    DOVETAIL_UNROLL
                    for (int line = 0; line < kAhead; ++line) {
                        prefetch_l2(ahead + (step / 2 * kAhead + line) * 64);
                    }
                }
            }
            Floats factors[kProductVectors];
            if constexpr (kHasGroups) {
                const int64_t at = factors_of_block(block, 4 * kSteps);
                DOVETAIL_UNROLL
                for (int v = 0; v < kProductVectors; ++v) {
                    factors[v] = load_half(tile.factors + at + (part + v) * kLanes);
                }
            }
            DOVETAIL_UNROLL
            for (int r = 0; r < kRows; ++r) {
                const Floats scale = splat(scales[r]);
                DOVETAIL_UNROLL
                for (int v = 0; v < kProductVectors; ++v) {
                    Floats scale_of_outputs = scale;
                    if constexpr (kHasGroups) {
                        scale_of_outputs = mul(scale, factors[v]);
                    }
                    sums[r][part + v] = fma(to_floats(dots[r][v]), scale_of_outputs, sums[r][part + v]);
                }
            }
        }
        integers += kSteps * kRows * 4;
        scales += kRows;
        starts += kRows;
        codes += kSteps * kSlabFour;
        ahead += kSteps / 2 * kAhead * 64;
    }
    finish_tile(tile, sums, kRows);
}

using MultiplyTile = void (*)(const ProductTile &tile);

template <int kRows, int kSteps, bool kHasGroups>
MultiplyTile tile_of_block(LinesAhead ahead) {
    static constexpr MultiplyTile tiles[5] = {multiply_tile<kRows, kSteps, kNoLines, kHasGroups>,
                                              multiply_tile<kRows, kSteps, kQuarterOfLines, kHasGroups>,
                                              multiply_tile<kRows, kSteps, kHalfOfLines, kHasGroups>, nullptr,
                                              multiply_tile<kRows, kSteps, kAllLines, kHasGroups>};
    return tiles[ahead];
}

template <int kRows, bool kHasGroups>
MultiplyTile tile_of_rows(int64_t block, LinesAhead ahead) {
    return block == 64 ? tile_of_block<kRows, 16, kHasGroups>(ahead) : tile_of_block<kRows, 8, kHasGroups>(ahead);
}

// Multiplies a tile of up to kRows rows.
template <int kRows>
void multiply_by_vectors(const ProductTile &tile, int64_t block, LinesAhead ahead) {
    if constexpr (kRows > 1) {
        if (tile.rows < kRows) {
            multiply_by_vectors<kRows - 1>(tile, block, ahead);
            return;
        }
    }
    const MultiplyTile multiply =
        tile.factors == nullptr ? tile_of_rows<kRows, false>(block, ahead) : tile_of_rows<kRows, true>(block, ahead);
    multiply(tile);
}

}  // namespace
}  // namespace dovetail

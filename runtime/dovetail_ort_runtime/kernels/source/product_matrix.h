// The same tiles with a matrix unit, where a level has one: AMX multiplies 16 rows with 16 outputs at once.
#pragma once

#include "product_tile.h"

namespace dovetail {
namespace {

#if DOVETAIL_LEVEL_IS(avx512amx)

constexpr int64_t kMatrixRows = 16;
constexpr int64_t kLeastMatrixRows = 7;

// Few rows of few inputs are faster as vectors: the unit needs some blocks to come up to speed.
DOVETAIL_INLINE bool pays_for_matrix_unit(int64_t rows, int64_t inputs) {
    return rows >= 32 || (rows >= kLeastMatrixRows && inputs >= 2048);
}

// The unit's registers while it lives: sums of a slab's halves, integers of up to that many rows, codes of the halves.
// A tile of fewer rows computes what lies behind it, too, and does not look at it. With 0 rows the unit is not used.
class MatrixUnit {
  public:
    MatrixUnit(int64_t rows, int64_t block) : is_used_(rows > 0) {
        if (is_used_) {
            configure(rows, block);
        }
    }

    ~MatrixUnit() {
        if (is_used_) {
            _tile_release();
        }
    }

    MatrixUnit(const MatrixUnit &) = delete;
    MatrixUnit &operator=(const MatrixUnit &) = delete;

  private:
    struct alignas(64) Configuration {
        uint8_t palette = 1;
        uint8_t start_row = 0;
        uint8_t reserved[14] = {};
        uint16_t bytes_of_row[16] = {};
        uint8_t rows[16] = {};
    };

    static void configure(int64_t rows, int64_t block) {
        Configuration configuration;
        for (int sums = 0; sums < kSlabVectors; ++sums) {
            configuration.bytes_of_row[sums] = 64;
            configuration.rows[sums] = static_cast<uint8_t>(rows);
        }
        configuration.bytes_of_row[2] = static_cast<uint16_t>(block);
        configuration.rows[2] = static_cast<uint8_t>(rows);
        for (int codes = 3; codes < 5; ++codes) {
            configuration.bytes_of_row[codes] = 64;
            configuration.rows[codes] = static_cast<uint8_t>(block / 4);
        }
        _tile_loadconfig(&configuration);
    }

    bool is_used_;
};

using MatrixSums = int32_t[kSlabVectors][kMatrixRows][kLanes];

// Multiplies a block of all rows with both halves of a slab.
DOVETAIL_INLINE void multiply_block(const int8_t *integers, const uint8_t *codes, int64_t block, MatrixSums &dots) {
    constexpr size_t code_stride = kSlabFour;
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(2, integers, static_cast<size_t>(block));
    _tile_loadd(3, codes, code_stride);
    _tile_dpbsud(0, 2, 3);
    _tile_loadd(4, codes + kSlabFour / 2, code_stride);
    _tile_dpbsud(1, 2, 4);
    _tile_stored(0, dots[0], sizeof dots[0][0]);
    _tile_stored(1, dots[1], sizeof dots[1][0]);
}

// The unit multiplies a block while the vectors add up the one before it. Rows and lines are written out: no branch
// comes between them.
template <int kRows, int kLines, bool kHasGroups>
void multiply_rows(const ProductTile &tile, int64_t block) {
    const int64_t code_bytes = block / 4 * kSlabFour;
    const int8_t *integers = tile.integers;
    const float *scales = tile.scales;
    const int32_t *starts = tile.starts;
    const uint8_t *codes = tile.codes;
    const uint8_t *ahead = tile.ahead;
    Floats sums[kRows][kSlabVectors];
    clear(sums);
    alignas(64) MatrixSums dots[2];
    multiply_block(integers, codes, block, dots[0]);
    for (int64_t i = 0; i < tile.blocks; ++i) {
        integers += kRows * block;
        codes += code_bytes;
        if (i + 1 < tile.blocks) {
            multiply_block(integers, codes, block, dots[(i + 1) % 2]);
        }
        const MatrixSums &ready = dots[i % 2];
        Floats factors[kSlabVectors];
        if constexpr (kHasGroups) {
            const int64_t at = factors_of_block(i, block);
            DOVETAIL_UNROLL
            for (int v = 0; v < kSlabVectors; ++v) {
                factors[v] = load_half(tile.factors + at + v * kLanes);
            }
        }
        DOVETAIL_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const Floats scale = splat(scales[r]);
            const Ints start = splat_int(starts[r]);
            DOVETAIL_UNROLL
            for (int v = 0; v < kSlabVectors; ++v) {
                const Ints exact = add(load_ints(ready[v][r]), start);
                Floats scale_of_outputs = scale;
                if constexpr (kHasGroups) {
                    scale_of_outputs = mul(scale, factors[v]);
                }
                sums[r][v] = fma(to_floats(exact), scale_of_outputs, sums[r][v]);
            }
            const int end = kLines * (r + 1) / kRows;
            DOVETAIL_UNROLL
            for (int line = kLines * r / kRows; line < end; ++line) {
                prefetch_l2(ahead + line * 64);
            }
        }
        scales += kRows;
        starts += kRows;
        ahead += kLines * 64;
    }
    finish_tile(tile, sums, kRows);
}

template <int kRows, bool kHasGroups>
void multiply_lines(const ProductTile &tile, int64_t block, int64_t lines) {
    if (lines == 32) {
        multiply_rows<kRows, 32, kHasGroups>(tile, block);
    } else if (lines == 16) {
        multiply_rows<kRows, 16, kHasGroups>(tile, block);
    } else if (lines == 8) {
        multiply_rows<kRows, 8, kHasGroups>(tile, block);
    } else if (lines == 4) {
        multiply_rows<kRows, 4, kHasGroups>(tile, block);
    } else {
        multiply_rows<kRows, 0, kHasGroups>(tile, block);
    }
}

// Multiplies a tile of kLeastMatrixRows to kRows rows.
template <int kRows>
void multiply_by_matrix_unit(const ProductTile &tile, int64_t block, LinesAhead ahead) {
    if constexpr (kRows > kLeastMatrixRows) {
        if (tile.rows < kRows) {
            multiply_by_matrix_unit<kRows - 1>(tile, block, ahead);
            return;
        }
    }
    const int64_t lines = block / 8 * ahead;
    if (tile.factors == nullptr) {
        multiply_lines<kRows, false>(tile, block, lines);
    } else {
        multiply_lines<kRows, true>(tile, block, lines);
    }
}

#else

constexpr int64_t kMatrixRows = 0;

DOVETAIL_INLINE bool pays_for_matrix_unit(int64_t, int64_t) { return false; }

class MatrixUnit {
  public:
    MatrixUnit(int64_t, int64_t) {}
};

template <int kRows>
DOVETAIL_INLINE void multiply_by_matrix_unit(const ProductTile &, int64_t, LinesAhead) {}

#endif

}  // namespace
}  // namespace dovetail

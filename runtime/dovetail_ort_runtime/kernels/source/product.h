// The product of rows and a packed weight, with what makes the rows before it.
//
// Two steps. First each row becomes integers, packed so that a tile reads them in one line. Then the slabs of 32
// outputs are shared out; a thread takes a slab from memory once and multiplies it by all tiles of rows.
#pragma once

#include "exponential.h"
#include "norm.h"
#include "product_matrix.h"
#include "product_nibbles.h"
#include "product_nibbles_matrix.h"
#include "product_tile.h"
#include "quantise.h"

namespace dovetail {
namespace {

// A product's rows as integers, tile by tile, and how its work is cut.
struct Product {
    const ProductCall &call;
    int64_t inputs;  // filled up: Kp
    int64_t blocks;
    bool uses_matrix_unit;
    int64_t tiles;
    int64_t slabs;
    int64_t slabs_of_item;
    int8_t *integers;  // (tile, Kp / 4, rows, 4), or for a matrix unit (tile, blocks, rows, block)
    float *scales;     // (tile, blocks, rows)
    int32_t *starts;   // (tile, blocks, rows), or null with 4 bits
    float *offsets;    // the same, with 4 bits

    explicit Product(const ProductCall &product_call) : call(product_call) {
        constexpr int64_t most_items = 48;
        const Weight &weight = call.weight;
        inputs = (weight.inputs + kInputPad - 1) / kInputPad * kInputPad;
        blocks = inputs / weight.block;
        uses_matrix_unit = kMatrixRows > 0 && pays_for_matrix_unit(call.rows, inputs);
        const int64_t rows_of_tile = uses_matrix_unit ? kMatrixRows : kProductRows;
        tiles = (call.rows + rows_of_tile - 1) / rows_of_tile;
        slabs = (weight.outputs + kSlab - 1) / kSlab;
        slabs_of_item = (slabs + most_items - 1) / most_items;
    }

    // The rows are divided evenly, so that no tile has few.
    int64_t first_row(int64_t tile) const { return call.rows * tile / tiles; }

    // Rows of the tile that has most.
    int64_t most_rows() const { return (call.rows + tiles - 1) / tiles; }

    int64_t tile_of(int64_t row) const { return ((row + 1) * tiles - 1) / call.rows; }

    bool find_scratch() {
        // A matrix unit may read one row behind the last.
        const size_t bytes_of_integers = static_cast<size_t>(call.rows * inputs + kInputPad);
        const size_t numbers = static_cast<size_t>(call.rows * blocks);
        void *memory = call_scratch(bytes_of_integers + numbers * (sizeof(float) + sizeof(int32_t)));
        integers = static_cast<int8_t *>(memory);
        scales = reinterpret_cast<float *>(integers + bytes_of_integers);
        starts = call.weight.bits == 8 ? reinterpret_cast<int32_t *>(scales + numbers) : nullptr;
        offsets = call.weight.bits == 8 ? nullptr : scales + numbers;
        return memory != nullptr;
    }

    QuantisedRow quantised_row(int64_t row) const {
        const int64_t tile = tile_of(row);
        const int64_t first = first_row(tile);
        const int64_t in_tile = row - first;
        const int64_t rows = first_row(tile + 1) - first;
        const int64_t from_row_to_row = uses_matrix_unit ? call.weight.block : 4;
        const int64_t at = first * blocks + in_tile;
        int32_t *starts_of_row = starts == nullptr ? nullptr : starts + at;
        float *offsets_of_row = offsets == nullptr ? nullptr : offsets + at;
        return {integers + first * inputs + in_tile * from_row_to_row,
                scales + at,
                starts_of_row,
                offsets_of_row,
                rows,
                uses_matrix_unit ? 4 : 4 * rows};
    }
};

// Quantises a row whose sixteen values at k are values_at(k).
template <class ValuesAt>
DOVETAIL_INLINE void quantise_row(const Product &product, int64_t row, ValuesAt values_at) {
    constexpr int vectors = kInputPad / kLanes;
    const QuantisedRow quantised = product.quantised_row(row);
    for (int64_t k = 0; k < product.inputs; k += kInputPad) {
        Floats values[vectors];
        for (int v = 0; v < vectors; ++v) {
            values[v] = values_at(k + v * kLanes);
        }
        if (product.call.weight.block == kInputPad) {
            quantise_block<vectors>(values, k / kInputPad, quantised);
        } else {
            quantise_block<vectors / 2>(values, k / 32, quantised);
            quantise_block<vectors / 2>(values + vectors / 2, k / 32 + 1, quantised);
        }
    }
}

DOVETAIL_INLINE Floats silu(Floats x) { return div(x, add(splat(1.0f), exp(sub(zero(), x)))); }

// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
DOVETAIL_INLINE Floats gelu_tanh(Floats x) {
    const Floats cube = mul(mul(x, x), x);
    const Floats inner = mul(splat(0x1.988454p-1f), fma(splat(0x1.6e4e26p-5f), cube, x));
    return mul(mul(splat(0.5f), x), add(splat(1.0f), tanh(inner)));
}

void quantise_plain(const Product &product, int64_t row) {
    const int64_t inputs = product.call.weight.inputs;
    const float *x = product.call.x + row * inputs;
    quantise_row(product, row, [&](int64_t k) { return load_within(x, k, inputs); });
}

template <Activation kActivation>
void quantise_gated(const Product &product, int64_t row) {
    const int64_t inputs = product.call.weight.inputs;
    const float *gate = product.call.x + row * 2 * inputs;
    const float *up = gate + inputs;
    quantise_row(product, row, [&](int64_t k) {
        const Floats x = load_within(gate, k, inputs);
        const Floats activated = kActivation == Activation::kSilu ? silu(x) : gelu_tanh(x);
        return mul(activated, load_within(up, k, inputs));
    });
}

void quantise_normed(const Product &product, int64_t row) {
    const ProductCall &call = product.call;
    const int64_t inputs = call.weight.inputs;
    const int64_t first = row * inputs;
    const ResidualRow residual{call.x + first, call.skip == nullptr ? nullptr : call.skip + first, inputs};
    const Floats factor = norm_factor(residual, call.epsilon, call.sum == nullptr ? nullptr : call.sum + first);
    quantise_row(product, row, [&](int64_t k) {
        const Floats scaled = mul(residual.at(k), factor);
        return mul(scaled, load_within(call.norm_weight, k, inputs));
    });
}

void quantise(const Product &product, int64_t row) {
    const ProductCall &call = product.call;
    if (call.prologue == Prologue::kPlain) {
        quantise_plain(product, row);
    } else if (call.prologue == Prologue::kNormed) {
        quantise_normed(product, row);
    } else if (call.activation == Activation::kSilu) {
        quantise_gated<Activation::kSilu>(product, row);
    } else {
        quantise_gated<Activation::kGeluTanh>(product, row);
    }
}

constexpr int64_t kBytesAhead = 8192;

// What a tile asks for while it multiplies a slab: its share of the next one. The first four share it.
DOVETAIL_INLINE LinesAhead ahead_of(int64_t tile, int64_t tiles) {
    if (tiles == 1) {
        return kAllLines;
    }
    if (tiles == 2 || (tiles == 3 && tile == 0)) {
        return kHalfOfLines;
    }
    return tile < 4 ? kQuarterOfLines : kNoLines;
}

DOVETAIL_INLINE int64_t factors_of_slab(const Weight &weight, int64_t inputs) {
    return weight.bits == 8 ? inputs / kGroup * kSlab : inputs / kNibbleGroup * 2 * kSlab;
}

void multiply_packed(const ProductTile &tile, const Weight &weight, bool uses_matrix_unit, LinesAhead ahead) {
    if (weight.bits == 8 && uses_matrix_unit) {
        multiply_by_matrix_unit<kMatrixRows>(tile, weight.block, ahead);
    } else if (weight.bits == 8) {
        multiply_by_vectors<kProductRows>(tile, weight.block, ahead);
    } else if (uses_matrix_unit) {
        multiply_nibbles_by_matrix_unit<kMatrixRows>(tile, ahead);
    } else {
        multiply_nibbles<kProductRows>(tile, ahead);
    }
}

void multiply_slab(const Product &product, int64_t slab) {
    const ProductCall &call = product.call;
    const Weight &weight = call.weight;
    const int64_t bytes = product.inputs * kSlab * weight.bits / 8;
    const int64_t first_output = slab * kSlab;
    const int64_t outputs_left = weight.outputs - first_output;
    ProductTile tile;
    tile.blocks = product.blocks;
    tile.codes = weight.codes + slab * bytes;
    // A tile alone asks for what it reads next itself; several share the next slab.
    tile.ahead = tile.codes + (product.tiles == 1 ? kBytesAhead : bytes);
    tile.factors =
        weight.factors == nullptr ? nullptr : weight.factors + slab * factors_of_slab(weight, product.inputs);
    tile.output_scales = weight.scales + first_output;
    tile.bias = weight.bias == nullptr ? nullptr : weight.bias + first_output;
    tile.outputs = static_cast<int>(outputs_left < kSlab ? outputs_left : kSlab);
    tile.y_stride = weight.outputs;
    for (int64_t i = 0; i < product.tiles; ++i) {
        const int64_t row = product.first_row(i);
        const LinesAhead ahead = ahead_of(i, product.tiles);
        tile.rows = product.first_row(i + 1) - row;
        tile.integers = product.integers + row * product.inputs;
        tile.scales = product.scales + row * product.blocks;
        tile.starts = weight.bits == 8 ? product.starts + row * product.blocks : nullptr;
        tile.offsets = weight.bits == 8 ? nullptr : product.offsets + row * product.blocks;
        tile.y = call.y + row * weight.outputs + first_output;
        multiply_packed(tile, weight, product.uses_matrix_unit, ahead);
        tile.ahead += bytes / 4 * ahead;
    }
}

const char *product(const ProductCall &call, const Pool &pool) {
    constexpr int64_t least_values = 16384;  // of work for more than one thread
    if (call.rows == 0) {
        return nullptr;
    }
    Product work(call);
    if (!work.find_scratch()) {
        return "There is no memory for the integers of a product's rows; give it fewer rows at a time.";
    }

    const auto row = [&](size_t index) { quantise(work, static_cast<int64_t>(index)); };
    const int64_t cost = call.prologue == Prologue::kPlain ? 1 : 3;
    run_items(pool, call.rows * work.inputs * cost >= least_values, call.rows, row);

    const auto item = [&](size_t index) {
        const int64_t first = static_cast<int64_t>(index) * work.slabs_of_item;
        const int64_t end = first + work.slabs_of_item < work.slabs ? first + work.slabs_of_item : work.slabs;
        const MatrixUnit unit(work.uses_matrix_unit ? work.most_rows() : 0, call.weight.block);
        for (int64_t slab = first; slab < end; ++slab) {
            multiply_slab(work, slab);
        }
    };
    const int64_t items = (work.slabs + work.slabs_of_item - 1) / work.slabs_of_item;
    run_parallel(pool, static_cast<size_t>(items), item);
    return nullptr;
}

}  // namespace
}  // namespace dovetail

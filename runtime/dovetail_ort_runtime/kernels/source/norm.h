// The root-mean-square norm of rows, with the residual that comes before it.
#pragma once

#include "floating_mode.h"

namespace dovetail {
namespace {

// Sixteen values at k; what lies behind the row's end is 0.
DOVETAIL_INLINE Floats load_within(const float *row, int64_t k, int64_t inputs) {
    if (k + kLanes <= inputs) {
        return load(row + k);
    }
    if (k < inputs) {
        return load_first(row + k, static_cast<int>(inputs - k));
    }
    return zero();
}

DOVETAIL_INLINE void store_within(float *row, Floats x, int64_t k, int64_t inputs) {
    if (k + kLanes <= inputs) {
        store(row + k, x);
    } else {
        store_first(row + k, x, static_cast<int>(inputs - k));
    }
}

// One row of x + skip, as if it lay in memory.
struct ResidualRow {
    const float *x;
    const float *skip;  // or null
    int64_t inputs;

    DOVETAIL_INLINE Floats at(int64_t k) const {
        const Floats values = load_within(x, k, inputs);
        if (skip == nullptr) {
            return values;
        }
        return add(values, load_within(skip, k, inputs));
    }
};

// What a row is multiplied by, in all lanes: 1 / sqrt(mean of squares + epsilon). Writes the row to sum_of_row unless
// that is null.
DOVETAIL_INLINE Floats norm_factor(const ResidualRow &row, float epsilon, float *sum_of_row) {
    Floats squares = zero();
    for (int64_t k = 0; k < row.inputs; k += kLanes) {
        const Floats values = row.at(k);
        squares = fma(values, values, squares);
        if (sum_of_row != nullptr) {
            store_within(sum_of_row, values, k, row.inputs);
        }
    }
    const float mean = sum(squares) / static_cast<float>(row.inputs);
    return div(splat(1.0f), root(splat(mean + epsilon)));
}

void norm_row(const NormCall &call, size_t index) {
    const int64_t first = static_cast<int64_t>(index) * call.inputs;
    const ResidualRow row{call.x + first, call.skip == nullptr ? nullptr : call.skip + first, call.inputs};
    const Floats factor = norm_factor(row, call.epsilon, call.sum == nullptr ? nullptr : call.sum + first);
    for (int64_t k = 0; k < call.inputs; k += kLanes) {
        const Floats scaled = mul(row.at(k), factor);
        store_within(call.y + first, mul(scaled, load_within(call.weight, k, call.inputs)), k, call.inputs);
    }
}

const char *norm(const NormCall &call, const Pool &pool) {
    constexpr int64_t least_values = 16384;  // of work for more than one thread
    const auto row = [&](size_t index) { norm_row(call, index); };
    run_items(pool, call.rows * call.inputs >= least_values, call.rows, row);
    return nullptr;
}

}  // namespace
}  // namespace dovetail

// Powers, exponentials and tanh of fixed operations, so that their bits are the same at every level.
//
// The coefficients are minimax fits whose leading ones were rounded to float32 before the later ones were fitted.
#pragma once

#include "lanes.h"

namespace dovetail {
namespace {

// 2^f for -0.5 <= f <= 0.5; the fit is off by 3e-9 of the value, and exact at 0.
DOVETAIL_INLINE Floats exp2_of_fraction(Floats f) {
    Floats y = splat(0x1.416b52p-13f);
    y = fma(y, f, splat(0x1.5f082ep-10f));
    y = fma(y, f, splat(0x1.3b2de0p-7f));
    y = fma(y, f, splat(0x1.c6af7cp-5f));
    y = fma(y, f, splat(0x1.ebfbdcp-3f));
    y = fma(y, f, splat(0x1.62e430p-1f));
    return fma(y, f, splat(1.0f));
}

// y * 2^n for y = 2^f, where exponent = n + f, rounded once. Below -126 it is 0, from 127.5 on infinity; where the
// exponent is NaN, it is NaN.
DOVETAIL_INLINE Floats scaled_by_power(Floats y, Ints n, Floats exponent) {
    const Floats scaled = from_bits(add(bits(y), shift_left_23(n)));
    const Floats infinity_or_nan = add(from_bits(splat_int(0x7f800000)), exponent);
    const Floats bounded = select(less(exponent, splat(127.5f)), scaled, infinity_or_nan);
    return select(less(exponent, splat(-126.0f)), zero(), bounded);
}

// 2^x. Below 2^-126 it is 0, from 2^127.5 on infinity; NaN stays NaN.
DOVETAIL_INLINE Floats exp2(Floats x) {
    const Ints n = round_to_ints(x);
    const Floats fraction = sub(x, to_floats(n));
    return scaled_by_power(exp2_of_fraction(fraction), n, x);
}

// e^x, with the range of exp2.
DOVETAIL_INLINE Floats exp(Floats x) {
    const Floats log2_e = splat(0x1.715476p+0f);
    const Floats log2_e_rest = splat(0x1.4ae0c0p-26f);
    const Floats exponent = mul(x, log2_e);
    const Ints n = round_to_ints(exponent);
    const Floats negative_n = sub(zero(), to_floats(n));
    Floats fraction = fma(x, log2_e, negative_n);
    fraction = fma(x, log2_e_rest, fraction);
    return scaled_by_power(exp2_of_fraction(fraction), n, exponent);
}

// tanh(x): an odd polynomial near 0, 1 - 2 / (e^2|x| + 1) elsewhere.
DOVETAIL_INLINE Floats tanh(Floats x) {
    const Floats square = mul(x, x);
    Floats series = splat(-0x1.750ce4p-8f);
    series = fma(series, square, splat(0x1.51f8cep-6f));
    series = fma(series, square, splat(-0x1.b835a4p-5f));
    series = fma(series, square, splat(0x1.1106f6p-3f));
    series = fma(series, square, splat(-0x1.555532p-2f));
    const Floats near_zero = fma(mul(series, square), x, x);

    const Floats magnitude = absolute(x);
    const Floats power = exp(add(magnitude, magnitude));
    const Floats far = sub(splat(1.0f), div(splat(2.0f), add(power, splat(1.0f))));
    const Floats signed_far = select(less(x, zero()), sub(zero(), far), far);
    return select(less(magnitude, splat(0.625f)), near_zero, signed_far);
}

}  // namespace
}  // namespace dovetail

// Sixteen lanes, the same at every level: the same operations, in the same order, with the same bits.
//
// The names that a level gives:
//
//     Floats, Ints, Mask        16 float32, 16 int32, 16 conditions
//     Codes                     64 codes of a weight: 16 outputs times 4 inputs
//     Nibbles                   the same in 4 bits: 64 codes of 0 to 15; NibblePair is low and high, 64 of each
//     Fours                     four activations, the same ones in all lanes
//
//     load, store               16 float32; load_first and store_first: the first n lanes, the others are 0 or kept
//     load_half, store_half     16 float16; store_half rounds to nearest even, saturates at 65504 and keeps NaN
//     load_ints, store_ints     16 int32
//     store_bytes               16 int32 within -128 and 127, as 16 int8
//     splat, splat_int, zero    the same value in all lanes
//     add, sub, mul, div        one rounding each
//     fma(a, b, c)              a * b + c with one rounding
//     root, absolute            square root, magnitude
//     less(a, b)                false where a or b is NaN
//     select(mask, a, b)        a where the mask is set, b elsewhere
//     first_lanes(n)            the lanes below n
//     any(mask)                 whether one is set
//     bits, from_bits           the same 32 bits, read as the other type
//     round_to_ints             to nearest even; for magnitudes below 2^22 only, any value for others
//     to_floats                 exact for magnitudes up to 2^24
//     add, maximum              of Ints; shift_left_23 drops what is shifted out
//     largest, total            the largest lane, the sum of all lanes, which must fit (Ints)
//     sum                       of Floats: lanes i and i + 8 first, then i and i + 4, i + 2, i + 1
//     load_codes                64 bytes
//     load_nibbles              64 bytes: the low halves of all, and the high halves
//     load_fours                4 bytes, to all lanes
//     dot4_start(n)             what a sum of dot4 begins with; n is -128 times the sum of its activations
//     dot4(sum, codes, fours)   sum[lane] += the four (code - 128) * activation of that lane; exact
//     dot4(sum, nibbles, fours) sum[lane] += the four code * activation of that lane; exact
//     prefetch_l2               asks for the cache line at an address; never fails
//
// With the constants of a level, which change no bit:
//
//     kProductRows, kProductVectors          a product's tile: rows, and vectors of 16 outputs
//     kAttentionQueries, kAttentionVectors   an attention's tile: queries, and vectors of 16 positions or inputs
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

#if defined(_MSC_VER) && !defined(__clang__)
#define DOVETAIL_INLINE __forceinline
#define DOVETAIL_NOINLINE __declspec(noinline)
#define DOVETAIL_UNROLL
#else
#define DOVETAIL_INLINE inline __attribute__((always_inline))
#define DOVETAIL_NOINLINE __attribute__((noinline))
#define DOVETAIL_UNROLL _Pragma("GCC unroll 16")
#endif

// The build names the level that it compiles: -DDOVETAIL_LEVEL=avx2.
#define DOVETAIL_LEVEL_portable 1
#define DOVETAIL_LEVEL_avx2 2
#define DOVETAIL_LEVEL_avxvnni 3
#define DOVETAIL_LEVEL_avx512vnni 4
#define DOVETAIL_LEVEL_neon 5
#define DOVETAIL_LEVEL_avx512amx 6
#define DOVETAIL_PASTE(a, b) a##b
#define DOVETAIL_NUMBER_OF(level) DOVETAIL_PASTE(DOVETAIL_LEVEL_, level)
#define DOVETAIL_LEVEL_IS(level) (DOVETAIL_NUMBER_OF(DOVETAIL_LEVEL) == DOVETAIL_LEVEL_##level)

#if DOVETAIL_LEVEL_IS(avx512vnni) || DOVETAIL_LEVEL_IS(avx512amx)
#include "lanes_avx512.h"
#elif DOVETAIL_LEVEL_IS(avx2) || DOVETAIL_LEVEL_IS(avxvnni)
#include "lanes_avx2.h"
#elif DOVETAIL_LEVEL_IS(neon)
#include "lanes_neon.h"
#else
#include "lanes_portable.h"
#endif

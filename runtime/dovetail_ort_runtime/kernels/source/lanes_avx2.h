// The lanes with AVX2, and with AVX-VNNI beside it: two registers of 256 bits.
#pragma once

#include <immintrin.h>

#include <cstring>

namespace dovetail {
namespace {

constexpr int kProductRows = 4;
constexpr int kProductVectors = 1;
constexpr int kAttentionQueries = 3;
constexpr int kAttentionVectors = 2;

struct Floats {
    __m256 low;
    __m256 high;
};

struct Ints {
    __m256i low;
    __m256i high;
};

struct Mask {
    __m256 low;
    __m256 high;
};

DOVETAIL_INLINE Mask first_lanes(int n) {
    const __m256i count = _mm256_set1_epi32(n);
    const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(count, low)), _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, high))};
}

DOVETAIL_INLINE Floats load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }

DOVETAIL_INLINE Floats load_first(const float *p, int n) {
    const Mask mask = first_lanes(n);
    return {_mm256_maskload_ps(p, _mm256_castps_si256(mask.low)),
            _mm256_maskload_ps(p + 8, _mm256_castps_si256(mask.high))};
}

DOVETAIL_INLINE Floats load_half(const uint16_t *p) {
    const __m128i *eight = reinterpret_cast<const __m128i *>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(eight)), _mm256_cvtph_ps(_mm_loadu_si128(eight + 1))};
}

DOVETAIL_INLINE Ints load_ints(const int32_t *p) {
    const __m256i *eight = reinterpret_cast<const __m256i *>(p);
    return {_mm256_loadu_si256(eight), _mm256_loadu_si256(eight + 1)};
}

DOVETAIL_INLINE void store(float *p, Floats x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
}

DOVETAIL_INLINE void store_first(float *p, Floats x, int n) {
    const Mask mask = first_lanes(n);
    _mm256_maskstore_ps(p, _mm256_castps_si256(mask.low), x.low);
    _mm256_maskstore_ps(p + 8, _mm256_castps_si256(mask.high), x.high);
}

DOVETAIL_INLINE __m128i half_of(__m256 x) {
    // A minimum with NaN is its second operand.
    const __m256 below = _mm256_min_ps(_mm256_set1_ps(65504.0f), x);
    const __m256 within = _mm256_max_ps(_mm256_set1_ps(-65504.0f), below);
    return _mm256_cvtps_ph(within, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

DOVETAIL_INLINE void store_half(uint16_t *p, Floats x) {
    __m128i *eight = reinterpret_cast<__m128i *>(p);
    _mm_storeu_si128(eight, half_of(x.low));
    _mm_storeu_si128(eight + 1, half_of(x.high));
}

DOVETAIL_INLINE void store_ints(int32_t *p, Ints x) {
    __m256i *eight = reinterpret_cast<__m256i *>(p);
    _mm256_storeu_si256(eight, x.low);
    _mm256_storeu_si256(eight + 1, x.high);
}

DOVETAIL_INLINE void store_bytes(int8_t *p, Ints x) {
    const __m256i interleaved = _mm256_packs_epi32(x.low, x.high);
    const __m256i sixteen = _mm256_permute4x64_epi64(interleaved, _MM_SHUFFLE(3, 1, 2, 0));
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(sixteen), _mm256_extracti128_si256(sixteen, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), bytes);
}

DOVETAIL_INLINE Floats splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

DOVETAIL_INLINE Ints splat_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }

DOVETAIL_INLINE Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }

DOVETAIL_INLINE Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }

DOVETAIL_INLINE Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }

DOVETAIL_INLINE Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }

DOVETAIL_INLINE Floats div(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }

DOVETAIL_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

DOVETAIL_INLINE Floats root(Floats a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }

DOVETAIL_INLINE Floats absolute(Floats a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}

DOVETAIL_INLINE Mask less(Floats a, Floats b) {
    return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}

DOVETAIL_INLINE bool any(Mask mask) { return _mm256_movemask_ps(_mm256_or_ps(mask.low, mask.high)) != 0; }

DOVETAIL_INLINE Floats select(Mask mask, Floats a, Floats b) {
    return {_mm256_blendv_ps(b.low, a.low, mask.low), _mm256_blendv_ps(b.high, a.high, mask.high)};
}

DOVETAIL_INLINE Ints bits(Floats x) { return {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)}; }

DOVETAIL_INLINE Floats from_bits(Ints x) { return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)}; }

DOVETAIL_INLINE Ints select(Mask mask, Ints a, Ints b) { return bits(select(mask, from_bits(a), from_bits(b))); }

DOVETAIL_INLINE Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }

DOVETAIL_INLINE Ints maximum(Ints a, Ints b) {
    return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
}

DOVETAIL_INLINE Ints shift_left_23(Ints a) { return {_mm256_slli_epi32(a.low, 23), _mm256_slli_epi32(a.high, 23)}; }

DOVETAIL_INLINE Ints round_to_ints(Floats x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }

DOVETAIL_INLINE Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }

DOVETAIL_INLINE int32_t largest(Ints x) {
    const __m256i eight = _mm256_max_epi32(x.low, x.high);
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
    const __m128i one = _mm_max_epi32(two, _mm_shuffle_epi32(two, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtsi128_si32(one);
}

DOVETAIL_INLINE int32_t total(Ints x) {
    const __m256i eight = _mm256_add_epi32(x.low, x.high);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
    const __m128i one = _mm_add_epi32(two, _mm_shuffle_epi32(two, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtsi128_si32(one);
}

DOVETAIL_INLINE float sum(Floats x) {
    const __m256 eight = _mm256_add_ps(x.low, x.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    const __m128 one = _mm_add_ss(two, _mm_movehdup_ps(two));
    return _mm_cvtss_f32(one);
}

struct Fours {
    __m256i v;
};

struct Nibbles {
    __m256i low;
    __m256i high;
};

struct NibblePair {
    Nibbles low;
    Nibbles high;
};

DOVETAIL_INLINE NibblePair load_nibbles(const uint8_t *p) {
    const __m256i *half = reinterpret_cast<const __m256i *>(p);
    const __m256i low_half = _mm256_set1_epi8(15);
    const __m256i first = _mm256_loadu_si256(half);
    const __m256i second = _mm256_loadu_si256(half + 1);
    return {{_mm256_and_si256(first, low_half), _mm256_and_si256(second, low_half)},
            {_mm256_and_si256(_mm256_srli_epi16(first, 4), low_half),
             _mm256_and_si256(_mm256_srli_epi16(second, 4), low_half)}};
}

DOVETAIL_INLINE Fours load_fours(const int8_t *p) {
    int32_t four;
    std::memcpy(&four, p, sizeof four);
    return {_mm256_set1_epi32(four)};
}

#if DOVETAIL_LEVEL_IS(avxvnni)

struct Codes {
    __m256i low;
    __m256i high;
};

DOVETAIL_INLINE Codes load_codes(const uint8_t *p) {
    const __m256i *half = reinterpret_cast<const __m256i *>(p);
    return {_mm256_loadu_si256(half), _mm256_loadu_si256(half + 1)};
}

// The sums are of code * activation: what is too much is taken away before they begin.
DOVETAIL_INLINE Ints dot4_start(int32_t minus_128_times_sum) { return splat_int(minus_128_times_sum); }

DOVETAIL_INLINE void dot4(Ints &sum, const Codes &codes, const Fours &fours) {
    sum.low = _mm256_dpbusd_avx_epi32(sum.low, codes.low, fours.v);
    sum.high = _mm256_dpbusd_avx_epi32(sum.high, codes.high, fours.v);
}

DOVETAIL_INLINE void dot4(Ints &sum, const Nibbles &nibbles, const Fours &fours) {
    sum.low = _mm256_dpbusd_avx_epi32(sum.low, nibbles.low, fours.v);
    sum.high = _mm256_dpbusd_avx_epi32(sum.high, nibbles.high, fours.v);
}

#else

// Integers w = code - 128 and their magnitudes: |w| times the activation with the sign of w needs no more than 16 bits,
// 2 * 128 * 127 at most, in the sum of two that maddubs makes.
struct Codes {
    __m256i low;
    __m256i high;
    __m256i low_magnitude;
    __m256i high_magnitude;
};

DOVETAIL_INLINE Codes load_codes(const uint8_t *p) {
    const __m256i *half = reinterpret_cast<const __m256i *>(p);
    const __m256i top = _mm256_set1_epi8(static_cast<char>(0x80));
    const __m256i low = _mm256_xor_si256(_mm256_loadu_si256(half), top);
    const __m256i high = _mm256_xor_si256(_mm256_loadu_si256(half + 1), top);
    return {low, high, _mm256_abs_epi8(low), _mm256_abs_epi8(high)};
}

DOVETAIL_INLINE Ints dot4_start(int32_t) { return splat_int(0); }

DOVETAIL_INLINE __m256i dot4_of(__m256i codes, __m256i magnitudes, __m256i fours) {
    const __m256i pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(fours, codes));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

DOVETAIL_INLINE void dot4(Ints &sum, const Codes &codes, const Fours &fours) {
    sum.low = _mm256_add_epi32(sum.low, dot4_of(codes.low, codes.low_magnitude, fours.v));
    sum.high = _mm256_add_epi32(sum.high, dot4_of(codes.high, codes.high_magnitude, fours.v));
}

// 2 * 15 * 127 at most in the sum of two.
DOVETAIL_INLINE __m256i dot4_of(__m256i nibbles, __m256i fours) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(nibbles, fours), _mm256_set1_epi16(1));
}

DOVETAIL_INLINE void dot4(Ints &sum, const Nibbles &nibbles, const Fours &fours) {
    sum.low = _mm256_add_epi32(sum.low, dot4_of(nibbles.low, fours.v));
    sum.high = _mm256_add_epi32(sum.high, dot4_of(nibbles.high, fours.v));
}

#endif

DOVETAIL_INLINE void prefetch_l2(const void *p) { _mm_prefetch(static_cast<const char *>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace dovetail

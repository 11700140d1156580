// The lanes with AVX-512, and with AMX beside it: one register of 512 bits.
#pragma once

#include <cstring>

#if defined(__GNUC__) && !defined(__clang__)
// gcc 12 warns of the undefined operands in its own header.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

namespace dovetail {
namespace {

constexpr int kProductRows = 6;
constexpr int kProductVectors = 2;
constexpr int kAttentionQueries = 6;
constexpr int kAttentionVectors = 4;

struct Floats {
    __m512 v;
};

struct Ints {
    __m512i v;
};

struct Mask {
    __mmask16 v;
};

struct Codes {
    __m512i v;
};

struct Nibbles {
    __m512i v;
};

struct NibblePair {
    Nibbles low;
    Nibbles high;
};

struct Fours {
    __m512i v;
};

DOVETAIL_INLINE Mask first_lanes(int n) { return {static_cast<__mmask16>((1u << n) - 1)}; }

DOVETAIL_INLINE Floats load(const float *p) { return {_mm512_loadu_ps(p)}; }

DOVETAIL_INLINE Floats load_first(const float *p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n).v, p)}; }

DOVETAIL_INLINE Floats load_half(const uint16_t *p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))};
}

DOVETAIL_INLINE Ints load_ints(const int32_t *p) { return {_mm512_loadu_si512(p)}; }

DOVETAIL_INLINE void store(float *p, Floats x) { _mm512_storeu_ps(p, x.v); }

DOVETAIL_INLINE void store_first(float *p, Floats x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n).v, x.v); }

DOVETAIL_INLINE void store_half(uint16_t *p, Floats x) {
    // A minimum with NaN is its second operand.
    const __m512 below = _mm512_min_ps(_mm512_set1_ps(65504.0f), x.v);
    const __m512 within = _mm512_max_ps(_mm512_set1_ps(-65504.0f), below);
    const __m256i half = _mm512_cvtps_ph(within, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), half);
}

DOVETAIL_INLINE void store_ints(int32_t *p, Ints x) { _mm512_storeu_si512(p, x.v); }

DOVETAIL_INLINE void store_bytes(int8_t *p, Ints x) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(x.v));
}

DOVETAIL_INLINE Floats splat(float x) { return {_mm512_set1_ps(x)}; }

DOVETAIL_INLINE Ints splat_int(int32_t x) { return {_mm512_set1_epi32(x)}; }

DOVETAIL_INLINE Floats zero() { return {_mm512_setzero_ps()}; }

DOVETAIL_INLINE Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }

DOVETAIL_INLINE Floats sub(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }

DOVETAIL_INLINE Floats mul(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }

DOVETAIL_INLINE Floats div(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }

DOVETAIL_INLINE Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

DOVETAIL_INLINE Floats root(Floats a) { return {_mm512_sqrt_ps(a.v)}; }

DOVETAIL_INLINE Floats absolute(Floats a) { return {_mm512_abs_ps(a.v)}; }

DOVETAIL_INLINE Mask less(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }

DOVETAIL_INLINE bool any(Mask mask) { return mask.v != 0; }

DOVETAIL_INLINE Floats select(Mask mask, Floats a, Floats b) { return {_mm512_mask_blend_ps(mask.v, b.v, a.v)}; }

DOVETAIL_INLINE Ints select(Mask mask, Ints a, Ints b) { return {_mm512_mask_blend_epi32(mask.v, b.v, a.v)}; }

DOVETAIL_INLINE Ints bits(Floats x) { return {_mm512_castps_si512(x.v)}; }

DOVETAIL_INLINE Floats from_bits(Ints x) { return {_mm512_castsi512_ps(x.v)}; }

DOVETAIL_INLINE Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }

DOVETAIL_INLINE Ints maximum(Ints a, Ints b) { return {_mm512_max_epi32(a.v, b.v)}; }

DOVETAIL_INLINE Ints shift_left_23(Ints a) { return {_mm512_slli_epi32(a.v, 23)}; }

DOVETAIL_INLINE Ints round_to_ints(Floats x) { return {_mm512_cvtps_epi32(x.v)}; }

DOVETAIL_INLINE Floats to_floats(Ints x) { return {_mm512_cvtepi32_ps(x.v)}; }

DOVETAIL_INLINE int32_t largest(Ints x) { return _mm512_reduce_max_epi32(x.v); }

DOVETAIL_INLINE int32_t total(Ints x) { return _mm512_reduce_add_epi32(x.v); }

DOVETAIL_INLINE float sum(Floats x) {
    const __m256 low = _mm512_castps512_ps256(x.v);
    const __m256 high = _mm512_extractf32x8_ps(x.v, 1);
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    const __m128 one = _mm_add_ss(two, _mm_movehdup_ps(two));
    return _mm_cvtss_f32(one);
}

DOVETAIL_INLINE Codes load_codes(const uint8_t *p) { return {_mm512_loadu_si512(p)}; }

DOVETAIL_INLINE NibblePair load_nibbles(const uint8_t *p) {
    const __m512i bytes = _mm512_loadu_si512(p);
    const __m512i low_half = _mm512_set1_epi8(15);
    return {{_mm512_and_si512(bytes, low_half)}, {_mm512_and_si512(_mm512_srli_epi16(bytes, 4), low_half)}};
}

DOVETAIL_INLINE Fours load_fours(const int8_t *p) {
    int32_t four;
    std::memcpy(&four, p, sizeof four);
    return {_mm512_set1_epi32(four)};
}

// The sums are of code * activation: what is too much is taken away before they begin.
DOVETAIL_INLINE Ints dot4_start(int32_t minus_128_times_sum) { return splat_int(minus_128_times_sum); }

DOVETAIL_INLINE void dot4_of_bytes(Ints &sum, __m512i codes, __m512i fours) {
#if defined(__GNUC__) && !defined(__clang__)
    // In place: gcc 12 copies and spills the sums of the intrinsic where many of them live.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(codes), "v"(fours));
#else
    sum.v = _mm512_dpbusd_epi32(sum.v, codes, fours);
#endif
}

DOVETAIL_INLINE void dot4(Ints &sum, const Codes &codes, const Fours &fours) { dot4_of_bytes(sum, codes.v, fours.v); }

DOVETAIL_INLINE void dot4(Ints &sum, const Nibbles &nibbles, const Fours &fours) {
    dot4_of_bytes(sum, nibbles.v, fours.v);
}

DOVETAIL_INLINE void prefetch_l2(const void *p) { _mm_prefetch(static_cast<const char *>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace dovetail

// The lanes with NEON and its dot products: four registers of 128 bits.
#pragma once

#include <arm_neon.h>

#include <cstring>

namespace dovetail {
namespace {

constexpr int kProductRows = 4;
constexpr int kProductVectors = 1;
constexpr int kAttentionQueries = 4;
constexpr int kAttentionVectors = 1;

struct Floats {
    float32x4_t part[4];
};

struct Ints {
    int32x4_t part[4];
};

struct Mask {
    uint32x4_t part[4];
};

struct Codes {
    int8x16_t part[4];  // code - 128
};

struct Nibbles {
    int8x16_t part[4];
};

struct NibblePair {
    Nibbles low;
    Nibbles high;
};

struct Fours {
    int8x16_t v;
};

template <class Part>
DOVETAIL_INLINE Floats floats_of(Part part) {
    return {{part(0), part(1), part(2), part(3)}};
}

template <class Part>
DOVETAIL_INLINE Ints ints_of(Part part) {
    return {{part(0), part(1), part(2), part(3)}};
}

template <class Part>
DOVETAIL_INLINE Mask mask_of(Part part) {
    return {{part(0), part(1), part(2), part(3)}};
}

DOVETAIL_INLINE Mask first_lanes(int n) {
    const uint32_t counted[4] = {0, 1, 2, 3};
    const uint32x4_t lanes = vld1q_u32(counted);
    return mask_of([&](int i) {
        return vcltq_u32(vaddq_u32(lanes, vdupq_n_u32(static_cast<uint32_t>(4 * i))),
                         vdupq_n_u32(static_cast<uint32_t>(n)));
    });
}

DOVETAIL_INLINE Floats load(const float *p) {
    return floats_of([&](int i) { return vld1q_f32(p + 4 * i); });
}

DOVETAIL_INLINE void store(float *p, Floats x) {
    vst1q_f32(p, x.part[0]);
    vst1q_f32(p + 4, x.part[1]);
    vst1q_f32(p + 8, x.part[2]);
    vst1q_f32(p + 12, x.part[3]);
}

DOVETAIL_INLINE Floats load_first(const float *p, int n) {
    if (n == kLanes) {
        return load(p);
    }
    float lanes[kLanes] = {};
    std::memcpy(lanes, p, static_cast<size_t>(n) * sizeof(float));
    return load(lanes);
}

DOVETAIL_INLINE void store_first(float *p, Floats x, int n) {
    if (n == kLanes) {
        store(p, x);
        return;
    }
    float lanes[kLanes];
    store(lanes, x);
    std::memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
}

DOVETAIL_INLINE Floats load_half(const uint16_t *p) {
    return floats_of([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}

DOVETAIL_INLINE void store_half(uint16_t *p, Floats x) {
    for (int i = 0; i < 4; ++i) {
        const float32x4_t below = vminq_f32(x.part[i], vdupq_n_f32(65504.0f));
        const float32x4_t within = vmaxq_f32(below, vdupq_n_f32(-65504.0f));
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(within)));
    }
}

DOVETAIL_INLINE Ints load_ints(const int32_t *p) {
    return ints_of([&](int i) { return vld1q_s32(p + 4 * i); });
}

DOVETAIL_INLINE void store_ints(int32_t *p, Ints x) {
    vst1q_s32(p, x.part[0]);
    vst1q_s32(p + 4, x.part[1]);
    vst1q_s32(p + 8, x.part[2]);
    vst1q_s32(p + 12, x.part[3]);
}

DOVETAIL_INLINE void store_bytes(int8_t *p, Ints x) {
    const int16x8_t low = vcombine_s16(vmovn_s32(x.part[0]), vmovn_s32(x.part[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(x.part[2]), vmovn_s32(x.part[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

DOVETAIL_INLINE Floats splat(float x) {
    return floats_of([&](int) { return vdupq_n_f32(x); });
}

DOVETAIL_INLINE Ints splat_int(int32_t x) {
    return ints_of([&](int) { return vdupq_n_s32(x); });
}

DOVETAIL_INLINE Floats zero() { return splat(0.0f); }

DOVETAIL_INLINE Floats add(Floats a, Floats b) {
    return floats_of([&](int i) { return vaddq_f32(a.part[i], b.part[i]); });
}

DOVETAIL_INLINE Floats sub(Floats a, Floats b) {
    return floats_of([&](int i) { return vsubq_f32(a.part[i], b.part[i]); });
}

DOVETAIL_INLINE Floats mul(Floats a, Floats b) {
    return floats_of([&](int i) { return vmulq_f32(a.part[i], b.part[i]); });
}

DOVETAIL_INLINE Floats div(Floats a, Floats b) {
    return floats_of([&](int i) { return vdivq_f32(a.part[i], b.part[i]); });
}

DOVETAIL_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return floats_of([&](int i) { return vfmaq_f32(c.part[i], a.part[i], b.part[i]); });
}

DOVETAIL_INLINE Floats root(Floats a) {
    return floats_of([&](int i) { return vsqrtq_f32(a.part[i]); });
}

DOVETAIL_INLINE Floats absolute(Floats a) {
    return floats_of([&](int i) { return vabsq_f32(a.part[i]); });
}

DOVETAIL_INLINE Mask less(Floats a, Floats b) {
    return mask_of([&](int i) { return vcltq_f32(a.part[i], b.part[i]); });
}

DOVETAIL_INLINE bool any(Mask mask) {
    const uint32x4_t low = vorrq_u32(mask.part[0], mask.part[1]);
    const uint32x4_t high = vorrq_u32(mask.part[2], mask.part[3]);
    return vmaxvq_u32(vorrq_u32(low, high)) != 0;
}

DOVETAIL_INLINE Floats select(Mask mask, Floats a, Floats b) {
    return floats_of([&](int i) { return vbslq_f32(mask.part[i], a.part[i], b.part[i]); });
}

DOVETAIL_INLINE Ints select(Mask mask, Ints a, Ints b) {
    return ints_of([&](int i) { return vbslq_s32(mask.part[i], a.part[i], b.part[i]); });
}

DOVETAIL_INLINE Ints bits(Floats x) {
    return ints_of([&](int i) { return vreinterpretq_s32_f32(x.part[i]); });
}

DOVETAIL_INLINE Floats from_bits(Ints x) {
    return floats_of([&](int i) { return vreinterpretq_f32_s32(x.part[i]); });
}

DOVETAIL_INLINE Ints add(Ints a, Ints b) {
    return ints_of([&](int i) { return vaddq_s32(a.part[i], b.part[i]); });
}

DOVETAIL_INLINE Ints maximum(Ints a, Ints b) {
    return ints_of([&](int i) { return vmaxq_s32(a.part[i], b.part[i]); });
}

DOVETAIL_INLINE Ints shift_left_23(Ints a) {
    return ints_of([&](int i) { return vshlq_n_s32(a.part[i], 23); });
}

DOVETAIL_INLINE Ints round_to_ints(Floats x) {
    return ints_of([&](int i) { return vcvtnq_s32_f32(x.part[i]); });
}

DOVETAIL_INLINE Floats to_floats(Ints x) {
    return floats_of([&](int i) { return vcvtq_f32_s32(x.part[i]); });
}

DOVETAIL_INLINE int32_t largest(Ints x) {
    const int32x4_t low = vmaxq_s32(x.part[0], x.part[1]);
    const int32x4_t high = vmaxq_s32(x.part[2], x.part[3]);
    return vmaxvq_s32(vmaxq_s32(low, high));
}

DOVETAIL_INLINE int32_t total(Ints x) {
    const int32x4_t low = vaddq_s32(x.part[0], x.part[1]);
    const int32x4_t high = vaddq_s32(x.part[2], x.part[3]);
    return vaddvq_s32(vaddq_s32(low, high));
}

DOVETAIL_INLINE float sum(Floats x) {
    const float32x4_t first = vaddq_f32(x.part[0], x.part[2]);
    const float32x4_t second = vaddq_f32(x.part[1], x.part[3]);
    const float32x4_t four = vaddq_f32(first, second);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

DOVETAIL_INLINE Codes load_codes(const uint8_t *p) {
    const uint8x16_t top = vdupq_n_u8(0x80);
    Codes codes;
    for (int i = 0; i < 4; ++i) {
        codes.part[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * i), top));
    }
    return codes;
}

DOVETAIL_INLINE NibblePair load_nibbles(const uint8_t *p) {
    NibblePair pair;
    for (int i = 0; i < 4; ++i) {
        const uint8x16_t bytes = vld1q_u8(p + 16 * i);
        pair.low.part[i] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
        pair.high.part[i] = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
    }
    return pair;
}

DOVETAIL_INLINE Fours load_fours(const int8_t *p) {
    int32_t four;
    std::memcpy(&four, p, sizeof four);
    return {vreinterpretq_s8_s32(vdupq_n_s32(four))};
}

DOVETAIL_INLINE Ints dot4_start(int32_t) { return splat_int(0); }

DOVETAIL_INLINE void dot4(Ints &sum, const Codes &codes, const Fours &fours) {
    for (int i = 0; i < 4; ++i) {
        sum.part[i] = vdotq_s32(sum.part[i], codes.part[i], fours.v);
    }
}

DOVETAIL_INLINE void dot4(Ints &sum, const Nibbles &nibbles, const Fours &fours) {
    for (int i = 0; i < 4; ++i) {
        sum.part[i] = vdotq_s32(sum.part[i], nibbles.part[i], fours.v);
    }
}

DOVETAIL_INLINE void prefetch_l2(const void *p) {
#if defined(_MSC_VER) && !defined(__clang__)
    __prefetch(p);
#else
    __builtin_prefetch(p, 0, 2);
#endif
}

}  // namespace
}  // namespace dovetail

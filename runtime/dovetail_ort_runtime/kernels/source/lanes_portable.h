// The lanes in plain C++, for any processor. The other levels must have the same bits as this one.
#pragma once

#include <cmath>
#include <cstring>

namespace dovetail {
namespace {

constexpr int kProductRows = 4;
constexpr int kProductVectors = 2;
constexpr int kAttentionQueries = 2;
constexpr int kAttentionVectors = 1;

struct Floats {
    float lane[kLanes];
};

struct Ints {
    int32_t lane[kLanes];
};

struct Mask {
    bool lane[kLanes];
};

struct Codes {
    uint8_t code[4 * kLanes];
};

struct Nibbles {
    uint8_t code[4 * kLanes];
};

struct NibblePair {
    Nibbles low;
    Nibbles high;
};

struct Fours {
    int8_t activation[4];
};

template <class Lane>
DOVETAIL_INLINE Floats floats_of(Lane lane) {
    Floats y;
    for (int i = 0; i < kLanes; ++i) {
        y.lane[i] = lane(i);
    }
    return y;
}

template <class Lane>
DOVETAIL_INLINE Ints ints_of(Lane lane) {
    Ints y;
    for (int i = 0; i < kLanes; ++i) {
        y.lane[i] = lane(i);
    }
    return y;
}

DOVETAIL_INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

DOVETAIL_INLINE float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

DOVETAIL_INLINE float float_of_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t exponent = (half >> 10) & 31;
    const uint32_t fraction = half & 0x3ff;
    if (exponent == 31) {
        const uint32_t quiet = fraction != 0 ? 0x400000 : 0;
        return float_of(sign | 0x7f800000 | quiet | fraction << 13);
    }
    if (exponent == 0) {
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return float_of(sign | bits_of(magnitude));
    }
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

DOVETAIL_INLINE uint16_t half_of_float(float x) {
    const uint32_t bits = bits_of(x);
    const uint32_t sign = bits >> 16 & 0x8000;
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) {
        return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    }
    if (magnitude >= 0x477fe000) {
        return static_cast<uint16_t>(sign | 0x7bff);
    }
    if (magnitude < 0x38800000) {
        // Below the smallest normal half a unit is 2^-24. 1.5 * 2^23 of them leave no room for a fraction.
        const float rounded = float_of(magnitude) + 0x1.8p-1f;
        return static_cast<uint16_t>(sign | (bits_of(rounded) & 0x7ff));
    }
    const uint32_t odd = magnitude >> 13 & 1;
    const uint32_t rounded = magnitude + 0xfff + odd;
    return static_cast<uint16_t>(sign | ((rounded >> 13) - (112 << 10)));
}

DOVETAIL_INLINE Floats load(const float *p) {
    return floats_of([&](int i) { return p[i]; });
}

DOVETAIL_INLINE Floats load_first(const float *p, int n) {
    return floats_of([&](int i) { return i < n ? p[i] : 0.0f; });
}

DOVETAIL_INLINE Floats load_half(const uint16_t *p) {
    return floats_of([&](int i) { return float_of_half(p[i]); });
}

DOVETAIL_INLINE Ints load_ints(const int32_t *p) {
    return ints_of([&](int i) { return p[i]; });
}

DOVETAIL_INLINE void store(float *p, Floats x) { std::memcpy(p, x.lane, sizeof x.lane); }

DOVETAIL_INLINE void store_first(float *p, Floats x, int n) {
    for (int i = 0; i < n; ++i) {
        p[i] = x.lane[i];
    }
}

DOVETAIL_INLINE void store_half(uint16_t *p, Floats x) {
    for (int i = 0; i < kLanes; ++i) {
        p[i] = half_of_float(x.lane[i]);
    }
}

DOVETAIL_INLINE void store_ints(int32_t *p, Ints x) { std::memcpy(p, x.lane, sizeof x.lane); }

DOVETAIL_INLINE void store_bytes(int8_t *p, Ints x) {
    for (int i = 0; i < kLanes; ++i) {
        p[i] = static_cast<int8_t>(x.lane[i]);
    }
}

DOVETAIL_INLINE Floats splat(float x) {
    return floats_of([&](int) { return x; });
}

DOVETAIL_INLINE Ints splat_int(int32_t x) {
    return ints_of([&](int) { return x; });
}

DOVETAIL_INLINE Floats zero() { return splat(0.0f); }

DOVETAIL_INLINE Floats add(Floats a, Floats b) {
    return floats_of([&](int i) { return a.lane[i] + b.lane[i]; });
}

DOVETAIL_INLINE Floats sub(Floats a, Floats b) {
    return floats_of([&](int i) { return a.lane[i] - b.lane[i]; });
}

DOVETAIL_INLINE Floats mul(Floats a, Floats b) {
    return floats_of([&](int i) { return a.lane[i] * b.lane[i]; });
}

DOVETAIL_INLINE Floats div(Floats a, Floats b) {
    return floats_of([&](int i) { return a.lane[i] / b.lane[i]; });
}

DOVETAIL_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return floats_of([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}

DOVETAIL_INLINE Floats root(Floats a) {
    return floats_of([&](int i) { return std::sqrt(a.lane[i]); });
}

DOVETAIL_INLINE Floats absolute(Floats a) {
    return floats_of([&](int i) { return float_of(bits_of(a.lane[i]) & 0x7fffffff); });
}

DOVETAIL_INLINE Mask less(Floats a, Floats b) {
    Mask y;
    for (int i = 0; i < kLanes; ++i) {
        y.lane[i] = a.lane[i] < b.lane[i];
    }
    return y;
}

DOVETAIL_INLINE Mask first_lanes(int n) {
    Mask y;
    for (int i = 0; i < kLanes; ++i) {
        y.lane[i] = i < n;
    }
    return y;
}

DOVETAIL_INLINE bool any(Mask mask) {
    bool found = false;
    for (int i = 0; i < kLanes; ++i) {
        found = found || mask.lane[i];
    }
    return found;
}

DOVETAIL_INLINE Floats select(Mask mask, Floats a, Floats b) {
    return floats_of([&](int i) { return mask.lane[i] ? a.lane[i] : b.lane[i]; });
}

DOVETAIL_INLINE Ints select(Mask mask, Ints a, Ints b) {
    return ints_of([&](int i) { return mask.lane[i] ? a.lane[i] : b.lane[i]; });
}

DOVETAIL_INLINE Ints bits(Floats x) {
    Ints y;
    std::memcpy(y.lane, x.lane, sizeof y.lane);
    return y;
}

DOVETAIL_INLINE Floats from_bits(Ints x) {
    Floats y;
    std::memcpy(y.lane, x.lane, sizeof y.lane);
    return y;
}

DOVETAIL_INLINE Ints add(Ints a, Ints b) {
    return ints_of([&](int i) {
        return static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) + static_cast<uint32_t>(b.lane[i]));
    });
}

DOVETAIL_INLINE Ints maximum(Ints a, Ints b) {
    return ints_of([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}

DOVETAIL_INLINE Ints shift_left_23(Ints a) {
    return ints_of([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) << 23); });
}

DOVETAIL_INLINE Ints round_to_ints(Floats x) {
    // 1.5 * 2^23 leaves no room for a fraction: the sum is rounded to nearest even, its low bits are the integer.
    const float large = 0x1.8p23f;
    return ints_of([&](int i) { return static_cast<int32_t>(bits_of(x.lane[i] + large) - bits_of(large)); });
}

DOVETAIL_INLINE Floats to_floats(Ints x) {
    return floats_of([&](int i) { return static_cast<float>(x.lane[i]); });
}

DOVETAIL_INLINE int32_t largest(Ints x) {
    int32_t y = x.lane[0];
    for (int i = 1; i < kLanes; ++i) {
        y = x.lane[i] > y ? x.lane[i] : y;
    }
    return y;
}

DOVETAIL_INLINE int32_t total(Ints x) {
    int32_t y = 0;
    for (int i = 0; i < kLanes; ++i) {
        y += x.lane[i];
    }
    return y;
}

DOVETAIL_INLINE float sum(Floats x) {
    for (int width = kLanes / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) {
            x.lane[i] = x.lane[i] + x.lane[i + width];
        }
    }
    return x.lane[0];
}

DOVETAIL_INLINE Codes load_codes(const uint8_t *p) {
    Codes codes;
    std::memcpy(codes.code, p, sizeof codes.code);
    return codes;
}

DOVETAIL_INLINE NibblePair load_nibbles(const uint8_t *p) {
    NibblePair pair;
    for (int i = 0; i < 4 * kLanes; ++i) {
        pair.low.code[i] = p[i] & 15;
        pair.high.code[i] = p[i] >> 4;
    }
    return pair;
}

DOVETAIL_INLINE Fours load_fours(const int8_t *p) {
    Fours fours;
    std::memcpy(fours.activation, p, sizeof fours.activation);
    return fours;
}

DOVETAIL_INLINE Ints dot4_start(int32_t) { return splat_int(0); }

DOVETAIL_INLINE void dot4(Ints &sum, const Codes &codes, const Fours &fours) {
    for (int i = 0; i < kLanes; ++i) {
        for (int j = 0; j < 4; ++j) {
            sum.lane[i] += (codes.code[4 * i + j] - 128) * fours.activation[j];
        }
    }
}

DOVETAIL_INLINE void dot4(Ints &sum, const Nibbles &nibbles, const Fours &fours) {
    for (int i = 0; i < kLanes; ++i) {
        for (int j = 0; j < 4; ++j) {
            sum.lane[i] += nibbles.code[4 * i + j] * fours.activation[j];
        }
    }
}

DOVETAIL_INLINE void prefetch_l2(const void *) {}

}  // namespace
}  // namespace dovetail

// The inner loops of attention: scores with positions as lanes, weights, values with inputs as lanes.
//
// The sizes of tiles change no bit: a score is one chain over ascending inputs, a value one over ascending positions.
#pragma once

#include "exponential.h"
#include "kernels.h"
#include "lanes.h"

namespace dovetail {
namespace {

constexpr int64_t kLine = 64;  // bytes that a prefetch asks for

// Scores of neighbouring queries are so far apart. A multiple of 2 KiB would put them into the same sets of a cache.
constexpr int64_t kScoreStride = kRange + kLanes;

// Memory that will be read soon; tiles ask for it line by line while they calculate.
struct Ahead {
    const char *line;
    int64_t lines;
};

template <int N>
struct Constant {
    static constexpr int value = N;
};

// Calls body with a constant: count, which is 1 to N.
template <int N, class Body>
DOVETAIL_INLINE void with_count(int64_t count, const Body &body) {
    if constexpr (N > 1) {
        if (count < N) {
            with_count<N - 1>(count, body);
            return;
        }
    }
    body(Constant<N>{});
}

// Vectors of a tile with so many queries.
constexpr int vectors_beside(int queries) {
    int vectors = 4;
    while (vectors > 1 && vectors * queries > kAttentionQueries * kAttentionVectors) {
        vectors /= 2;
    }
    return vectors;
}

// Calls body with the lines that each step of a pass asks for, a constant, and takes them away from what is ahead, so
// that all passes that are left ask for about as many.
template <class Body>
DOVETAIL_INLINE void with_lines(Ahead &ahead, int64_t steps, int64_t passes, const Body &body) {
    const char *line = ahead.line;
    const int64_t steps_left = steps * passes;
    const auto take = [&](int64_t lines_a_step) {
        ahead.line += lines_a_step * steps * kLine;
        ahead.lines -= lines_a_step * steps;
    };
    if (ahead.lines <= 0) {
        body(Constant<0>{}, line);
    } else if (ahead.lines <= steps_left) {
        take(1);
        body(Constant<1>{}, line);
    } else if (ahead.lines <= 2 * steps_left) {
        take(2);
        body(Constant<2>{}, line);
    } else {
        take(4);
        body(Constant<4>{}, line);
    }
}

// Keeps the compiler from moving prefetches up to where they compete with the loads that are needed at once.
DOVETAIL_INLINE void keep_order() {
#if defined(__GNUC__)
    asm volatile("");
#endif
}

// Lines that query q of a tile asks for; spread over the queries, they do not hold up what is needed at once.
template <int Queries, int Lines>
DOVETAIL_INLINE void ask_for(int q, const char *line) {
    keep_order();
    for (int i = Lines * q / Queries; i < Lines * (q + 1) / Queries; ++i) {
        prefetch_l2(line + i * kLine);
    }
}

DOVETAIL_INLINE Floats load_cached(const float *p) { return load(p); }

DOVETAIL_INLINE Floats load_cached(const uint16_t *p) { return load_half(p); }

// Queries are (D, Queries), keys (D, 64).
template <int Queries, int Vectors, int Lines, class Element>
DOVETAIL_INLINE void score_block(const float *queries, int64_t head_size, const Element *keys, float *scores,
                                 const char *line) {
    Floats sums[Queries][Vectors];
    for (int q = 0; q < Queries; ++q) {
        for (int v = 0; v < Vectors; ++v) {
            sums[q][v] = zero();
        }
    }
    for (int64_t d = 0; d < head_size; ++d) {
        Floats key[Vectors];
        for (int v = 0; v < Vectors; ++v) {
            key[v] = load_cached(keys + v * kLanes);
        }
        for (int q = 0; q < Queries; ++q) {
            const Floats query = splat(queries[q]);
            for (int v = 0; v < Vectors; ++v) {
                sums[q][v] = fma(query, key[v], sums[q][v]);
            }
            ask_for<Queries, Lines>(q, line);
        }
        line += Lines * kLine;
        queries += Queries;
        keys += kCacheBlock;
    }
    for (int q = 0; q < Queries; ++q) {
        for (int v = 0; v < Vectors; ++v) {
            store(scores + q * kScoreStride + v * kLanes, sums[q][v]);
        }
    }
}

// Scores of neighbouring positions of one block of keys, 16 * vectors of them.
template <int Queries, class Element>
DOVETAIL_NOINLINE void score_tile(const float *queries, int64_t head_size, const Element *keys, int64_t vectors,
                                  float *scores, Ahead ahead) {
    const auto pass = [&](auto wide) {
        with_lines(ahead, head_size, (vectors + wide.value - 1) / wide.value, [&](auto lines, const char *line) {
            score_block<Queries, wide.value, lines.value>(queries, head_size, keys, scores, line);
        });
        keys += wide.value * kLanes;
        scores += wide.value * kLanes;
        vectors -= wide.value;
    };
    constexpr int kWide = vectors_beside(Queries);
    while (vectors >= kWide) {
        pass(Constant<kWide>{});
    }
    if constexpr (kWide > 2) {
        if (vectors >= 2) {
            pass(Constant<2>{});
        }
    }
    if constexpr (kWide > 1) {
        if (vectors >= 1) {
            pass(Constant<1>{});
        }
    }
}

// Where the values of neighbouring logical positions lie: side by side, or in listed slots.
template <class Element>
struct Straight {
    const Element *values;
    const Element *at(int64_t i, int64_t head_size) const { return values + i * head_size; }
};

template <class Element>
struct Listed {
    const Element *values;
    const int64_t *slots;
    const Element *at(int64_t i, int64_t head_size) const { return values + slots[i] * head_size; }
};

template <int Queries, int Vectors, int Lines, class Source>
DOVETAIL_INLINE void value_block(const float *weights, const Source &source, int64_t head_size, int64_t positions,
                                 int64_t first_input, float *sums, const char *line) {
    Floats total[Queries][Vectors];
    for (int q = 0; q < Queries; ++q) {
        for (int v = 0; v < Vectors; ++v) {
            total[q][v] = load(sums + q * head_size + first_input + v * kLanes);
        }
    }
    for (int64_t i = 0; i < positions; ++i) {
        const auto *values = source.at(i, head_size) + first_input;
        Floats value[Vectors];
        for (int v = 0; v < Vectors; ++v) {
            value[v] = load_cached(values + v * kLanes);
        }
        for (int q = 0; q < Queries; ++q) {
            const Floats weight = splat(weights[q * kScoreStride + i]);
            for (int v = 0; v < Vectors; ++v) {
                total[q][v] = fma(weight, value[v], total[q][v]);
            }
            ask_for<Queries, Lines>(q, line);
        }
        line += Lines * kLine;
    }
    for (int q = 0; q < Queries; ++q) {
        for (int v = 0; v < Vectors; ++v) {
            store(sums + q * head_size + first_input + v * kLanes, total[q][v]);
        }
    }
}

// sums (Queries, D) += weights (Queries, positions) times values (positions, D).
template <int Queries, class Source>
DOVETAIL_NOINLINE void value_tile(const float *weights, const Source &source, int64_t head_size, int64_t positions,
                                  float *sums, Ahead ahead) {
    int64_t d = 0;
    const auto pass = [&](auto wide) {
        const int64_t passes = (head_size - d) / (wide.value * kLanes);
        with_lines(ahead, positions, passes, [&](auto lines, const char *line) {
            value_block<Queries, wide.value, lines.value>(weights, source, head_size, positions, d, sums, line);
        });
        d += wide.value * kLanes;
    };
    constexpr int kWide = vectors_beside(Queries);
    while (d + kWide * kLanes <= head_size) {
        pass(Constant<kWide>{});
    }
    if constexpr (kWide > 2) {
        if (d + 2 * kLanes <= head_size) {
            pass(Constant<2>{});
        }
    }
    if constexpr (kWide > 1) {
        if (d < head_size) {
            pass(Constant<1>{});
        }
    }
}

constexpr float kInfinity = __builtin_inff();

// Scores below first and from last on, in the vectors that they share with others, become minus infinity: weight 0.
DOVETAIL_INLINE void hide_unseen(float *scores, int64_t first, int64_t last) {
    const Floats hidden = splat(-kInfinity);
    if (first % kLanes != 0) {
        float *p = scores + first / kLanes * kLanes;
        store(p, select(first_lanes(static_cast<int>(first % kLanes)), hidden, load(p)));
    }
    if (last % kLanes != 0) {
        float *p = scores + last / kLanes * kLanes;
        store(p, select(first_lanes(static_cast<int>(last % kLanes)), load(p), hidden));
    }
}

DOVETAIL_INLINE void cap_scores(float *scores, int64_t begin, int64_t end, float cap) {
    for (int64_t i = begin; i < end; i += kLanes) {
        store(scores + i, mul(splat(cap), tanh(load(scores + i))));
    }
}

// exp2 without its upper end: for scores, which are at most the largest one, or NaN.
DOVETAIL_INLINE Floats weight_of(Floats below) {
    const Ints n = round_to_ints(below);
    const Floats power = exp2_of_fraction(sub(below, to_floats(n)));
    const Floats scaled = from_bits(add(bits(power), shift_left_23(n)));
    return select(less(below, splat(-126.0f)), zero(), scaled);
}

DOVETAIL_INLINE Floats larger_lanes(Floats a, Floats b) { return select(less(a, b), b, a); }

DOVETAIL_INLINE float largest_lane(Floats x) {
    float lane[kLanes];
    store(lane, x);
    for (int width = kLanes / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) {
            lane[i] = lane[i] < lane[i + width] ? lane[i + width] : lane[i];
        }
    }
    return lane[0];
}

// The largest score; NaN is passed over, its weight is NaN anyway. Four vectors at a time do not wait for each other.
DOVETAIL_INLINE float largest_score(const float *scores, int64_t begin, int64_t end) {
    constexpr int kChains = 4;
    Floats most[kChains];
    for (int chain = 0; chain < kChains; ++chain) {
        most[chain] = splat(-kInfinity);
    }
    int64_t i = begin;
    for (; i + (kChains - 1) * kLanes < end; i += kChains * kLanes) {
        for (int chain = 0; chain < kChains; ++chain) {
            most[chain] = larger_lanes(most[chain], load(scores + i + chain * kLanes));
        }
    }
    for (; i < end; i += kLanes) {
        most[0] = larger_lanes(most[0], load(scores + i));
    }
    const Floats even = larger_lanes(most[0], most[2]);
    const Floats odd = larger_lanes(most[1], most[3]);
    return largest_lane(larger_lanes(even, odd));
}

struct Softmax {
    float largest;
    float total;
};

// Scores of the positions first to last - 1 of a range become weights. A cap of 0 is none.
inline Softmax make_weights(float *scores, int64_t first, int64_t last, float cap) {
    const int64_t begin = first / kLanes * kLanes;
    if (cap != 0.0f) {
        cap_scores(scores, begin, last, cap);
    }
    hide_unseen(scores, first, last);
    const float largest = largest_score(scores, begin, last);
    const Floats offset = splat(largest);
    Floats total = zero();
    for (int64_t i = begin; i < last; i += kLanes) {
        const Floats weight = weight_of(sub(load(scores + i), offset));
        total = add(total, weight);
        store(scores + i, weight);
    }
    return {largest, sum(total)};
}

}  // namespace
}  // namespace dovetail

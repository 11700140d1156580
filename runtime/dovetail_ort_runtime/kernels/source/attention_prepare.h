// The first step of attention: query, key and value of each row are normed, rotated and put where the tiles read them.
#pragma once

#include "attention_plan.h"
#include "kernels.h"
#include "lanes.h"

namespace dovetail {
namespace {

constexpr int64_t kLargestHead = 256;
constexpr float kLog2E = 1.44269504088896340736f;

// Where a head's cache begins, in elements; that of keys and that of values are of one size.
DOVETAIL_INLINE int64_t head_offset(const AttentionCall &call, int64_t sequence, int64_t kv_head) {
    return (sequence * call.kv_heads + kv_head) * call.slots_per_sequence * call.head_size;
}

// Where the key of a slot begins; its inputs are kCacheBlock elements apart.
DOVETAIL_INLINE int64_t key_offset(int64_t head_size, int64_t slot) {
    return slot / kCacheBlock * kCacheBlock * head_size + slot % kCacheBlock;
}

// Packed queries of a head of keys and values: (D, queries of the tile) one tile after the other. Where a tile begins
// whose first query is this one.
DOVETAIL_INLINE int64_t query_offset(const AttentionCall &call, const Plan &plan, const Group &group, int64_t kv_head,
                                     int64_t query) {
    return ((kv_head * call.rows + group.first_row) * plan.group_size + query) * call.head_size;
}

DOVETAIL_INLINE void copy_head(const float *from, int64_t head_size, float *to) {
    for (int64_t d = 0; d < head_size; d += kLanes) {
        store(to + d, load(from + d));
    }
}

DOVETAIL_INLINE void norm_head(const float *weight, float epsilon, int64_t head_size, float *head) {
    Floats squares = zero();
    for (int64_t d = 0; d < head_size; d += kLanes) {
        const Floats x = load(head + d);
        squares = fma(x, x, squares);
    }
    const float mean = sum(squares) / static_cast<float>(head_size);
    const Floats factor = div(splat(1.0f), root(splat(mean + epsilon)));
    for (int64_t d = 0; d < head_size; d += kLanes) {
        store(head + d, mul(mul(load(head + d), factor), load(weight + d)));
    }
}

struct Pair {
    Floats low;
    Floats high;
};

DOVETAIL_INLINE Pair rotated(Pair x, Floats cosine, Floats sine) {
    const Floats minus_one = splat(-1.0f);
    const Floats subtracted = mul(mul(x.high, sine), minus_one);
    return {fma(x.low, cosine, subtracted), fma(x.high, cosine, mul(x.low, sine))};
}

// In place. `half` is R / 2, `cosine` and `sine` are the row of the tables.
DOVETAIL_INLINE void rotate_head(const float *cosine, const float *sine, int64_t half, float *head) {
    int64_t j = 0;
    for (; j + kLanes <= half; j += kLanes) {
        const Pair x = {load(head + j), load(head + half + j)};
        const Pair y = rotated(x, load(cosine + j), load(sine + j));
        store(head + j, y.low);
        store(head + half + j, y.high);
    }
    if (j < half) {
        const int n = static_cast<int>(half - j);
        const Pair x = {load_first(head + j, n), load_first(head + half + j, n)};
        const Pair y = rotated(x, load_first(cosine + j, n), load_first(sine + j, n));
        store_first(head + j, y.low, n);
        store_first(head + half + j, y.high, n);
    }
}

DOVETAIL_INLINE const float *head_of_row(const AttentionCall &call, const Row &row, int64_t head) {
    return call.qkv + (row.index * (call.heads + 2 * call.kv_heads) + head) * call.head_size;
}

// Norm, if there is one, and rotary embedding.
DOVETAIL_INLINE void embed_head(const AttentionCall &call, const Row &row, const float *x, const float *norm,
                                float *head) {
    copy_head(x, call.head_size, head);
    if (norm != nullptr) {
        norm_head(norm, call.epsilon, call.head_size, head);
    }
    const int64_t half = call.rotary_size / 2;
    const int64_t position = call.position_ids[row.index];
    rotate_head(call.cos + position * half, call.sin + position * half, half, head);
}

DOVETAIL_INLINE float query_scale(const AttentionCall &call) {
    return call.soft_cap != 0.0f ? call.scale / call.soft_cap : call.scale * kLog2E;
}

// A query, normed, rotated and scaled, to every `stride`-th float.
DOVETAIL_INLINE void pack_query(const AttentionCall &call, const Row &row, int64_t head_index, Floats scale,
                                int64_t stride, float *to) {
    float head[kLargestHead];
    embed_head(call, row, head_of_row(call, row, head_index), call.query_norm, head);
    for (int64_t d = 0; d < call.head_size; d += kLanes) {
        store(head + d, mul(load(head + d), scale));
    }
    for (int64_t d = 0; d < call.head_size; ++d) {
        *to = head[d];
        to += stride;
    }
}

inline void pack_tile(const AttentionCall &call, const Plan &plan, const Group &group, int64_t kv_head, int64_t tile,
                      float *packed) {
    const int64_t begin = cut(group.queries, group.tiles, tile);
    const int64_t count = cut(group.queries, group.tiles, tile + 1) - begin;
    const Floats scale = splat(query_scale(call));
    const Row *row = plan.rows + group.first_row + begin / plan.group_size;
    int64_t head = begin % plan.group_size;
    float *to = packed + query_offset(call, plan, group, kv_head, begin);
    for (int64_t i = 0; i < count; ++i) {
        pack_query(call, *row, kv_head * plan.group_size + head, scale, count, to + i);
        if (++head == plan.group_size) {
            head = 0;
            ++row;
        }
    }
}

DOVETAIL_INLINE void store_cached(float *p, Floats x) { store(p, x); }

DOVETAIL_INLINE void store_cached(uint16_t *p, Floats x) { store_half(p, x); }

template <class Element>
void append_row(const AttentionCall &call, const Row &row, int64_t kv_head) {
    const int64_t slot = call.slots[row.index];
    const int64_t offset = head_offset(call, row.sequence, kv_head);
    Element *keys = static_cast<Element *>(call.keys) + offset + key_offset(call.head_size, slot);
    Element *values = static_cast<Element *>(call.values) + offset + slot * call.head_size;
    float head[kLargestHead];
    embed_head(call, row, head_of_row(call, row, call.heads + kv_head), call.key_norm, head);
    Element rounded[kLargestHead];
    for (int64_t d = 0; d < call.head_size; d += kLanes) {
        store_cached(rounded + d, load(head + d));
    }
    for (int64_t d = 0; d < call.head_size; ++d) {
        keys[d * kCacheBlock] = rounded[d];
    }
    const float *value = head_of_row(call, row, call.heads + call.kv_heads + kv_head);
    for (int64_t d = 0; d < call.head_size; d += kLanes) {
        store_cached(values + d, load(value + d));
    }
}

}  // namespace
}  // namespace dovetail

// What a task does with one range of positions: scores, weights, values.
//
// Positions that lie in the slots of their own numbers are read in chunks of 64, each for all tiles of the task while
// it is in the cache. The others follow, through the lists of their rows.
#pragma once

#include "attention_plan.h"
#include "attention_prepare.h"
#include "attention_scratch.h"
#include "attention_task.h"
#include "attention_tiles.h"
#include "kernels.h"
#include "lanes.h"

namespace dovetail {
namespace {

constexpr int64_t kWideTiles = 4;  // tiles from which a chunk of halves is widened once for all of them

// What lies in straight slots for any tile of the task.
struct Span {
    int64_t low;
    int64_t high;
};

inline Span straight_span(const Task &task, const TaskMemory &memory) {
    Span span{kRange, 0};
    for (int64_t t = 0; t < task.tiles; ++t) {
        span.low = smaller(span.low, memory.tiles[t].low);
        span.high = larger(span.high, memory.tiles[t].high);
    }
    span.low = span.low / kCacheBlock * kCacheBlock;
    return span;
}

// The share of tile t of the memory of a chunk of 64 positions: the first tiles ask for equal parts of it.
template <class Element>
DOVETAIL_INLINE Ahead share_of(const Element *chunk, int64_t head_size, int64_t t, int64_t tiles) {
    const int64_t lines = kCacheBlock * head_size * static_cast<int64_t>(sizeof(Element)) / kLine;
    const int64_t shares = tiles >= 4 ? smaller(4, sizeof(Element)) : tiles >= 2 ? 2 : 1;
    if (t >= shares) {
        return {nullptr, 0};
    }
    const char *bytes = reinterpret_cast<const char *>(chunk);
    return {bytes + t * (lines / shares) * kLine, lines / shares};
}

DOVETAIL_INLINE bool is_worth_widening(const Task &task, const float *) {
    (void)task;
    return false;
}

DOVETAIL_INLINE bool is_worth_widening(const Task &task, const uint16_t *) { return task.tiles >= kWideTiles; }

// Calls body with a chunk of 64 positions, in float32 where that pays.
template <class Element, class Body>
DOVETAIL_INLINE void with_chunk(const AttentionCall &call, const Task &task, const Element *chunk,
                                const TaskMemory &memory, const Body &body) {
    if (!is_worth_widening(task, chunk)) {
        body(chunk);
        return;
    }
    for (int64_t i = 0; i < kCacheBlock * call.head_size; i += kLanes) {
        store(memory.wide + i, load_cached(chunk + i));
    }
    body(static_cast<const float *>(memory.wide));
}

template <class Element>
void score_straight(const AttentionCall &call, const Task &task, const Element *keys, const Element *values,
                    const TaskMemory &memory) {
    const Span span = straight_span(task, memory);
    for (int64_t chunk = span.low; chunk < span.high; chunk += kCacheBlock) {
        const Element *stored = keys + chunk * call.head_size;
        const Element *next = chunk + kCacheBlock < span.high ? stored + kCacheBlock * call.head_size
                                                              : values + span.low * call.head_size;
        with_chunk(call, task, stored, memory, [&](const auto *block) {
            for (int64_t t = 0; t < task.tiles; ++t) {
                const Tile &tile = memory.tiles[t];
                const int64_t from = larger(chunk, tile.low / kLanes * kLanes);
                const int64_t to = smaller(chunk + kCacheBlock, round_up(tile.high, kLanes));
                if (from >= to) {
                    continue;
                }
                const Ahead ahead = share_of(next, call.head_size, t, task.tiles);
                float *scores = memory.scores + tile.first * kScoreStride + from;
                with_count<kAttentionQueries>(tile.count, [&](auto count) {
                    score_tile<count.value>(tile.packed, call.head_size, block + from - chunk, (to - from) / kLanes,
                                            scores, ahead);
                });
            }
        });
    }
}

// Scores of 16 slots for all queries of a tile; the last ones are kept, since rows of one call lie side by side.
template <class Element>
const float *scores_of_slots(const AttentionCall &call, const Tile &tile, const Element *head_keys, int64_t group,
                             const TaskMemory &memory) {
    const int64_t place = group % kKeptScores;
    float *scores = memory.kept + place * kLanes;
    if (memory.kept_groups[place] != group) {
        memory.kept_groups[place] = group;
        const Element *keys = head_keys + key_offset(call.head_size, group * kLanes);
        with_count<kAttentionQueries>(tile.count, [&](auto count) {
            score_tile<count.value>(tile.packed, call.head_size, keys, 1, scores, Ahead{nullptr, 0});
        });
    }
    return scores;
}

template <class Element>
void score_listed(const AttentionCall &call, const Task &task, const Element *head_keys, int64_t begin,
                  const TaskMemory &memory) {
    for (int64_t t = 0; t < task.tiles; ++t) {
        const Tile &tile = memory.tiles[t];
        if (!tile.listed) {
            continue;
        }
        for (int64_t i = 0; i < kKeptScores; ++i) {
            memory.kept_groups[i] = -1;
        }
        for (int64_t i = 0; i < tile.count; ++i) {
            const Query &query = memory.queries[tile.first + i];
            float *scores = memory.scores + (tile.first + i) * kScoreStride;
            for (int64_t x = larger(query.first, query.straight); x < query.end; ++x) {
                const int64_t slot = query.row->slots[begin + x - query.row->straight];
                const float *kept = scores_of_slots(call, tile, head_keys, slot / kLanes, memory);
                scores[x] = kept[i * kScoreStride + slot % kLanes];
            }
        }
    }
}

// The positions from `from` on that a tile's queries see alike end here.
inline int64_t end_of_alike(const Tile &tile, const Query *queries, int64_t from, int64_t to) {
    for (int64_t i = tile.first; i < tile.first + tile.count; ++i) {
        if (queries[i].first > from) {
            to = smaller(to, queries[i].first);
        }
        if (queries[i].straight > from) {
            to = smaller(to, queries[i].straight);
        }
    }
    return to;
}

DOVETAIL_INLINE bool sees(const Query &query, int64_t position) {
    return query.first <= position && position < query.straight;
}

// Adds the values of the positions from, ..., to - 1 of one chunk, each for the queries that see it.
template <class Stored>
void add_chunk(const AttentionCall &call, const Tile &tile, const Stored *values, int64_t from, int64_t to,
               const TaskMemory &memory, float *sums, Ahead ahead) {
    while (from < to) {
        const int64_t end = end_of_alike(tile, memory.queries, from, to);
        const Straight<Stored> source{values + from % kCacheBlock * call.head_size};
        int64_t i = tile.first;
        while (i < tile.first + tile.count) {
            int64_t last = i;
            while (last < tile.first + tile.count && sees(memory.queries[last], from)) {
                ++last;
            }
            if (last > i) {
                with_count<kAttentionQueries>(last - i, [&](auto count) {
                    value_tile<count.value>(memory.scores + i * kScoreStride + from, source, call.head_size, end - from,
                                            sums + i * call.head_size, ahead);
                });
                ahead = {nullptr, 0};
            }
            i = larger(last, i + 1);
        }
        from = end;
    }
}

template <class Element>
void add_straight(const AttentionCall &call, const Task &task, const Element *values, const TaskMemory &memory,
                  float *sums) {
    const Span span = straight_span(task, memory);
    for (int64_t chunk = span.low; chunk < span.high; chunk += kCacheBlock) {
        const Element *stored = values + chunk * call.head_size;
        const Element *next = stored + kCacheBlock * call.head_size;
        const bool last = chunk + kCacheBlock >= span.high;
        with_chunk(call, task, stored, memory, [&](const auto *block) {
            for (int64_t t = 0; t < task.tiles; ++t) {
                const Tile &tile = memory.tiles[t];
                const int64_t from = larger(chunk, tile.low);
                const int64_t to = smaller(chunk + kCacheBlock, tile.high);
                const Ahead ahead = last ? Ahead{nullptr, 0} : share_of(next, call.head_size, t, task.tiles);
                add_chunk(call, tile, block, from, to, memory, sums, ahead);
            }
        });
    }
}

// Queries of one row share its list.
template <class Element>
void add_listed(const AttentionCall &call, const Task &task, const Element *head_values, int64_t begin,
                const TaskMemory &memory, float *sums) {
    int64_t i = 0;
    while (i < task.queries) {
        const Query &query = memory.queries[i];
        int64_t last = i + 1;
        while (last < task.queries && last < i + kAttentionQueries && memory.queries[last].row == query.row) {
            ++last;
        }
        const int64_t from = larger(query.first, query.straight);
        if (from < query.end) {
            const Listed<Element> source{head_values, query.row->slots + begin + from - query.row->straight};
            with_count<kAttentionQueries>(last - i, [&](auto count) {
                value_tile<count.value>(memory.scores + i * kScoreStride + from, source, call.head_size,
                                        query.end - from, sums + i * call.head_size, Ahead{nullptr, 0});
            });
        }
        i = last;
    }
}

// One range of a task: scores, weights, values. `partials` are those of the range, from the task's first query on.
template <class Element>
void attend_range(const Attention &attention, const Task &task, int64_t range, TaskMemory &memory,
                  const Partials &partials) {
    const AttentionCall &call = *attention.call;
    const int64_t begin = range * kRange;
    const int64_t sequence = attention.plan.rows[task.group->first_row].sequence;
    const int64_t offset = head_offset(call, sequence, task.kv_head);
    const Element *head_keys = static_cast<const Element *>(call.keys) + offset;
    const Element *head_values = static_cast<const Element *>(call.values) + offset;
    const Element *keys = head_keys + begin * call.head_size;
    const Element *values = head_values + begin * call.head_size;
    look_at_range(attention, task, begin, memory);
    score_straight(call, task, keys, values, memory);
    score_listed(call, task, head_keys, begin, memory);
    const float cap = call.soft_cap * kLog2E;
    for (int64_t i = 0; i < task.queries; ++i) {
        const Query &query = memory.queries[i];
        if (query.first < query.end) {
            const Softmax softmax = make_weights(memory.scores + i * kScoreStride, query.first, query.end, cap);
            partials.largest[i] = softmax.largest;
            partials.totals[i] = softmax.total;
        }
    }
    std::memset(partials.sums, 0, static_cast<size_t>(task.queries * call.head_size) * sizeof(float));
    add_straight(call, task, values, memory, partials.sums);
    add_listed(call, task, head_values, begin, memory, partials.sums);
}

}  // namespace
}  // namespace dovetail

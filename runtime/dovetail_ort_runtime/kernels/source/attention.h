// Attention over logical positions, as kernels.h defines it.
//
// A call takes three steps: rows go into the cache and queries into tiles (attention_prepare.h); tasks, each some queries of
// one head of keys and values, calculate their ranges of positions; ranges are put together in ascending order.
#pragma once

#include "attention_plan.h"
#include "attention_prepare.h"
#include "attention_tiles.h"
#include "floating_mode.h"
#include "kernels.h"
#include "lanes.h"

namespace dovetail {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kParallelRows = 8192;      // elements of rows from which they are prepared in parallel
constexpr int64_t kParallelPartials = 65536;  // elements of partial sums from which they are put together in parallel
constexpr int64_t kRowsOfItem = 32;          // rows that are prepared together
constexpr int64_t kWideTiles = 4;            // tiles from which a chunk of halves is widened once for all of them
constexpr int64_t kKeptScores = kScoreStride / kLanes - 1;  // groups of 16 slots whose scores a tile keeps

// What queries have after each of their ranges. Range r of query q stands at r * queries + q.
struct Partials {
    int64_t queries;
    float *sums;     // (ranges, queries, D)
    float *largest;  // (ranges, queries)
    float *totals;   // (ranges, queries)
};

struct Attention {
    const AttentionCall *call;
    Plan plan;
    float *packed;      // queries in tiles
    Partials partials;  // of all heads, unless tasks take all ranges of their queries
    int failed;         // whether a task found no memory
};

// Cuts one piece of memory into arrays; without memory it counts what they need.
class Carver {
  public:
    explicit Carver(void *memory) : memory_(static_cast<char *>(memory)) {}

    template <class T>
    T *take(int64_t count) {
        char *place = memory_ == nullptr ? nullptr : memory_ + used_;
        used_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(T)), kAlignment));
        return reinterpret_cast<T *>(place);
    }

    size_t used() const { return used_; }

  private:
    char *memory_;
    size_t used_ = 0;
};

inline Partials take_partials(Carver &carver, int64_t queries, int64_t all, int64_t head_size) {
    Partials partials{};
    partials.queries = queries;
    partials.sums = carver.take<float>(all * head_size);
    partials.largest = carver.take<float>(all);
    partials.totals = carver.take<float>(all);
    return partials;
}

inline Partials moved(const Partials &partials, int64_t places, int64_t head_size) {
    Partials result = partials;
    result.sums += places * head_size;
    result.largest += places;
    result.totals += places;
    return result;
}

// A query within one range; positions count from the range's begin.
struct Query {
    const Row *row;
    int64_t first;
    int64_t straight;
    int64_t end;
};

// Neighbouring queries that are calculated together.
struct Tile {
    const float *packed;
    int64_t first;     // its first query, counted within the task
    int64_t count;
    int64_t low;       // what its queries see in straight slots lies between low and high
    int64_t high;
    int64_t listed;    // whether a query sees a listed slot
};

struct TaskMemory {
    float *scores;  // (queries, kScoreStride)
    Query *queries;
    Tile *tiles;
    float *kept;    // (kAttentionQueries, kScoreStride), scores of listed slots
    int64_t *kept_groups;
    float *wide;        // a chunk of keys or values in float32
    Partials partials;  // if the task takes all ranges
};

// One task: some tiles of one head.
struct Task {
    const Group *group;
    int64_t kv_head;
    int64_t first_tile;
    int64_t tiles;
    int64_t first_query;  // counted within the group
    int64_t queries;
    int64_t first_range;
    int64_t ranges;
};

inline TaskMemory take_task_memory(Carver &carver, const Attention &attention, const Task &task) {
    TaskMemory memory{};
    memory.scores = carver.take<float>(task.queries * kScoreStride);
    memory.queries = carver.take<Query>(task.queries);
    memory.tiles = carver.take<Tile>(task.tiles);
    memory.kept = carver.take<float>(kAttentionQueries * kScoreStride);
    memory.kept_groups = carver.take<int64_t>(kKeptScores);
    memory.wide = carver.take<float>(kCacheBlock * attention.call->head_size);
    if (attention.plan.whole) {
        const int64_t all = task.queries * task.ranges;
        memory.partials = take_partials(carver, task.queries, all, attention.call->head_size);
    }
    return memory;
}

inline Task task_of(const Attention &attention, int64_t index) {
    const Plan &plan = attention.plan;
    const Group *group = plan.groups;
    while (group + 1 < plan.groups + plan.group_count && index >= group[1].first_task) {
        ++group;
    }
    index -= group->first_task;
    // The last parts see most; they go first.
    const int64_t part = group->parts - 1 - index % group->parts;
    index /= group->parts;
    Task task{};
    task.group = group;
    task.first_range = group->first_range;
    task.ranges = group->ranges;
    if (!plan.whole) {
        task.first_range += index % group->ranges;
        task.ranges = 1;
        index /= group->ranges;
    }
    task.kv_head = index;
    task.first_tile = cut(group->tiles, group->parts, part);
    task.tiles = cut(group->tiles, group->parts, part + 1) - task.first_tile;
    task.first_query = cut(group->queries, group->tiles, task.first_tile);
    task.queries = cut(group->queries, group->tiles, task.first_tile + task.tiles) - task.first_query;
    return task;
}

DOVETAIL_INLINE int64_t within_range(int64_t position, int64_t begin) {
    return smaller(larger(position - begin, 0), kRange);
}

// Fills in what each query and each tile of the task sees of the range.
inline void look_at_range(const Attention &attention, const Task &task, int64_t begin, TaskMemory &memory) {
    const Plan &plan = attention.plan;
    const Group &group = *task.group;
    const Row *row = plan.rows + group.first_row + task.first_query / plan.group_size;
    int64_t next_row = plan.group_size - task.first_query % plan.group_size;
    for (int64_t i = 0; i < task.queries; ++i) {
        if (i == next_row) {
            ++row;
            next_row += plan.group_size;
        }
        Query &query = memory.queries[i];
        query.row = row;
        query.first = within_range(row->first, begin);
        query.straight = within_range(row->straight, begin);
        query.end = within_range(row->end, begin);
    }
    int64_t first = 0;
    for (int64_t t = 0; t < task.tiles; ++t) {
        const int64_t end = cut(group.queries, group.tiles, task.first_tile + t + 1) - task.first_query;
        Tile &tile = memory.tiles[t];
        tile.packed = attention.packed + query_offset(*attention.call, plan, group, task.kv_head, task.first_query + first);
        tile.first = first;
        tile.count = end - first;
        first = end;
        tile.low = kRange;
        tile.high = 0;
        tile.listed = 0;
        for (int64_t i = tile.first; i < tile.first + tile.count; ++i) {
            const Query &query = memory.queries[i];
            if (query.first < query.straight) {
                tile.low = smaller(tile.low, query.first);
                tile.high = larger(tile.high, query.straight);
            }
            if (larger(query.first, query.straight) < query.end) {
                tile.listed = 1;
            }
        }
    }
}

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

DOVETAIL_INLINE bool is_worth_widening(const Task &task, const uint16_t *) {
    return task.tiles >= kWideTiles;
}

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

// A query's ranges from `first` on, put together. `partials` begin with this query.
inline void join_one(const Partials &partials, int64_t first, int64_t head_size, float *y) {
    const int64_t place = first * partials.queries;
    const Floats factor = splat(1.0f / partials.totals[place]);
    for (int64_t d = 0; d < head_size; d += kLanes) {
        store(y + d, mul(load(partials.sums + place * head_size + d), factor));
    }
}

inline void join_ranges(const Partials &partials, int64_t first, int64_t last, int64_t head_size, float *y) {
    float largest = partials.largest[first * partials.queries];
    for (int64_t r = first + 1; r < last; ++r) {
        const float other = partials.largest[r * partials.queries];
        largest = largest < other ? other : largest;
    }
    Floats total = zero();
    for (int64_t r = first; r < last; ++r) {
        float *place = partials.largest + r * partials.queries;
        const Floats factor = exp2(splat(*place - largest));
        store_first(place, factor, 1);
        total = fma(factor, splat(partials.totals[r * partials.queries]), total);
    }
    const Floats reciprocal = div(splat(1.0f), total);
    for (int64_t d = 0; d < head_size; d += kLanes) {
        Floats joined = zero();
        for (int64_t r = first; r < last; ++r) {
            const Floats part = load(partials.sums + r * partials.queries * head_size + d);
            joined = fma(splat(partials.largest[r * partials.queries]), part, joined);
        }
        store(y + d, mul(joined, reciprocal));
    }
}

// The end of query `query` of a group: its ranges, put together, are its output. `partials` begin with this query.
inline void finish_query(const Attention &attention, const Group &group, int64_t kv_head, int64_t query,
                         const Partials &partials) {
    const AttentionCall &call = *attention.call;
    const int64_t group_size = attention.plan.group_size;
    const Row &row = attention.plan.rows[group.first_row + query / group_size];
    const int64_t first = row.first / kRange - group.first_range;
    const int64_t last = (row.end - 1) / kRange + 1 - group.first_range;
    const int64_t head = kv_head * group_size + query % group_size;
    float *y = call.y + (row.index * call.heads + head) * call.head_size;
    if (last - first == 1) {
        join_one(partials, first, call.head_size, y);
    } else {
        join_ranges(partials, first, last, call.head_size, y);
    }
}

DOVETAIL_INLINE Partials partials_of_group(const Attention &attention, const Group &group, int64_t kv_head) {
    const int64_t places = kv_head * attention.plan.partials + group.first_partial;
    Partials partials = moved(attention.partials, places, attention.call->head_size);
    partials.queries = group.queries;
    return partials;
}

DOVETAIL_INLINE void note_failure(Attention &attention) {
#if defined(__GNUC__)
    __atomic_store_n(&attention.failed, 1, __ATOMIC_RELAXED);
#else
    attention.failed = 1;
#endif
}

template <class Element>
void run_attention_task(Attention &attention, int64_t index) {
    const Task task = task_of(attention, index);
    const int64_t head_size = attention.call->head_size;
    Carver counter(nullptr);
    take_task_memory(counter, attention, task);
    void *scratch = task_scratch(counter.used());
    if (scratch == nullptr) {
        note_failure(attention);
        return;
    }
    Carver carver(scratch);
    TaskMemory memory = take_task_memory(carver, attention, task);
    Partials partials = memory.partials;
    if (!attention.plan.whole) {
        partials = moved(partials_of_group(attention, *task.group, task.kv_head), task.first_query, head_size);
    }
    for (int64_t range = task.first_range; range < task.first_range + task.ranges; ++range) {
        const int64_t places = (range - task.group->first_range) * partials.queries;
        attend_range<Element>(attention, task, range, memory, moved(partials, places, head_size));
    }
    if (task.ranges == task.group->ranges) {
        for (int64_t i = 0; i < task.queries; ++i) {
            finish_query(attention, *task.group, task.kv_head, task.first_query + i, moved(partials, i, head_size));
        }
    }
}

// Tasks of a single range leave their queries to this.
inline void finish_row(const Attention &attention, const Group &group, int64_t row_of_group, int64_t kv_head) {
    const int64_t group_size = attention.plan.group_size;
    const Partials partials = partials_of_group(attention, group, kv_head);
    for (int64_t query = row_of_group * group_size; query < (row_of_group + 1) * group_size; ++query) {
        finish_query(attention, group, kv_head, query, moved(partials, query, attention.call->head_size));
    }
}

template <class Work>
void run_items(const Pool &pool, bool parallel, int64_t count, const Work &work) {
    if (parallel && count > 1) {
        run_parallel(pool, static_cast<size_t>(count), work);
    } else {
        run_here(static_cast<size_t>(count), work);
    }
}

template <class Element>
void prepare_rows(const Attention &attention, const Pool &pool) {
    const AttentionCall &call = *attention.call;
    const Plan &plan = attention.plan;
    const int64_t kinds = 2 * call.kv_heads;  // queries, or key and value, of each head of keys and values
    for (int64_t i = 0; i < plan.group_count; ++i) {
        const Group &group = plan.groups[i];
        const int64_t blocks = (group.rows + kRowsOfItem - 1) / kRowsOfItem;
        const auto item = [&](size_t index) {
            const int64_t kind = static_cast<int64_t>(index) % kinds;
            const int64_t block = static_cast<int64_t>(index) / kinds;
            if (kind < call.kv_heads) {
                const int64_t last = cut(group.tiles, blocks, block + 1);
                for (int64_t tile = cut(group.tiles, blocks, block); tile < last; ++tile) {
                    pack_tile(call, plan, group, kind, tile, attention.packed);
                }
            } else {
                const int64_t last = smaller((block + 1) * kRowsOfItem, group.rows);
                for (int64_t row = block * kRowsOfItem; row < last; ++row) {
                    append_row<Element>(call, plan.rows[group.first_row + row], kind - call.kv_heads);
                }
            }
        };
        // Each input of a key lies in a cache line of its own: it costs as much as several elements.
        const int64_t elements = (group.rows * (call.heads + 2 * call.kv_heads) + 4 * call.kv_heads) * call.head_size;
        run_items(pool, elements >= kParallelRows, blocks * kinds, item);
    }
}

inline void finish_rows(const Attention &attention, const Pool &pool) {
    const AttentionCall &call = *attention.call;
    for (int64_t i = 0; i < attention.plan.group_count; ++i) {
        const Group &group = attention.plan.groups[i];
        if (attention.plan.whole || group.ranges == 1) {
            continue;
        }
        const auto item = [&](size_t index) {
            finish_row(attention, group, static_cast<int64_t>(index) / call.kv_heads,
                       static_cast<int64_t>(index) % call.kv_heads);
        };
        const int64_t elements = group.ranges * group.queries * call.kv_heads * call.head_size;
        run_items(pool, elements >= kParallelPartials, group.rows * call.kv_heads, item);
    }
}

template <class Element>
void run_attention(Attention &attention, const Pool &pool) {
    prepare_rows<Element>(attention, pool);
    run_items(pool, true, attention.plan.tasks,
              [&](size_t index) { run_attention_task<Element>(attention, static_cast<int64_t>(index)); });
    finish_rows(attention, pool);
}

// Memory of the whole call. Without memory it counts; partials are then as many as there can be.
struct CallMemory {
    Row *rows;
    Row *spare_rows;
    int64_t *slots;
    Group *groups;
    float *packed;
    Partials partials;
};

inline CallMemory take_call_memory(Carver &carver, const AttentionCall &call) {
    CallMemory memory{};
    memory.rows = carver.take<Row>(call.rows);
    memory.spare_rows = carver.take<Row>(call.rows);
    memory.slots = carver.take<int64_t>(call.max_ancestors == 0 ? 0 : call.rows * (call.max_ancestors + 1));
    memory.groups = carver.take<Group>(smaller(call.rows, call.sequences));
    memory.packed = carver.take<float>(call.rows * call.heads * call.head_size);
    const int64_t ranges = (longest_end(call) - 1) / kRange + 1;
    const int64_t partials = call.rows * call.heads >= kWholeQueries ? 0 : call.rows * call.heads * ranges;
    memory.partials = take_partials(carver, 0, partials, call.head_size);
    return memory;
}

inline const char *attention(const AttentionCall &call, const Pool &pool) {
    if (call.rows == 0) {
        return nullptr;
    }
    Carver counter(nullptr);
    take_call_memory(counter, call);
    void *scratch = call_scratch(counter.used());
    if (scratch == nullptr) {
        return "memory must hold what attention needs, got none; use fewer rows or a shorter context";
    }
    Carver carver(scratch);
    CallMemory memory = take_call_memory(carver, call);
    Attention attention{};
    attention.call = &call;
    list_rows(call, memory.rows, memory.slots);
    attention.plan.rows = sorted_rows(memory.rows, memory.spare_rows, call.rows);
    attention.plan.groups = memory.groups;
    make_plan(call, attention.plan);
    attention.packed = memory.packed;
    attention.partials = memory.partials;
    if (call.cache_type == CacheType::kHalf) {
        run_attention<uint16_t>(attention, pool);
    } else {
        run_attention<float>(attention, pool);
    }
    return attention.failed ? "memory must hold what attention needs, got none; use fewer rows or a shorter context"
                            : nullptr;
}

}  // namespace
}  // namespace dovetail

// Attention over logical positions, as kernels.h defines it.
//
// A call takes three steps. Rows go into the cache, and queries into tiles (attention_prepare.h). Tasks, each some
// queries of one head of keys and values, calculate ranges of positions (attention_range.h). The ranges of a query are
// joined.
#pragma once

#include "attention_plan.h"
#include "attention_prepare.h"
#include "attention_range.h"
#include "attention_scratch.h"
#include "attention_task.h"
#include "attention_tiles.h"
#include "floating_mode.h"
#include "kernels.h"
#include "lanes.h"

namespace dovetail {
namespace {

constexpr int64_t kParallelRows = 8192;       // elements of rows from which they are prepared in parallel
constexpr int64_t kParallelPartials = 65536;  // elements of partial sums from which they are joined in parallel
constexpr int64_t kRowsOfItem = 32;           // rows that are prepared together

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

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
#if defined(__GNUC__) || defined(__clang__)
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

inline void finish_row(const Attention &attention, const Group &group, int64_t row_of_group, int64_t kv_head) {
    const int64_t group_size = attention.plan.group_size;
    const Partials partials = partials_of_group(attention, group, kv_head);
    for (int64_t query = row_of_group * group_size; query < (row_of_group + 1) * group_size; ++query) {
        finish_query(attention, group, kv_head, query, moved(partials, query, attention.call->head_size));
    }
}

// What prepares a row costs in elements. Each input of a key lies in a cache line of its own: it costs as much as
// several.
DOVETAIL_INLINE int64_t elements_to_prepare(const AttentionCall &call, int64_t rows) {
    return (rows * (call.heads + 2 * call.kv_heads) + 4 * call.kv_heads) * call.head_size;
}

// Block `index / kinds` of a group's rows: the queries, or key and value, of one head of keys and values.
template <class Element>
void prepare_item(const Attention &attention, const Group &group, int64_t blocks, int64_t index) {
    const AttentionCall &call = *attention.call;
    const int64_t kinds = 2 * call.kv_heads;
    const int64_t kind = index % kinds;
    const int64_t block = index / kinds;
    if (kind < call.kv_heads) {
        const int64_t last = cut(group.tiles, blocks, block + 1);
        for (int64_t tile = cut(group.tiles, blocks, block); tile < last; ++tile) {
            pack_tile(call, attention.plan, group, kind, tile, attention.packed);
        }
    } else {
        const int64_t last = smaller((block + 1) * kRowsOfItem, group.rows);
        for (int64_t row = block * kRowsOfItem; row < last; ++row) {
            append_row<Element>(call, attention.plan.rows[group.first_row + row], kind - call.kv_heads);
        }
    }
}

// One sequence is cut by heads and rows, several are an item each.
template <class Element>
void prepare_rows(const Attention &attention, const Pool &pool) {
    const AttentionCall &call = *attention.call;
    const Plan &plan = attention.plan;
    const auto items_of = [&](const Group &group) {
        return (group.rows + kRowsOfItem - 1) / kRowsOfItem * 2 * call.kv_heads;
    };
    const auto prepare = [&](const Group &group, int64_t index) {
        prepare_item<Element>(attention, group, items_of(group) / (2 * call.kv_heads), index);
    };
    const bool parallel = elements_to_prepare(call, call.rows) >= kParallelRows;
    if (plan.group_count == 1) {
        const Group &group = plan.groups[0];
        run_items(pool, parallel, items_of(group), [&](size_t index) { prepare(group, static_cast<int64_t>(index)); });
        return;
    }
    run_items(pool, parallel, plan.group_count, [&](size_t number) {
        const Group &group = plan.groups[number];
        for (int64_t index = 0; index < items_of(group); ++index) {
            prepare(group, index);
        }
    });
}

// Tasks of a single range leave their queries to this.
inline void finish_rows(const Attention &attention, const Pool &pool) {
    const AttentionCall &call = *attention.call;
    const Plan &plan = attention.plan;
    const auto is_finished = [&](const Group &group) { return plan.whole || group.ranges == 1; };
    const auto finish = [&](const Group &group, int64_t index) {
        finish_row(attention, group, index / call.kv_heads, index % call.kv_heads);
    };
    const bool parallel = plan.partials * call.kv_heads * call.head_size >= kParallelPartials;
    if (plan.group_count == 1) {
        const Group &group = plan.groups[0];
        if (!is_finished(group)) {
            run_items(pool, parallel, group.rows * call.kv_heads,
                      [&](size_t index) { finish(group, static_cast<int64_t>(index)); });
        }
        return;
    }
    run_items(pool, parallel, plan.group_count, [&](size_t number) {
        const Group &group = plan.groups[number];
        for (int64_t index = 0; !is_finished(group) && index < group.rows * call.kv_heads; ++index) {
            finish(group, index);
        }
    });
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

// What each row of an attention sees, and how the work is cut. By shape alone: the number of threads is not known here.
#pragma once

#include "kernels.h"
#include "lanes.h"

namespace dovetail {
namespace {

constexpr int64_t kPartQueries = 96;     // queries that one task takes at most
constexpr int64_t kWholeQueries = 3072;  // from so many queries on, a task takes all ranges of its queries
constexpr int64_t kEnoughTasks = 8;      // below so many tasks, a task's queries are cut once more

struct Row {
    int64_t index;  // the row of the call
    int64_t sequence;
    int64_t first;         // the first logical position that it sees
    int64_t straight;      // logical positions below this one lie in the slots of the same numbers
    int64_t end;           // its own logical position is end - 1
    const int64_t *slots;  // slots of the logical positions straight, ..., end - 1
};

// The rows of one sequence. A query is a row and one of the query heads that share a head of keys and values: query n
// belongs to row first_row + n / group size. Tiles are even cuts of the queries, parts are even cuts of the tiles.
struct Group {
    int64_t first_row;
    int64_t rows;
    int64_t queries;
    int64_t tiles;
    int64_t parts;
    int64_t first_range;
    int64_t ranges;
    int64_t first_task;     // tasks of the groups before this one
    int64_t first_partial;  // queries times ranges of the groups before this one
};

struct Plan {
    int64_t group_size;  // query heads that share a head of keys and values
    bool whole;          // whether a task takes all ranges of its queries
    Row *rows;
    Group *groups;
    int64_t group_count;
    int64_t tasks;
    int64_t partials;  // queries times ranges of one head of keys and values
};

DOVETAIL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

DOVETAIL_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

DOVETAIL_INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Where piece `index` begins when n things are cut evenly into `pieces`.
DOVETAIL_INLINE int64_t cut(int64_t n, int64_t pieces, int64_t index) { return n * index / pieces; }

inline int64_t count_ancestors(const int64_t *ancestors, int64_t most) {
    int64_t count = 0;
    while (count < most && ancestors[count] >= 0) {
        ++count;
    }
    return count;
}

// Logical positions that the rows of this call can see at most.
inline int64_t longest_end(const AttentionCall &call) {
    int64_t longest = 0;
    for (int64_t i = 0; i < call.rows; ++i) {
        const int64_t before =
            call.max_ancestors == 0 ? call.slots[i] : call.lengths[call.sequence_ids[i]] + call.max_ancestors;
        longest = larger(longest, before + 1);
    }
    return longest;
}

inline Row chain_row(const AttentionCall &call, int64_t index) {
    Row row{};
    row.index = index;
    row.sequence = call.sequence_ids[index];
    row.end = call.slots[index] + 1;
    row.straight = row.end;
    return row;
}

// `slots` has room for all ancestors and the row itself.
inline Row tree_row(const AttentionCall &call, int64_t index, int64_t *slots) {
    const int64_t *ancestors = call.ancestors + index * call.max_ancestors;
    const int64_t count = count_ancestors(ancestors, call.max_ancestors);
    std::memcpy(slots, ancestors, static_cast<size_t>(count) * sizeof(int64_t));
    slots[count] = call.slots[index];
    Row row{};
    row.index = index;
    row.sequence = call.sequence_ids[index];
    row.straight = call.lengths[row.sequence];
    row.end = row.straight + count + 1;
    row.slots = slots;
    while (row.straight < row.end && *row.slots == row.straight) {
        ++row.straight;
        ++row.slots;
    }
    return row;
}

inline void list_rows(const AttentionCall &call, Row *rows, int64_t *slots) {
    for (int64_t i = 0; i < call.rows; ++i) {
        rows[i] =
            call.max_ancestors == 0 ? chain_row(call, i) : tree_row(call, i, slots + i * (call.max_ancestors + 1));
        if (call.window > 0) {
            rows[i].first = larger(0, rows[i].end - call.window);
        }
    }
}

DOVETAIL_INLINE bool comes_before(const Row &a, const Row &b) {
    if (a.sequence != b.sequence) {
        return a.sequence < b.sequence;
    }
    if (a.straight != b.straight) {
        return a.straight < b.straight;
    }
    return a.first < b.first;
}

inline bool is_sorted(const Row *rows, int64_t count) {
    for (int64_t i = 1; i < count; ++i) {
        if (comes_before(rows[i], rows[i - 1])) {
            return false;
        }
    }
    return true;
}

inline void merge(const Row *from, int64_t begin, int64_t middle, int64_t end, Row *to) {
    int64_t left = begin;
    int64_t right = middle;
    for (int64_t i = begin; i < end; ++i) {
        const bool take_left = right == end || (left < middle && !comes_before(from[right], from[left]));
        to[i] = take_left ? from[left++] : from[right++];
    }
}

// Rows of one sequence come together, those that see alike beside each other. `spare` has room for as many rows;
// returns the one of the two that holds the result.
inline Row *sorted_rows(Row *rows, Row *spare, int64_t count) {
    if (is_sorted(rows, count)) {
        return rows;
    }
    for (int64_t width = 1; width < count; width *= 2) {
        for (int64_t begin = 0; begin < count; begin += 2 * width) {
            merge(rows, begin, smaller(begin + width, count), smaller(begin + 2 * width, count), spare);
        }
        Row *merged = spare;
        spare = rows;
        rows = merged;
    }
    return rows;
}

inline Group group_of(const Plan &plan, int64_t first_row, int64_t rows) {
    Group group{};
    group.first_row = first_row;
    group.rows = rows;
    group.queries = rows * plan.group_size;
    group.tiles = (group.queries + kAttentionQueries - 1) / kAttentionQueries;
    group.parts = (group.queries + kPartQueries - 1) / kPartQueries;
    int64_t first = plan.rows[first_row].first;
    int64_t end = 0;
    for (int64_t i = first_row; i < first_row + rows; ++i) {
        first = smaller(first, plan.rows[i].first);
        end = larger(end, plan.rows[i].end);
    }
    group.first_range = first / kRange;
    group.ranges = (end - 1) / kRange + 1 - group.first_range;
    return group;
}

inline void list_groups(const AttentionCall &call, Plan &plan) {
    plan.group_count = 0;
    int64_t first = 0;
    for (int64_t i = 1; i <= call.rows; ++i) {
        if (i == call.rows || plan.rows[i].sequence != plan.rows[first].sequence) {
            plan.groups[plan.group_count++] = group_of(plan, first, i - first);
            first = i;
        }
    }
}

DOVETAIL_INLINE int64_t tasks_of_group(const Plan &plan, const Group &group, int64_t kv_heads) {
    return kv_heads * group.parts * (plan.whole ? 1 : group.ranges);
}

// Few tasks of several rows are cut once more, so that two and more threads end together.
inline void cut_finer(const Plan &plan, int64_t kv_heads) {
    int64_t tasks = 0;
    for (int64_t i = 0; i < plan.group_count; ++i) {
        tasks += tasks_of_group(plan, plan.groups[i], kv_heads);
    }
    for (int64_t i = 0; i < plan.group_count && tasks < kEnoughTasks; ++i) {
        Group &group = plan.groups[i];
        if (group.rows > 1) {
            group.parts *= 2;
            group.tiles = larger(group.tiles, group.parts);
        }
    }
}

// `rows` and `groups` of the plan have room; the rows are there.
inline void make_plan(const AttentionCall &call, Plan &plan) {
    plan.group_size = call.heads / call.kv_heads;
    plan.whole = call.rows * call.heads >= kWholeQueries;
    list_groups(call, plan);
    cut_finer(plan, call.kv_heads);
    plan.tasks = 0;
    plan.partials = 0;
    for (int64_t i = 0; i < plan.group_count; ++i) {
        Group &group = plan.groups[i];
        group.first_task = plan.tasks;
        group.first_partial = plan.partials;
        plan.tasks += tasks_of_group(plan, group, call.kv_heads);
        plan.partials += group.queries * group.ranges;
    }
}

}  // namespace
}  // namespace dovetail

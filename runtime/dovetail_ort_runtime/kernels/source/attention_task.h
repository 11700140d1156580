// One task of attention: some queries of one head of keys and values, over one range of positions or all of them.
#pragma once

#include "attention_plan.h"
#include "attention_prepare.h"
#include "attention_scratch.h"
#include "attention_tiles.h"
#include "kernels.h"
#include "lanes.h"

namespace dovetail {
namespace {

constexpr int64_t kKeptScores = kScoreStride / kLanes - 1;  // groups of 16 slots whose scores a tile keeps

struct Attention {
    const AttentionCall *call;
    Plan plan;
    float *packed;      // queries in tiles
    Partials partials;  // of all heads, unless tasks take all ranges of their queries
    int failed;         // whether a task found no memory
};

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
    int64_t first;  // its first query, counted within the task
    int64_t count;
    int64_t low;  // what its queries see in straight slots lies between low and high
    int64_t high;
    int64_t listed;  // whether a query sees a listed slot
};

struct TaskMemory {
    float *scores;  // (queries, kScoreStride)
    Query *queries;
    Tile *tiles;
    float *kept;  // (kAttentionQueries, kScoreStride), scores of listed slots
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
        tile.packed =
            attention.packed + query_offset(*attention.call, plan, group, task.kv_head, task.first_query + first);
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

}  // namespace
}  // namespace dovetail

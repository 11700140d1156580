// The memory of attention: arrays that are cut out of one piece, and what queries have after each range.
#pragma once

#include "attention_plan.h"
#include "kernels.h"
#include "lanes.h"

namespace dovetail {
namespace {

constexpr int64_t kAlignment = 64;

// What queries have after each of their ranges. Range r of query q stands at r * queries + q.
struct Partials {
    int64_t queries;
    float *sums;     // (ranges, queries, D)
    float *largest;  // (ranges, queries)
    float *totals;   // (ranges, queries)
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

}  // namespace
}  // namespace dovetail

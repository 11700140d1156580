// What rows, slots and ancestors of an attention must be, checked before a kernel sees them.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace dovetail {

// Throws a one-line Failure unless the rows are a chain or a tree within the caches; `positions` is the length of the
// rotary tables.
void check_attention_rows(const AttentionCall &call, int64_t positions);

}  // namespace dovetail

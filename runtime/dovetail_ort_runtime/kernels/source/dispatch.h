// Which level of the kernels this processor runs.
#pragma once

#include "kernels.h"

namespace dovetail {

// The level of this process, chosen once: the fastest one that the processor has, or the one that the environment
// variable DOVETAIL_KERNELS names. Null if that one is not to be had; *error then says so in one line.
const Kernels *chosen_kernels(const char **error);

// The levels that are in this build and that the processor has, the fastest one first; null behind the last.
const Kernels *const *usable_kernels();

}  // namespace dovetail

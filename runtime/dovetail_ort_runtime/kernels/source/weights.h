// Packed weights of a node: checked when its kernel is made.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "placed_constant.h"
#include "tensors.h"

namespace dovetail {

// The weight, scales and bias of a node, from the input at place `index` on, and its factors at a place of their own.
class PackedWeight {
  public:
    // An embedding has no blocks and no bias.
    enum class Reader { kEmbedding, kProduct };

    PackedWeight(const OrtKernelInfo *info, size_t index, size_t factors_index, Reader reader);

    const Weight &weight() const { return weight_; }

  private:
    Weight weight_;
    PlacedConstant codes_;
    PlacedConstant factors_;
};

}  // namespace dovetail

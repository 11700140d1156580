// Packed weights of a node: checked when its kernel is made, and placed where they are read from.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "tensors.h"

namespace dovetail {

// A constant that stays where ONNX Runtime holds it, or, with DOVETAIL_WEIGHTS=copy, lies in large pages of our own.
//
// The owners of one constant share one copy: a tied weight is read by the embedding and by the head.
class PlacedConstant {
  public:
    PlacedConstant(const void *constant, size_t bytes);
    ~PlacedConstant();
    PlacedConstant(const PlacedConstant &) = delete;
    PlacedConstant &operator=(const PlacedConstant &) = delete;

    const uint8_t *data() const { return data_; }

  private:
    const void *constant_;
    const uint8_t *data_;
};

// The weight, scales and bias of a node, from the input at place `index` on.
class PackedWeight {
  public:
    // An embedding has no blocks and no bias.
    enum class Reader { kEmbedding, kProduct };

    PackedWeight(const OrtKernelInfo *info, size_t index, Reader reader);

    const Weight &weight() const { return weight_; }

  private:
    Weight weight_;
    PlacedConstant codes_;
};

// Bytes of the codes of a weight of this size.
int64_t packed_bytes(int64_t outputs, int64_t inputs);

}  // namespace dovetail

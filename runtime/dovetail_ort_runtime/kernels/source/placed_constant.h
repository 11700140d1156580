// Where a kernel reads a large constant from: where ONNX Runtime holds it, or a copy in large pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dovetail {

struct ConstantCopy;

// ONNX Runtime maps the weights of a file; what is mapped is shared by processes, in small pages, whose addresses take
// a good part of a forward to look up. So a constant is copied once into large pages, and the mapped pages are given
// back. With the environment variable DOVETAIL_WEIGHTS=map it stays where it is.
//
// Null stays null. The owners of one constant share one copy: a tied weight is read by the embedding and by the head.
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
    std::shared_ptr<const ConstantCopy> copy_;  // null where the constant stays where it is
};

}  // namespace dovetail

#include "weights.h"

#include <cinttypes>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "status.h"

namespace dovetail {

namespace {

constexpr size_t kLargePage = size_t{2} << 20;
// No weight of a model has so many; sizes up to here cannot overflow.
constexpr int64_t kMostInputs = int64_t{1} << 24;

bool copies_weights() {
    const char *asked = std::getenv("DOVETAIL_WEIGHTS");
    if (asked == nullptr || std::strcmp(asked, "map") == 0) {
        return false;
    }
    if (std::strcmp(asked, "copy") == 0) {
        return true;
    }
    fail("DOVETAIL_WEIGHTS must be map or copy, got %.40s; set one of them", asked);
}

size_t whole_pages(size_t bytes) {
    return (bytes + kLargePage - 1) / kLargePage * kLargePage;
}

// Memory aligned to large pages, which Linux is asked to use for it.
void *allocate(size_t bytes) {
#if defined(_WIN32)
    void *memory = _aligned_malloc(whole_pages(bytes), 64);
#else
    void *memory = std::aligned_alloc(kLargePage, whole_pages(bytes));
#endif
    if (memory == nullptr) {
        throw std::bad_alloc();
    }
#if defined(__linux__)
    madvise(memory, whole_pages(bytes), MADV_HUGEPAGE);  // without large pages the copy is slower, and right
#endif
    return memory;
}

void release(void *memory) {
#if defined(_WIN32)
    _aligned_free(memory);
#else
    std::free(memory);
#endif
}

struct Copy {
    void *memory;
    int64_t owners;
};

// Copies by the address of what they were made of.
struct Copies {
    std::mutex mutex;
    std::map<const void *, Copy> found;
};

// Lives until the process ends: kernels may be destroyed later than static objects are.
Copies &copies() {
    static Copies *const all = new Copies;
    return *all;
}

const uint8_t *placed(const void *constant, size_t bytes) {
    if (!copies_weights()) {
        return static_cast<const uint8_t *>(constant);
    }
    Copies &all = copies();
    const std::lock_guard<std::mutex> lock(all.mutex);
    Copy &copy = all.found[constant];
    if (copy.owners == 0) {
        try {
            copy.memory = allocate(bytes);
        } catch (...) {
            all.found.erase(constant);
            throw;
        }
        std::memcpy(copy.memory, constant, bytes);
    }
    copy.owners++;
    return static_cast<const uint8_t *>(copy.memory);
}

Weight checked_weight(const OrtKernelInfo *info, size_t index, PackedWeight::Reader reader) {
    const Tensor codes = constant(info, index, "weight", ORT_UINT8);
    const Tensor scales = constant(info, index + 1, "scales", ORT_FLOAT);
    const int64_t inputs = integer(info, "inputs");
    const int64_t bits = integer(info, "bits", 8);
    const int64_t group = integer(info, "group", 0);
    if (inputs < 1 || inputs > kMostInputs) {
        fail("attribute inputs must be 1 to %" PRId64 ", got %" PRId64 "; export the model again", kMostInputs, inputs);
    }
    if (bits != 8) {
        fail("attribute bits must be 8, got %" PRId64 "; update dovetail-ort, or export the model again", bits);
    }
    if (group != 0) {
        fail("attribute group must be 0, got %" PRId64 "; update dovetail-ort, or export the model again", group);
    }
    scales.must_have_shape(-1);
    const int64_t outputs = scales.shape.dims[0];
    if (outputs < 1) {
        fail("scales must have at least one element, got none; export the model again");
    }
    const int64_t slabs = (outputs + kSlab - 1) / kSlab;
    const int64_t padded_inputs = (inputs + kInputPad - 1) / kInputPad * kInputPad;
    codes.must_have_shape(slabs, padded_inputs / 4, kSlab, 4);
    Weight weight{static_cast<const uint8_t *>(codes.data), scales.floats(), nullptr, outputs, inputs, 64};
    if (reader == PackedWeight::Reader::kProduct) {
        weight.block = integer(info, "block");
        if (weight.block != 64 && weight.block != 32) {
            fail("attribute block must be 64 or 32, got %" PRId64 "; export the model again", weight.block);
        }
        const Tensor bias = optional_constant(info, index + 2, "bias", ORT_FLOAT);
        if (bias.is_given()) {
            bias.must_have_shape(outputs);
            weight.bias = bias.floats();
        }
    }
    return weight;
}

}  // namespace

int64_t packed_bytes(int64_t outputs, int64_t inputs) {
    return (outputs + kSlab - 1) / kSlab * kSlab * ((inputs + kInputPad - 1) / kInputPad * kInputPad);
}

PlacedConstant::PlacedConstant(const void *constant, size_t bytes)
    : constant_(constant), data_(placed(constant, bytes)) {}

PlacedConstant::~PlacedConstant() {
    if (data_ == constant_) {
        return;
    }
    Copies &all = copies();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.found.find(constant_);
    if (--found->second.owners == 0) {
        release(found->second.memory);
        all.found.erase(found);
    }
}

PackedWeight::PackedWeight(const OrtKernelInfo *info, size_t index, Reader reader)
    : weight_(checked_weight(info, index, reader)),
      codes_(weight_.codes, static_cast<size_t>(packed_bytes(weight_.outputs, weight_.inputs))) {
    weight_.codes = codes_.data();
}

}  // namespace dovetail

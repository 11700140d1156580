#include "placed_constant.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "status.h"

namespace dovetail {

namespace {

constexpr size_t kLargePage = size_t{2} << 20;
constexpr size_t kChunk = size_t{64} << 20;
constexpr size_t kAlignment = 64;
constexpr size_t kLeastDropped = size_t{256} << 10;  // less is not worth a look at what is mapped where

bool copies_weights() {
    const char *asked = std::getenv("DOVETAIL_WEIGHTS");
    if (asked == nullptr || asked[0] == '\0' || std::strcmp(asked, "copy") == 0) {
        return true;
    }
    if (std::strcmp(asked, "map") == 0) {
        return false;
    }
    fail("DOVETAIL_WEIGHTS must be map or copy, got %.40s; set one of them", asked);
}

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Memory for many copies, so that small ones share a large page. It is taken from the system when it is first written.
class Chunk {
  public:
    explicit Chunk(size_t bytes) : bytes_(round_up(bytes, kLargePage)) {
#if defined(__linux__)
        // Not from the heap: what was freed there comes back with its small pages, and they stay small.
        mapped_ = mmap(nullptr, bytes_ + kLargePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped_ == MAP_FAILED) {
            throw std::bad_alloc();
        }
        memory_ = reinterpret_cast<uint8_t *>(round_up(reinterpret_cast<uintptr_t>(mapped_), kLargePage));
        madvise(memory_, bytes_, MADV_HUGEPAGE);  // a system without large pages is slower, and right
#else
#if defined(_WIN32)
        memory_ = static_cast<uint8_t *>(_aligned_malloc(bytes_, kAlignment));
#else
        memory_ = static_cast<uint8_t *>(std::aligned_alloc(kLargePage, bytes_));
#endif
        if (memory_ == nullptr) {
            throw std::bad_alloc();
        }
#endif
    }
    ~Chunk() {
#if defined(__linux__)
        munmap(mapped_, bytes_ + kLargePage);
#elif defined(_WIN32)
        _aligned_free(memory_);
#else
        std::free(memory_);
#endif
    }
    Chunk(const Chunk &) = delete;
    Chunk &operator=(const Chunk &) = delete;

    bool has_room(size_t bytes) const { return bytes <= bytes_ - used_; }
    uint8_t *take(size_t bytes) {
        uint8_t *taken = memory_ + used_;
        used_ = round_up(used_ + bytes, kAlignment);
        return taken;
    }

  private:
    size_t bytes_;
#if defined(__linux__)
    void *mapped_;  // holds memory_, which begins at a large page
#endif
    uint8_t *memory_;
    size_t used_ = 0;
};

}  // namespace

// A constant's bytes; the chunk that they lie in goes with the last copy in it.
struct ConstantCopy {
    std::shared_ptr<Chunk> chunk;
    const uint8_t *data;
    size_t bytes;
};

namespace {

// A kernel may outlive the constant that it copied, whose address then belongs to another one. So an address says only
// which copy could be shared, and its bytes say whether it is.
class Copies {
  public:
    std::shared_ptr<const ConstantCopy> own(const void *constant, size_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::weak_ptr<const ConstantCopy> &known = by_constant_[constant];
        const std::shared_ptr<const ConstantCopy> found = known.lock();
        if (found != nullptr && found->bytes == bytes && std::memcmp(found->data, constant, bytes) == 0) {
            return found;
        }
        const auto copy = std::make_shared<const ConstantCopy>(make_copy(constant, bytes));
        known = copy;
        return copy;
    }

    void disown(const void *constant, std::shared_ptr<const ConstantCopy> &copy) {
        const std::lock_guard<std::mutex> lock(mutex_);
        copy.reset();
        const auto found = by_constant_.find(constant);
        if (found != by_constant_.end() && found->second.expired()) {
            by_constant_.erase(found);
        }
    }

  private:
    ConstantCopy make_copy(const void *constant, size_t bytes) {
        std::shared_ptr<Chunk> chunk = newest_.lock();
        if (chunk == nullptr || !chunk->has_room(bytes)) {
            chunk = std::make_shared<Chunk>(bytes > kChunk ? bytes : kChunk);
            newest_ = chunk;
        }
        uint8_t *data = chunk->take(bytes);
        std::memcpy(data, constant, bytes);
        return {chunk, data, bytes};
    }

    std::mutex mutex_;
    std::weak_ptr<Chunk> newest_;
    std::map<const void *, std::weak_ptr<const ConstantCopy>> by_constant_;
};

// Lives until the process ends: kernels may be destroyed later than static objects are.
Copies &copies() {
    static Copies *const all = new Copies;
    return *all;
}

#if defined(__linux__)

// Whether all of [first, last) is mapped from one file: such pages come back from it when they are read again.
bool is_mapped_from_a_file(uintptr_t first, uintptr_t last) {
    FILE *maps = std::fopen("/proc/self/maps", "re");
    if (maps == nullptr) {
        return false;
    }
    bool found = false;
    char line[512];
    while (!found && std::fgets(line, sizeof line, maps) != nullptr) {
        uintptr_t start = 0;
        uintptr_t end = 0;
        uint64_t inode = 0;
        // address permissions offset device inode
        if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %" SCNu64, &start, &end, &inode) == 3) {
            found = inode != 0 && start <= first && last <= end;
        }
    }
    std::fclose(maps);
    return found;
}

// Gives back the whole pages of a constant that nothing reads any more.
void drop_pages(const void *constant, size_t bytes) {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t start = reinterpret_cast<uintptr_t>(constant);
    const uintptr_t first = round_up(start, page);
    const uintptr_t last = (start + bytes) / page * page;
    if (bytes >= kLeastDropped && is_mapped_from_a_file(first, last)) {
        madvise(reinterpret_cast<void *>(first), last - first, MADV_DONTNEED);
    }
}

// Asks for a constant that is not in memory yet, all at once instead of page by page as it is read.
void ask_for_pages(const void *constant, size_t bytes) {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t start = reinterpret_cast<uintptr_t>(constant);
    const uintptr_t first = start / page * page;
    madvise(reinterpret_cast<void *>(first), start + bytes - first, MADV_WILLNEED);
}

#else

void drop_pages(const void *, size_t) {}
void ask_for_pages(const void *, size_t) {}

#endif

}  // namespace

PlacedConstant::PlacedConstant(const void *constant, size_t bytes)
    : constant_(constant), data_(static_cast<const uint8_t *>(constant)) {
    if (constant == nullptr) {
        return;
    }
    ask_for_pages(constant, bytes);
    if (copies_weights()) {
        copy_ = copies().own(constant, bytes);
        data_ = copy_->data;
        drop_pages(constant, bytes);
    }
}

PlacedConstant::~PlacedConstant() {
    if (copy_ != nullptr) {
        copies().disown(constant_, copy_);
    }
}

}  // namespace dovetail

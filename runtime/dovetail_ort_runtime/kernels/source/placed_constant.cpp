#include "placed_constant.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
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
#if defined(_WIN32)
        memory_ = static_cast<uint8_t *>(_aligned_malloc(bytes_, kAlignment));
#else
        memory_ = static_cast<uint8_t *>(std::aligned_alloc(kLargePage, bytes_));
#endif
        if (memory_ == nullptr) {
            throw std::bad_alloc();
        }
#if defined(__linux__)
        madvise(memory_, bytes_, MADV_HUGEPAGE);  // a system without large pages is slower, and right
#endif
    }
    ~Chunk() {
#if defined(_WIN32)
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
        copies_++;
        return taken;
    }
    // Whether that was the last copy.
    bool give_back() { return --copies_ == 0; }

  private:
    size_t bytes_;
    uint8_t *memory_;
    size_t used_ = 0;
    int64_t copies_ = 0;
};

struct Copy {
    const uint8_t *data;
    std::list<Chunk>::iterator chunk;
    int64_t owners;
};

class Copies {
  public:
    const uint8_t *own(const void *constant, size_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        auto found = by_constant_.find(constant);
        if (found == by_constant_.end()) {
            found = by_constant_.emplace(constant, copy(constant, bytes)).first;
        }
        found->second.owners++;
        return found->second.data;
    }

    void disown(const void *constant) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = by_constant_.find(constant);
        if (--found->second.owners > 0) {
            return;
        }
        if (found->second.chunk->give_back()) {
            chunks_.erase(found->second.chunk);
        }
        by_constant_.erase(found);
    }

  private:
    Copy copy(const void *constant, size_t bytes) {
        const auto chunk = chunk_for(bytes);
        uint8_t *data = chunk->take(bytes);
        std::memcpy(data, constant, bytes);
        return {data, chunk, 0};
    }

    std::list<Chunk>::iterator chunk_for(size_t bytes) {
        for (auto chunk = chunks_.begin(); chunk != chunks_.end(); ++chunk) {
            if (chunk->has_room(bytes)) {
                return chunk;
            }
        }
        chunks_.emplace_front(bytes > kChunk ? bytes : kChunk);
        return chunks_.begin();
    }

    std::mutex mutex_;
    std::list<Chunk> chunks_;
    std::map<const void *, Copy> by_constant_;
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

const uint8_t *placed(const void *constant, size_t bytes) {
    if (constant == nullptr) {
        return nullptr;
    }
    ask_for_pages(constant, bytes);
    if (!copies_weights()) {
        return static_cast<const uint8_t *>(constant);
    }
    const uint8_t *copy = copies().own(constant, bytes);
    drop_pages(constant, bytes);
    return copy;
}

}  // namespace

PlacedConstant::PlacedConstant(const void *constant, size_t bytes)
    : constant_(constant), data_(placed(constant, bytes)) {}

PlacedConstant::~PlacedConstant() {
    if (data_ != constant_) {
        copies().disown(constant_);
    }
}

}  // namespace dovetail

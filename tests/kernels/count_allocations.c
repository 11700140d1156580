/* Preloaded, it counts the allocations of one library: those whose caller lies between two addresses. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

static atomic_uintptr_t first, last;
static atomic_long count;

void count_allocations_between(uintptr_t from, uintptr_t to) {
    atomic_store(&first, from);
    atomic_store(&last, to);
    atomic_store(&count, 0);
}

long allocations(void) { return atomic_load(&count); }

static void note(void *caller) {
    uintptr_t address = (uintptr_t)caller;
    if (address >= atomic_load(&first) && address < atomic_load(&last)) {
        atomic_fetch_add(&count, 1);
    }
}

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

void *malloc(size_t size) {
    note(__builtin_return_address(0));
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    note(__builtin_return_address(0));
    return __libc_calloc(number, size);
}

void *realloc(void *memory, size_t size) {
    note(__builtin_return_address(0));
    return __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    note(__builtin_return_address(0));
    return __libc_memalign(alignment, size);
}

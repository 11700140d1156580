#include "attention_rows.h"

#include <cinttypes>
#include <vector>

#include "status.h"

namespace dovetail {

namespace {

// A value for some of many places, forgotten in no time: a place that was marked in an earlier round has none.
class Marks {
  public:
    void begin(size_t places) {
        if (places_.size() < places) {
            places_.resize(places);
        }
        if (++round_ == 0) {
            places_.assign(places_.size(), Place{0, 0});
            round_ = 1;
        }
    }
    void set(size_t place, uint32_t value) { places_[place] = {round_, value}; }
    bool has(size_t place) const { return places_[place].round == round_; }
    uint32_t get(size_t place) const { return places_[place].value; }

  private:
    struct Place {
        uint32_t round;
        uint32_t value;
    };
    std::vector<Place> places_;
    uint32_t round_ = 0;
};

struct ThreadMarks {
    Marks rows;    // the row of this call that is written to a slot, by sequence and slot
    Marks listed;  // slots that one row lists
    Marks counts;  // rows of a sequence
};

ThreadMarks &marks() {
    static thread_local ThreadMarks all;
    return all;
}

class RowChecks {
  public:
    RowChecks(const AttentionCall &call, int64_t positions) : call_(call), positions_(positions), marks_(marks()) {}

    void run() {
        check_lengths();
        mark_rows();
        for (int64_t row = 0; row < call_.rows; row++) {
            if (call_.max_ancestors == 0) {
                check_chain(row);
            } else {
                check_ancestors(row);
            }
        }
    }

  private:
    void check_lengths() const {
        for (int64_t sequence = 0; sequence < call_.sequences; sequence++) {
            must_be_within("lengths", call_.lengths[sequence], 0, call_.slots_per_sequence, "make the cache larger");
        }
    }

    void mark_rows() {
        marks_.rows.begin(static_cast<size_t>(call_.sequences * call_.slots_per_sequence));
        marks_.counts.begin(static_cast<size_t>(call_.sequences));
        for (int64_t row = 0; row < call_.rows; row++) {
            const int64_t sequence = call_.sequence_ids[row];
            const int64_t slot = call_.slots[row];
            must_be_within("sequence_ids", sequence, 0, call_.sequences - 1, "give lengths one element per sequence");
            must_be_within("position_ids", call_.position_ids[row], 0, positions_ - 1,
                           "load with a smaller max_context, or export with longer tables");
            must_be_within("slots", slot, call_.lengths[sequence], call_.slots_per_sequence - 1,
                           "write behind the sequence's length, or make the cache larger");
            const size_t written = place(sequence, slot);
            if (marks_.rows.has(written)) {
                fail("slots must differ within a sequence, got slot %" PRId64 " of sequence %" PRId64
                     " for rows %" PRIu32 " and %" PRId64 "; give each row a slot of its own",
                     slot, sequence, marks_.rows.get(written), row);
            }
            marks_.rows.set(written, static_cast<uint32_t>(row));
            const size_t counted = static_cast<size_t>(sequence);
            marks_.counts.set(counted, marks_.counts.has(counted) ? marks_.counts.get(counted) + 1 : 1);
        }
    }

    // Slots differ, so rows that are all below length + their number leave no gap.
    void check_chain(int64_t row) const {
        const int64_t sequence = call_.sequence_ids[row];
        const int64_t end = call_.lengths[sequence] + marks_.counts.get(static_cast<size_t>(sequence));
        if (call_.slots[row] >= end) {
            fail("slots of a chain must follow the sequence's length without a gap, got %" PRId64
                 " where the last is %" PRId64 "; give ancestors for a tree",
                 call_.slots[row], end - 1);
        }
    }

    void check_ancestors(int64_t row) {
        const int64_t sequence = call_.sequence_ids[row];
        const int64_t *ancestors = list(row);
        const int64_t count = list_length(row);
        int64_t of_this_call = 0;
        marks_.listed.begin(static_cast<size_t>(call_.slots_per_sequence));
        marks_.listed.set(static_cast<size_t>(call_.slots[row]), 0);
        for (int64_t index = 0; index < count; index++) {
            must_be_within("ancestors", ancestors[index], call_.lengths[sequence], call_.slots_per_sequence - 1,
                           "list slots behind the sequence's length, then -1");
            const size_t slot = static_cast<size_t>(ancestors[index]);
            if (marks_.listed.has(slot)) {
                fail("ancestors of a row must differ from each other and from its slot, got slot %" PRId64
                     " twice in row %" PRId64 "; list each ancestor once",
                     ancestors[index], row);
            }
            marks_.listed.set(slot, 0);
            of_this_call += marks_.rows.has(place(sequence, ancestors[index]));
        }
        if (of_this_call > 0) {
            check_parent(row, sequence, ancestors, count);
        }
    }

    // The parent lists all but itself. It is checked in the same way, and so are the rows that it lists.
    void check_parent(int64_t row, int64_t sequence, const int64_t *ancestors, int64_t count) const {
        const size_t written = place(sequence, ancestors[count - 1]);
        if (!marks_.rows.has(written)) {
            fail("ancestors must form a tree, got row %" PRId64 " with slot %" PRId64
                 " of an earlier forward below a row of this one; list ancestors by depth",
                 row, ancestors[count - 1]);
        }
        const int64_t parent = marks_.rows.get(written);
        bool equal = list_length(parent) == count - 1;
        for (int64_t index = 0; equal && index < count - 1; index++) {
            equal = list(parent)[index] == ancestors[index];
        }
        if (!equal) {
            fail("ancestors must form a tree, got row %" PRId64 " whose parent, row %" PRId64
                 ", does not list the same slots before it; list ancestors by depth",
                 row, parent);
        }
    }

    const int64_t *list(int64_t row) const { return call_.ancestors + row * call_.max_ancestors; }

    int64_t list_length(int64_t row) const {
        int64_t length = 0;
        while (length < call_.max_ancestors && list(row)[length] != -1) {
            length++;
        }
        return length;
    }

    size_t place(int64_t sequence, int64_t slot) const {
        return static_cast<size_t>(sequence * call_.slots_per_sequence + slot);
    }

    static void must_be_within(const char *name, int64_t value, int64_t least, int64_t most, const char *next) {
        if (value < least || value > most) {
            fail("%s must be %" PRId64 " to %" PRId64 ", got %" PRId64 "; %s", name, least, most, value, next);
        }
    }

    const AttentionCall &call_;
    const int64_t positions_;
    ThreadMarks &marks_;
};

}  // namespace

void check_attention_rows(const AttentionCall &call, int64_t positions) { RowChecks(call, positions).run(); }

}  // namespace dovetail

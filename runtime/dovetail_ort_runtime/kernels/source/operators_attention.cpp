// Attention, with a cache of halves or of floats: one operator for ONNX Runtime's eyes, two by type for its tables.

#include <cinttypes>
#include <initializer_list>

#include "attention_rows.h"
#include "operators.h"
#include "tensors.h"

namespace dovetail {

namespace {

int64_t positive(const OrtKernelInfo *info, const char *name) {
    const int64_t value = integer(info, name);
    if (value < 1 || value > 65536) {
        fail("attribute %s must be 1 to 65536, got %" PRId64 "; export the model again", name, value);
    }
    return value;
}

// What attributes and constants say; B, M and all of a call are added in each.
AttentionCall read_attributes(const OrtKernelInfo *info) {
    AttentionCall call{};
    call.heads = positive(info, "num_heads");
    call.kv_heads = positive(info, "kv_num_heads");
    if (call.heads % call.kv_heads != 0) {
        fail("attribute num_heads must be a multiple of kv_num_heads, got %" PRId64 " and %" PRId64
             "; export the model again",
             call.heads, call.kv_heads);
    }
    call.scale = number(info, "scale");
    call.window = integer(info, "window", 0);
    call.soft_cap = number(info, "soft_cap", 0.0f);
    call.epsilon = number(info, "epsilon", 0.0f);
    if (call.window < 0 || call.soft_cap < 0 || call.epsilon < 0) {
        fail("attributes window, soft_cap and epsilon must be 0 or more, got %" PRId64
             ", %g and %g; export the model again",
             call.window, static_cast<double>(call.soft_cap), static_cast<double>(call.epsilon));
    }
    return call;
}

template <OrtElementType kCache>
class Attention {
  public:
    static constexpr const char *kName = "Attention";
    static constexpr Argument kInputs[] = {
        {ORT_FLOAT},                // 0 qkv
        {kCache},                   // 1 past_key
        {kCache},                   // 2 past_value
        {ORT_INT64},                // 3 lengths
        {ORT_INT64},                // 4 sequence_ids
        {ORT_INT64},                // 5 slots
        {ORT_INT64},                // 6 ancestors
        {ORT_INT64},                // 7 position_ids
        {ORT_FLOAT},                // 8 cos
        {ORT_FLOAT},                // 9 sin
        {ORT_FLOAT, ORT_OPTIONAL},  // 10 query_norm
        {ORT_FLOAT, ORT_OPTIONAL},  // 11 key_norm
    };
    static constexpr Argument kOutputs[] = {{ORT_FLOAT}, {kCache}, {kCache}};

    static void infer(ShapeInference &shapes) {
        // ONNX Runtime asks the first of the two types for both, so that the type is the input's.
        const SymbolicShape key = shapes.input(1);
        const SymbolicShape value = shapes.input(2);
        shapes.set_output(1, key.type, key);
        shapes.set_output(2, value.type, value);
        SymbolicShape context = shapes.input(0);
        if (context.rank == 3 && key.rank == 5) {
            const int64_t width = context.dims[2];
            const int64_t heads = key.dims[1];
            const int64_t head_size = key.dims[3];
            // By division, as a product of two lengths that a file states may be too large.
            const bool known = heads > 0 && head_size > 0 && width / 2 / heads >= head_size;
            context.set(2, known ? width - 2 * heads * head_size : -1);
            shapes.set_output(0, ORT_FLOAT, context);
        }
    }

    explicit Attention(const OrtKernelInfo *info)
        : attributes_(read_attributes(info)),
          query_norm_(optional_constant(info, 10, "query_norm", ORT_FLOAT)),
          key_norm_(optional_constant(info, 11, "key_norm", ORT_FLOAT)) {
        attributes_.cache_type = kCache == ORT_FLOAT ? CacheType::kFloat : CacheType::kHalf;
        attributes_.query_norm = query_norm_.floats();
        attributes_.key_norm = key_norm_.floats();
    }

    void compute(OrtKernelContext *context) const {
        AttentionCall call = attributes_;
        const Tensor past_key = input(context, 1, "past_key");
        const Tensor past_value = input(context, 2, "past_value");
        read_cache(past_key, past_value, call);
        read_queries(context, call);
        read_rows(context, call);
        check_attention_rows(call, read_tables(context, call));
        const Shape y{{1, call.rows, call.heads * call.head_size}, 3};
        call.y = static_cast<float *>(output(context, 0, "context", y).data);
        call.keys = in_place(context, 1, "present_key", past_key);
        call.values = in_place(context, 2, "present_value", past_value);
        if (call.rows > 0) {
            run(kernels->attention, call, context);
        }
    }

  private:
    static void read_cache(const Tensor &key, const Tensor &value, AttentionCall &call) {
        key.must_have_shape(-1, call.kv_heads, -1, -1, kCacheBlock);
        call.sequences = key.shape.dims[0];
        call.slots_per_sequence = key.shape.dims[2] * kCacheBlock;
        call.head_size = key.shape.dims[3];
        if (call.head_size < 16 || call.head_size > 256 || call.head_size % 16 != 0) {
            fail("past_key must have heads of a multiple of 16 up to 256 values, got %" PRId64 "; export as portable",
                 call.head_size);
        }
        value.must_have_shape(call.sequences, call.kv_heads, call.slots_per_sequence, call.head_size);
    }

    void read_queries(OrtKernelContext *context, AttentionCall &call) const {
        const Tensor qkv = input(context, 0, "qkv");
        qkv.must_have_shape(1, -1, (call.heads + 2 * call.kv_heads) * call.head_size);
        call.rows = qkv.shape.dims[1];
        call.qkv = qkv.floats();
        for (const Tensor *norm : {&query_norm_, &key_norm_}) {
            if (norm->is_given()) {
                norm->must_have_shape(call.head_size);
            }
        }
    }

    static void read_rows(OrtKernelContext *context, AttentionCall &call) {
        const Tensor lengths = input(context, 3, "lengths");
        lengths.must_have_shape(call.sequences);
        call.lengths = lengths.integers();
        const Tensor sequence_ids = input(context, 4, "sequence_ids");
        sequence_ids.must_have_shape(call.rows);
        call.sequence_ids = sequence_ids.integers();
        const Tensor slots = input(context, 5, "slots");
        slots.must_have_shape(call.rows);
        call.slots = slots.integers();
        const Tensor ancestors = input(context, 6, "ancestors");
        ancestors.must_have_shape(call.rows, -1);
        call.ancestors = ancestors.integers();
        call.max_ancestors = ancestors.shape.dims[1];
        const Tensor position_ids = input(context, 7, "position_ids");
        position_ids.must_have_shape(1, call.rows);
        call.position_ids = position_ids.integers();
    }

    // Returns the number of positions in the tables.
    static int64_t read_tables(OrtKernelContext *context, AttentionCall &call) {
        const Tensor cos = input(context, 8, "cos");
        cos.must_have_shape(-1, -1);
        call.rotary_size = 2 * cos.shape.dims[1];
        if (call.rotary_size > call.head_size) {
            fail("cos must have at most %" PRId64 " columns, got %" PRId64 "; export the model again",
                 call.head_size / 2, cos.shape.dims[1]);
        }
        const Tensor sin = input(context, 9, "sin");
        sin.must_have(cos.shape);
        call.cos = cos.floats();
        call.sin = sin.floats();
        return cos.shape.dims[0];
    }

    static void *in_place(OrtKernelContext *context, size_t index, const char *name, const Tensor &past) {
        const Tensor present = output(context, index, name, past.shape);
        if (present.data != past.data) {
            fail("%s must share the memory of %s, got memory of its own; bind both to one value", name, past.name);
        }
        return present.data;
    }

    AttentionCall attributes_;
    Tensor query_norm_;
    Tensor key_norm_;
};

}  // namespace

Operators attention_operators() {
    static const OrtCustomOp all[] = {make_operator<Attention<ORT_FLOAT16>>(), make_operator<Attention<ORT_FLOAT>>()};
    return {all, 2};
}

}  // namespace dovetail

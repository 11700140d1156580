#include "operators.h"

namespace dovetail {

const Kernels *kernels = nullptr;

SymbolicShape ShapeInference::input(size_t index) const {
    SymbolicShape shape{};
    size_t count = 0;
    check(api->ShapeInferContext_GetInputCount(context_, &count));
    if (index >= count) {
        return shape;
    }
    OrtTensorTypeAndShapeInfo *info = nullptr;  // belongs to the context
    check(api->ShapeInferContext_GetInputTypeShape(context_, index, &info));
    if (info == nullptr) {
        return shape;
    }
    check(api->GetTensorElementType(info, &shape.type));
    check(api->GetDimensionsCount(info, &shape.rank));
    if (shape.rank > 8) {
        return SymbolicShape{};
    }
    check(api->GetDimensions(info, shape.dims, shape.rank));
    check(api->GetSymbolicDimensions(info, shape.names, shape.rank));
    return shape;
}

void ShapeInference::set_output(size_t index, OrtElementType type, const SymbolicShape &shape) {
    if (shape.rank == 0) {
        return;
    }
    for (size_t axis = 0; axis < shape.rank; axis++) {
        if (shape.dims[axis] < 0 && (shape.names[axis] == nullptr || shape.names[axis][0] == 0)) {
            return;  // it would be read as a length of -1, where the graph itself may say more
        }
    }
    SymbolicShape copy = shape;
    OrtTensorTypeAndShapeInfo *info = nullptr;
    check(api->CreateTensorTypeAndShapeInfo(&info));
    OrtStatus *status = api->SetTensorElementType(info, type);
    if (status == nullptr) {
        status = api->SetDimensions(info, copy.dims, copy.rank);
    }
    if (status == nullptr) {
        status = api->SetSymbolicDimensions(info, copy.names, copy.rank);
    }
    if (status == nullptr) {
        status = api->ShapeInferContext_SetOutputTypeShape(context_, index, info);
    }
    api->ReleaseTensorTypeAndShapeInfo(info);
    check(status);
}

}  // namespace dovetail

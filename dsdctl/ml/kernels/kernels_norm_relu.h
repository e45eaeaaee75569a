// BatchNorm and ReLU, between them what a residual network adds: z = relu(norm(y) + added).
//
// Included once for each target.

template <class T>
INLINE void normalize_and_rectify(const T* y, Shape shape, const float* scale, const float* shift,
                                  T* z) {
    for (int64_t p = 0; p < shape.pixels(); p++)
        for (int64_t c = 0; c < shape.channels; c += LANES) {
            const int64_t at = p * shape.channels + c;
            store(z + at, relu(load(y + at) * load(scale + c) + load(shift + c)));
        }
}

template <class T>
INLINE void normalize_add_and_rectify(const T* y, const T* added, Shape shape, const float* scale,
                                      const float* shift, T* z) {
    for (int64_t p = 0; p < shape.pixels(); p++)
        for (int64_t c = 0; c < shape.channels; c += LANES) {
            const int64_t at = p * shape.channels + c;
            const Floats normalized = load(y + at) * load(scale + c) + load(shift + c);
            store(z + at, relu(normalized + load(added + at)));
        }
}

// Writes mean, variance (biased), inverse and z; `added` is null where nothing is.
template <class T>
INLINE int norm_relu_forward(const T* y, const T* added, Shape shape, const float* weight,
                             const float* bias, double eps, float* mean, float* variance,
                             float* inverse, T* z) try {
    statistics<AsItIs>(y, shape, eps, mean, variance, inverse);
    const Affine affine(shape.channels, weight, bias, mean, inverse);
    const float *scale = affine.scale.data(), *shift = affine.shift.data();
    if (added)
        normalize_add_and_rectify(y, added, shape, scale, shift, z);
    else
        normalize_and_rectify(y, shape, scale, shift, z);
    return DONE;
} catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
}

// Where nothing was added, z is no more than y tells, and is not read again.
template <class T>
INLINE void gradients_of_both(const T* dz, const T* y, Shape shape, const float* weight,
                              const float* bias, const float* mean, const float* inverse,
                              float* dweight, float* dbias, T* dy) {
    const Affine affine(shape.channels, weight, bias, mean, inverse);
    const float *scale = affine.scale.data(), *shift = affine.shift.data();
    std::vector<double> sums(2 * shape.channels);
    const auto passed_on = [=](Floats upstream, Floats input, int64_t c) INLINED {
        return input * load(scale + c) + load(shift + c) <= 0 ? Floats{} : upstream;
    };
    sum_all(
        shape,
        [=](int64_t at, int64_t c, Floats& first, Floats& second) INLINED {
            const Floats input = load(y + at);
            const Floats upstream = passed_on(load(dz + at), input, c);
            first += upstream;
            second += upstream * (input - load(mean + c));
        },
        sums.data());
    const Slopes all = slopes(sums, shape, weight, inverse, dweight, dbias);
    for (int64_t p = 0; p < shape.pixels(); p++)
        for (int64_t c = 0; c < shape.channels; c += LANES) {
            const int64_t at = p * shape.channels + c;
            const Floats input = load(y + at);
            const Floats upstream = passed_on(load(dz + at), input, c);
            store(dy + at, gradient(upstream, input, mean, all, c));
        }
}

// Writes also `dadded`, which is the gradient of the sum.
template <class T>
INLINE void gradients_of_sum(const T* dz, const T* z, const T* y, Shape shape, const float* weight,
                             const float* mean, const float* inverse, float* dweight, float* dbias,
                             T* dadded, T* dy) {
    std::vector<double> sums(2 * shape.channels);
    sum_all(
        shape,
        [=](int64_t at, int64_t c, Floats& first, Floats& second) INLINED {
            const Floats input = load(y + at);
            const Floats upstream = load(z + at) <= 0 ? Floats{} : load(dz + at);
            first += upstream;
            second += upstream * (input - load(mean + c));
            store(dadded + at, upstream);
        },
        sums.data());
    const Slopes all = slopes(sums, shape, weight, inverse, dweight, dbias);
    for (int64_t p = 0; p < shape.pixels(); p++)
        for (int64_t c = 0; c < shape.channels; c += LANES) {
            const int64_t at = p * shape.channels + c;
            store(dy + at, gradient(load(dadded + at), load(y + at), mean, all, c));
        }
}

// Writes the gradients of weight, bias and y, and of what was added unless `z` is null and nothing
// was.
template <class T>
INLINE int norm_relu_backward(const T* dz, const T* z, const T* y, Shape shape, const float* weight,
                              const float* bias, const float* mean, const float* inverse,
                              float* dweight, float* dbias, T* dadded, T* dy) try {
    if (z)
        gradients_of_sum(dz, z, y, shape, weight, mean, inverse, dweight, dbias, dadded, dy);
    else
        gradients_of_both(dz, y, shape, weight, bias, mean, inverse, dweight, dbias, dy);
    return DONE;
} catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
}

#define NORM_RELU(T, DTYPE)                                                                        \
    KERNEL NAMED(norm_relu_forward_##DTYPE)                                                        \
    (const T* y, const T* added, int64_t rows, int64_t width, int64_t channels,                    \
     const float* weight, const float* bias, double eps, float* mean, float* variance,             \
     float* inverse, T* z) {                                                                       \
        return norm_relu_forward(y, added, {rows, width, channels}, weight, bias, eps, mean,       \
                                 variance, inverse, z);                                            \
    }                                                                                              \
    KERNEL NAMED(norm_relu_backward_##DTYPE)                                                       \
    (const T* dz, const T* z, const T* y, int64_t rows, int64_t width, int64_t channels,           \
     const float* weight, const float* bias, const float* mean, const float* inverse,              \
     float* dweight, float* dbias, T* dadded, T* dy) {                                             \
        return norm_relu_backward(dz, z, y, {rows, width, channels}, weight, bias, mean, inverse,  \
                                  dweight, dbias, dadded, dy);                                     \
    }

NORM_RELU(float, float32)
NORM_RELU(uint16_t, bfloat16)
#undef NORM_RELU

// ReLU, BatchNorm and 2x2 max-pooling in as few passes over memory as their mathematics allows.
//
// x = relu(y) is never written: it is made anew from y, which the convolution wrote, whenever it is
// needed, and dy = [y > 0] dx. Where z is pooled, `choice` says which pixel of each window was the
// largest; in a window dz is zero but there.
// Included once for each target.

template <class T>
INLINE void normalize(const T* y, Shape shape, const float* scale, const float* shift, T* z) {
    for (int64_t p = 0; p < shape.pixels(); p++)
        for (int64_t c = 0; c < shape.channels; c += LANES) {
            const int64_t at = p * shape.channels + c;
            store(z + at, relu(load(y + at)) * load(scale + c) + load(shift + c));
        }
}

// Of equals the first is chosen, as torch has it.
template <class T>
INLINE void normalize_and_pool(const T* y, Shape shape, const float* scale, const float* shift,
                               T* z, uint8_t* choice) {
    const int64_t channels = shape.channels, row = shape.row();
    const int64_t steps[4] = {0, channels, row, row + channels};
    for (int64_t r = 0; r < shape.rows; r += 2)
        for (int64_t w = 0; w < shape.width; w += 2, z += channels, choice += channels)
            for (int64_t c = 0; c < channels; c += LANES) {
                const T* corner = y + r * row + w * channels + c;
                const Floats a = load(scale + c), b = load(shift + c);
                Floats best = rounded(z, relu(load(corner)) * a + b);
                Ints chosen{};
                for (int i = 1; i < 4; i++) {
                    const Floats other = rounded(z, relu(load(corner + steps[i])) * a + b);
                    const Ints larger = ~(other <= best);
                    best = larger ? other : best;
                    chosen = larger ? Ints{} + i : chosen;
                }
                store(z + c, best);
                write(choice + c, __builtin_convertvector(chosen, Bytes));
            }
}

// Sums over all pixels, per channel: of dz, and of dz (x - mean).
template <class T>
INLINE void sum_gradients(const T* dz, const T* y, Shape shape, const float* mean, double* sums) {
    sum_all(
        shape,
        [=](int64_t at, int64_t c, Floats& first, Floats& second) INLINED {
            const Floats upstream = load(dz + at);
            first += upstream;
            second += upstream * (relu(load(y + at)) - load(mean + c));
        },
        sums);
}

template <class T>
INLINE void sum_pooled_gradients(const T* dz, const T* y, Shape shape, const float* mean,
                                 const uint8_t* choice, double* sums) {
    const int64_t channels = shape.channels, row = shape.row(), pooled = row / 2;
    const int64_t steps[4] = {0, channels, row, row + channels};
    for (int64_t r = 0; r < shape.rows; r += 2, dz += pooled, choice += pooled)
        for (int64_t c = 0; c < channels; c += LANES) {
            const Floats middle = load(mean + c);
            Floats first{}, second{};
            for (int64_t w = 0; w < shape.width; w += 2) {
                const T* corner = y + r * row + w * channels + c;
                const Ints chosen =
                    __builtin_convertvector(read<Bytes>(choice + w / 2 * channels + c), Ints);
                Floats largest = load(corner);
                for (int i = 1; i < 4; i++)
                    largest = chosen == i ? load(corner + steps[i]) : largest;
                const Floats gradient = load(dz + w / 2 * channels + c);
                first += gradient;
                second += gradient * (relu(largest) - middle);
            }
            add(sums + c, first);
            add(sums + channels + c, second);
        }
}

INLINE Floats before_relu(Floats y, Floats gradient) { return y <= 0 ? Floats{} : gradient; }

template <class T>
INLINE void gradients(const T* dz, const T* y, Shape shape, const float* mean, const Slopes& all,
                      T* dy) {
    for (int64_t p = 0; p < shape.pixels(); p++)
        for (int64_t c = 0; c < shape.channels; c += LANES) {
            const int64_t at = p * shape.channels + c;
            const Floats input = load(y + at);
            store(dy + at, before_relu(input, gradient(load(dz + at), input, mean, all, c)));
        }
}

template <class T>
INLINE void pooled_gradients(const T* dz, const T* y, Shape shape, const float* mean,
                             const Slopes& all, const uint8_t* choice, T* dy) {
    const int64_t channels = shape.channels, row = shape.row();
    const int64_t steps[4] = {0, channels, row, row + channels};
    for (int64_t r = 0; r < shape.rows; r += 2)
        for (int64_t w = 0; w < shape.width; w += 2, dz += channels, choice += channels)
            for (int64_t c = 0; c < channels; c += LANES) {
                const int64_t corner = r * row + w * channels + c;
                const Ints chosen = __builtin_convertvector(read<Bytes>(choice + c), Ints);
                const Floats largest = load(dz + c);
                for (int i = 0; i < 4; i++) {
                    const int64_t at = corner + steps[i];
                    const Floats upstream = chosen == i ? largest : Floats{}, input = load(y + at);
                    store(dy + at, before_relu(input, gradient(upstream, input, mean, all, c)));
                }
            }
}

// Writes mean, variance (biased) and inverse, z and, unless it is null and nothing pooled, choice.
template <class T>
INLINE int relu_norm_forward(const T* y, Shape shape, const float* weight, const float* bias,
                             double eps, float* mean, float* variance, float* inverse, T* z,
                             uint8_t* choice) try {
    statistics<Rectified>(y, shape, eps, mean, variance, inverse);
    const Affine affine(shape.channels, weight, bias, mean, inverse);
    if (choice)
        normalize_and_pool(y, shape, affine.scale.data(), affine.shift.data(), z, choice);
    else
        normalize(y, shape, affine.scale.data(), affine.shift.data(), z);
    return DONE;
} catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
}

// Writes the gradients of weight, bias and y.
template <class T>
INLINE int relu_norm_backward(const T* dz, const T* y, Shape shape, const float* weight,
                              const float* mean, const float* inverse, const uint8_t* choice,
                              float* dweight, float* dbias, T* dy) try {
    std::vector<double> sums(2 * shape.channels);
    if (choice)
        sum_pooled_gradients(dz, y, shape, mean, choice, sums.data());
    else
        sum_gradients(dz, y, shape, mean, sums.data());
    const Slopes all = slopes(sums, shape, weight, inverse, dweight, dbias);
    if (choice)
        pooled_gradients(dz, y, shape, mean, all, choice, dy);
    else
        gradients(dz, y, shape, mean, all, dy);
    return DONE;
} catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
}

#define RELU_NORM(T, DTYPE)                                                                        \
    KERNEL NAMED(relu_norm_forward_##DTYPE)                                                        \
    (const T* y, int64_t rows, int64_t width, int64_t channels, const float* weight,               \
     const float* bias, double eps, float* mean, float* variance, float* inverse, T* z,            \
     uint8_t* choice) {                                                                            \
        return relu_norm_forward(y, {rows, width, channels}, weight, bias, eps, mean, variance,    \
                                 inverse, z, choice);                                              \
    }                                                                                              \
    KERNEL NAMED(relu_norm_backward_##DTYPE)                                                       \
    (const T* dz, const T* y, int64_t rows, int64_t width, int64_t channels, const float* weight,  \
     const float* mean, const float* inverse, const uint8_t* choice, float* dweight, float* dbias, \
     T* dy) {                                                                                      \
        return relu_norm_backward(dz, y, {rows, width, channels}, weight, mean, inverse, choice,   \
                                  dweight, dbias, dy);                                             \
    }

RELU_NORM(float, float32)
RELU_NORM(uint16_t, bfloat16)
#undef RELU_NORM

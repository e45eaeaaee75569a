// ReLU, BatchNorm and 2x2 max-pooling in as few passes over memory as their mathematics allows.
//
// Maps are channels-last, (rows, width, channels) with the rows of all images one after another
// and the channels a multiple of 16, in float or bfloat16. x = relu(y) is never written: it is
// made anew from y, which the convolution wrote, whenever it is needed. Per channel, n being the
// pixels that sums and means are over:
//
//     z  = x scale + shift     inverse = 1 / sqrt(variance + eps)
//                              scale = weight inverse, shift = bias - mean scale
//     dy = [y > 0] (scale dz - offset - slope (x - mean))
//                              offset = scale sum(dz) / n
//                              slope = scale inverse^2 sum(dz (x - mean)) / n
//
// Where z is pooled, `choice` says which pixel of each window was the largest; in a window dz is
// zero but there. Comparisons are written so that a NaN goes on as one.

#pragma once

#include <cmath>

#include "kernels_lanes.h"

constexpr int64_t BLOCK = 64;  // pixels summed in float; a block stays in the cache

struct Shape {
    int64_t rows, width, channels;
    int64_t row() const { return width * channels; }
    int64_t pixels() const { return rows * width; }
};

INLINE Floats relu(Floats y) { return y <= 0 ? Floats{} : y; }

// Sums over all pixels, per channel: of x - x at the first pixel, and of its square.
template <class T>
INLINE void sum_moments(const T* y, Shape shape, double* sums) {
    const int64_t channels = shape.channels, pixels = shape.pixels();
    for (int64_t start = 0; start < pixels; start += BLOCK) {
        const int64_t stop = start + BLOCK < pixels ? start + BLOCK : pixels;
        for (int64_t c = 0; c < channels; c += LANES) {
            const Floats origin = relu(load(y + c));
            Floats first{}, second{};
            for (int64_t p = start; p < stop; p++) {
                const Floats x = relu(load(y + p * channels + c)) - origin;
                first += x;
                second += x * x;
            }
            add(sums + c, first);
            add(sums + channels + c, second);
        }
    }
}

template <class T>
INLINE void normalise(const T* y, Shape shape, const float* scale, const float* shift, T* z) {
    for (int64_t p = 0; p < shape.pixels(); p++)
        for (int64_t c = 0; c < shape.channels; c += LANES) {
            const int64_t at = p * shape.channels + c;
            store(z + at, relu(load(y + at)) * load(scale + c) + load(shift + c));
        }
}

// Of equals the first is chosen, as torch has it.
template <class T>
INLINE void normalise_and_pool(const T* y, Shape shape, const float* scale, const float* shift,
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
    const int64_t channels = shape.channels, pixels = shape.pixels();
    for (int64_t start = 0; start < pixels; start += BLOCK) {
        const int64_t stop = start + BLOCK < pixels ? start + BLOCK : pixels;
        for (int64_t c = 0; c < channels; c += LANES) {
            const Floats middle = load(mean + c);
            Floats first{}, second{};
            for (int64_t p = start; p < stop; p++) {
                const Floats gradient = load(dz + p * channels + c);
                first += gradient;
                second += gradient * (relu(load(y + p * channels + c)) - middle);
            }
            add(sums + c, first);
            add(sums + channels + c, second);
        }
    }
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

INLINE Floats gradient_at(Floats y, Floats dz, Floats scale, Floats mean, Floats offset,
                          Floats slope) {
    return y <= 0 ? Floats{} : scale * dz - offset - slope * (y - mean);
}

template <class T>
INLINE void gradients(const T* dz, const T* y, Shape shape, const float* mean, const float* scale,
                      const float* offset, const float* slope, T* dy) {
    for (int64_t p = 0; p < shape.pixels(); p++)
        for (int64_t c = 0; c < shape.channels; c += LANES) {
            const int64_t at = p * shape.channels + c;
            store(dy + at, gradient_at(load(y + at), load(dz + at), load(scale + c), load(mean + c),
                                       load(offset + c), load(slope + c)));
        }
}

template <class T>
INLINE void pooled_gradients(const T* dz, const T* y, Shape shape, const float* mean,
                             const float* scale, const float* offset, const float* slope,
                             const uint8_t* choice, T* dy) {
    const int64_t channels = shape.channels, row = shape.row();
    const int64_t steps[4] = {0, channels, row, row + channels};
    for (int64_t r = 0; r < shape.rows; r += 2)
        for (int64_t w = 0; w < shape.width; w += 2, dz += channels, choice += channels)
            for (int64_t c = 0; c < channels; c += LANES) {
                const int64_t corner = r * row + w * channels + c;
                const Ints chosen = __builtin_convertvector(read<Bytes>(choice + c), Ints);
                const Floats upstream = load(dz + c);
                for (int i = 0; i < 4; i++) {
                    const int64_t at = corner + steps[i];
                    store(dy + at, gradient_at(load(y + at), chosen == i ? upstream : Floats{},
                                               load(scale + c), load(mean + c), load(offset + c),
                                               load(slope + c)));
                }
            }
}

// Writes mean, variance (biased) and inverse, z and, unless it is null and nothing pooled, choice.
template <class T>
INLINE void forward(const T* y, Shape shape, const float* weight, const float* bias, double eps,
                    float* mean, float* variance, float* inverse, T* z, uint8_t* choice) {
    const int64_t channels = shape.channels;
    std::vector<double> sums(2 * channels);
    std::vector<float> scale(channels), shift(channels);
    sum_moments(y, shape, sums.data());
    for (int64_t c = 0; c < channels; c++) {
        const double first = sums[c] / shape.pixels();
        const double second = sums[channels + c] / shape.pixels() - first * first;
        mean[c] = relu(load(y + c / LANES * LANES))[c % LANES] + first;
        variance[c] = second < 0 ? 0 : second;
        inverse[c] = 1 / std::sqrt(variance[c] + eps);
        scale[c] = weight[c] * inverse[c];
        shift[c] = bias[c] - mean[c] * scale[c];
    }
    if (choice)
        normalise_and_pool(y, shape, scale.data(), shift.data(), z, choice);
    else
        normalise(y, shape, scale.data(), shift.data(), z);
}

// Writes the gradients of weight, bias and y.
template <class T>
INLINE void backward(const T* dz, const T* y, Shape shape, const float* weight, const float* mean,
                     const float* inverse, const uint8_t* choice, float* dweight, float* dbias,
                     T* dy) {
    const int64_t channels = shape.channels;
    std::vector<double> sums(2 * channels);
    std::vector<float> scale(channels), offset(channels), slope(channels);
    if (choice)
        sum_pooled_gradients(dz, y, shape, mean, choice, sums.data());
    else
        sum_gradients(dz, y, shape, mean, sums.data());
    for (int64_t c = 0; c < channels; c++) {
        dbias[c] = sums[c];
        dweight[c] = sums[channels + c] * inverse[c];
        scale[c] = weight[c] * inverse[c];
        offset[c] = scale[c] * dbias[c] / shape.pixels();
        slope[c] = scale[c] * inverse[c] * dweight[c] / shape.pixels();
    }
    if (choice)
        pooled_gradients(dz, y, shape, mean, scale.data(), offset.data(), slope.data(), choice, dy);
    else
        gradients(dz, y, shape, mean, scale.data(), offset.data(), slope.data(), dy);
}

#define KERNELS_FOR(T, NAME)                                                                      \
    KERNEL int forward_##NAME(const T* y, int64_t rows, int64_t width, int64_t channels,          \
                              const float* weight, const float* bias, double eps, float* mean,    \
                              float* variance, float* inverse, T* z, uint8_t* choice) try {       \
        const Shape shape{rows, width, channels};                                                 \
        forward(y, shape, weight, bias, eps, mean, variance, inverse, z, choice);                 \
        return DONE;                                                                              \
    } catch (const std::bad_alloc&) {                                                             \
        return OUT_OF_MEMORY;                                                                     \
    }                                                                                             \
    KERNEL int backward_##NAME(const T* dz, const T* y, int64_t rows, int64_t width,              \
                               int64_t channels, const float* weight, const float* mean,          \
                               const float* inverse, const uint8_t* choice, float* dweight,       \
                               float* dbias, T* dy) try {                                         \
        const Shape shape{rows, width, channels};                                                 \
        backward(dz, y, shape, weight, mean, inverse, choice, dweight, dbias, dy);                \
        return DONE;                                                                              \
    } catch (const std::bad_alloc&) {                                                             \
        return OUT_OF_MEMORY;                                                                     \
    }

KERNELS_FOR(float, float32)
KERNELS_FOR(uint16_t, bfloat16)

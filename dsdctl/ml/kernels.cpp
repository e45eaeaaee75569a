// What training on CPUs gains most from. Maps are channels-last.
//
// First, ReLU, BatchNorm and 2x2 max-pooling in as few passes over memory as their mathematics
// allows. Maps are (rows, width, channels) with the rows of all images one after another and the
// channels a multiple of 16, in float or bfloat16. x = relu(y) is never written: it is
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

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#if defined(__x86_64__) && defined(__linux__)
#define KERNEL extern "C" __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define KERNEL extern "C"
#endif
#define INLINE __attribute__((always_inline)) static inline

enum Result { DONE, OUT_OF_MEMORY };

constexpr int LANES = 16;
constexpr int64_t BLOCK = 64;  // pixels summed in float; a block stays in the cache

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));
typedef double Doubles __attribute__((vector_size(8 * LANES)));

struct Shape {
    int64_t rows, width, channels;
    int64_t row() const { return width * channels; }
    int64_t pixels() const { return rows * width; }
};

template <class Vector, class T>
INLINE Vector read(const T* from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class Vector, class T>
INLINE void write(T* to, Vector value) {
    std::memcpy(to, &value, sizeof value);
}

INLINE Floats load(const float* from) { return read<Floats>(from); }

INLINE Floats load(const uint16_t* from) {
    return (Floats)(__builtin_convertvector(read<Halves>(from), Words) << 16);
}

// As it will be once it is stored; the pointer tells as what.
INLINE Floats rounded(const float*, Floats value) { return value; }

INLINE Floats rounded(const uint16_t*, Floats value) {
    const Words bits = (Words)value;
    const Words nearest_even = bits + 0x7fff + ((bits >> 16) & 1);
    const Words quiet_nan = bits | 0x400000;
    return (Floats)((value == value ? nearest_even : quiet_nan) & 0xffff0000);
}

INLINE void store(float* to, Floats value) { write(to, value); }

INLINE void store(uint16_t* to, Floats value) {
    write(to, __builtin_convertvector((Words)rounded(to, value) >> 16, Halves));
}

INLINE Floats relu(Floats y) { return y <= 0 ? Floats{} : y; }

INLINE void add(double* sums, Floats values) {
    write(sums, read<Doubles>(sums) + __builtin_convertvector(values, Doubles));
}

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

// Of a 3x3 convolution padded by one: the gradient of its weights, summed over all pixels.
//
// The channels of the output lie side by side in registers, and each channel of the input is
// multiplied with all of them: LEADING x 16 TRAILING products of LEADING + 16 TRAILING numbers
// that are in the cache. Numbers are floats, or pairs of bfloat16: a channel's of two neighbouring
// pixels, which one instruction multiplies with another pair's and adds. Numbers that are used
// together are packed together first, since rows of many channels fill few sets of a cache.
typedef uint32_t Pair;

struct Maps {
    int64_t images, height, width, in, out;
    int64_t pixels() const { return height * width; }
    int64_t rows() const { return images * height; }
    Maps from(int64_t image, int64_t at_most) const {
        Maps some = *this;
        some.images = images - image < at_most ? images - image : at_most;
        return some;
    }
};

// Some images' maps, the channels in groups: (groups, rows, steps, channels of a group).
template <class Number>
struct Packed {
    int64_t rows, steps, channels, group;
    std::vector<Number> numbers;
    const Number* start = nullptr;
    Packed(int64_t rows, int64_t steps, int64_t channels, int64_t group)
        : rows(rows), steps(steps), channels(channels), group(group) {}
    Number* space() {
        numbers.resize(rows * steps * channels);
        start = numbers.data();
        return numbers.data();
    }
    int64_t size_of(int64_t first) const {
        return channels - first < group ? channels - first : group;
    }
    const Number* at(int64_t first, int64_t row, int64_t step) const {
        return start + first * rows * steps + (row * steps + step) * size_of(first);
    }
};

// A single group needs no packing.
INLINE void pack(const float* from, int64_t rows, Packed<float>& to) {
    if (to.group >= to.channels) {
        to.start = from;
        return;
    }
    float* next = to.space();
    for (int64_t first = 0; first < to.channels; first += to.group) {
        const int64_t size = to.size_of(first);
        for (int64_t pixel = 0; pixel < rows * to.steps; pixel++, next += size)
            std::memcpy(next, from + pixel * to.channels + first, size * sizeof *next);
    }
}

// Each pixel from `start` on with its right neighbour; zeros beyond the edges.
INLINE void pack(const uint16_t* from, int64_t rows, int64_t width, int64_t start,
                 Packed<Pair>& to) {
    const std::vector<uint16_t> padding(to.channels);
    Pair* next = to.space();
    for (int64_t first = 0; first < to.channels; first += to.group) {
        const int64_t size = to.size_of(first);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t p = start; p < start + 2 * to.steps; p += 2, next += size) {
                const uint16_t* row = from + r * width * to.channels + first;
                const bool beyond = p < 0 || p >= width;
                const uint16_t* one = beyond ? padding.data() : row + p * to.channels;
                const uint16_t* other =
                    p + 1 < width ? row + (p + 1) * to.channels : padding.data();
                for (int64_t c = 0; c < size; c++) next[c] = one[c] | Pair(other[c]) << 16;
            }
    }
}

// What one tap multiplies of each image: from these rows and steps on, so many.
struct Window {
    int64_t images, height, x_row, x_step, dy_row, dy_step, rows, steps;
};

INLINE Floats lanes(const float* from) { return read<Floats>(from); }
INLINE Words lanes(const Pair* from) { return read<Words>(from); }

INLINE void multiply_add(Floats& sum, Floats one, Floats other) { sum += one * other; }

#if defined(__x86_64__)
INLINE void multiply_add(Floats& sum, Words one, Words other) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(one), "v"(other));
}
#endif

// `sums`: (in, out) from a channel i of the inputs and o of the outputs on.
template <int LEADING, int TRAILING, class Number>
INLINE void add_products(const Packed<Number>& xs, const Packed<Number>& dys, Window window,
                         int64_t group, int64_t within, int64_t o, float* sums) {
    Floats products[LEADING][TRAILING] = {};
    const int64_t x_size = xs.size_of(group);
    for (int64_t image = 0; image < window.images; image++)
        for (int64_t row = image * window.height; row < image * window.height + window.rows; row++) {
            const Number* x = xs.at(group, window.x_row + row, window.x_step) + within;
            const Number* dy = dys.at(o, window.dy_row + row, window.dy_step);
            for (int64_t step = 0; step < window.steps; step++) {
                typedef decltype(lanes(dy)) Vector;
                Vector gradient[TRAILING];
                for (int j = 0; j < TRAILING; j++) gradient[j] = lanes(dy + j * LANES);
                for (int i = 0; i < LEADING; i++) {
                    const Vector input = Vector{} + x[i];
                    for (int j = 0; j < TRAILING; j++)
                        multiply_add(products[i][j], input, gradient[j]);
                }
                x += x_size;
                dy += TRAILING * LANES;
            }
        }
    for (int i = 0; i < LEADING; i++)
        for (int j = 0; j < TRAILING; j++) {
            float* sum = sums + (group + within + i) * dys.channels + o + j * LANES;
            store(sum, load(sum) + products[i][j]);
        }
}

template <int TRAILING, class Number>
INLINE void add_in_registers(const Packed<Number>& x, const Packed<Number>& dy, Window window,
                             float* sums) {
    constexpr int leading = 16 / TRAILING;  // as many sums as there are registers for
    for (int64_t o = 0; o < dy.channels; o += dy.group)
        for (int64_t group = 0; group < x.channels; group += x.group) {
            const int64_t size = x.size_of(group);
            int64_t i = 0;
            for (; i + leading <= size; i += leading)
                add_products<leading, TRAILING>(x, dy, window, group, i, o, sums);
            for (; i + 3 <= size; i += 3)
                add_products<3, TRAILING>(x, dy, window, group, i, o, sums);
            for (; i < size; i++) add_products<1, TRAILING>(x, dy, window, group, i, o, sums);
        }
}

// The channels of the output that the registers hold: one, two or four times LANES.
INLINE int64_t outputs_at_once(Maps maps) {
    return maps.out % (4 * LANES) == 0 ? 4 * LANES : maps.out % (2 * LANES) == 0 ? 2 * LANES : LANES;
}

// `sums`: (in, out).
template <class Number>
INLINE void add_tap(const Packed<Number>& x, const Packed<Number>& dy, Window window, float* sums) {
    if (dy.group == 4 * LANES)
        add_in_registers<4>(x, dy, window, sums);
    else if (dy.group == 2 * LANES)
        add_in_registers<2>(x, dy, window, sums);
    else
        add_in_registers<1>(x, dy, window, sums);
}

// Of the input in fp32: rows of more make packing worth while.
INLINE int64_t inputs_at_once(Maps maps) {
    return maps.in > 4 * LANES ? LANES : maps.in;
}

// How many rows of so many steps are multiplied at once: so few that what the registers hold of
// the outputs' channels comes from the nearest cache, and no fewer, since sums follow each time.
INLINE int64_t rows_at_once(Maps maps, int64_t steps) {
    const int64_t most = 4096 / outputs_at_once(maps);
    return steps < most ? most / steps : 1;
}

INLINE int64_t images_at_once(Maps maps, int64_t steps) {
    const int64_t images = rows_at_once(maps, steps) / maps.height;
    return images < 1 ? 1 : images < maps.images ? images : maps.images;
}

// The rows of a window for a tap that reaches `down`, without those that are on the padding.
INLINE Window window_at(Maps maps, int64_t start, int64_t at_once, int64_t down) {
    const int64_t end = start + at_once < maps.height ? start + at_once : maps.height;
    const int64_t top = start + down < 0 ? 1 : start;
    const int64_t bottom = end + down > maps.height ? maps.height - 1 : end;
    return {maps.images, maps.height, top + down, 0, top, 0, bottom - top, 0};
}

struct PackedFloats {
    Packed<float> x, dy;
    explicit PackedFloats(Maps maps)
        : x(maps.rows(), maps.width, maps.in, inputs_at_once(maps)),
          dy(maps.rows(), maps.width, maps.out, outputs_at_once(maps)) {}
};

// `sums`: (3, 3, in, out).
INLINE void add_images(const float* x, const float* dy, Maps maps, PackedFloats& packed,
                       float* sums) {
    const int64_t at_once = rows_at_once(maps, maps.width);
    pack(x, maps.rows(), packed.x);
    pack(dy, maps.rows(), packed.dy);
    for (int64_t start = 0; start < maps.height; start += at_once)
        for (int64_t tap = 0; tap < 9; tap++) {
            const int64_t right = tap % 3 - 1;
            Window window = window_at(maps, start, at_once, tap / 3 - 1);
            window.dy_step = right < 0;
            window.x_step = right > 0;
            window.steps = maps.width - (right != 0);
            add_tap(packed.x, packed.dy, window, sums + tap * maps.in * maps.out);
        }
}

// Pairs of pixels 0 and 1, 2 and 3, ..., and of -1 and 0, 1 and 2, ...
struct PackedPairs {
    Packed<Pair> x, x_between, dy;
    explicit PackedPairs(Maps maps)
        : x(maps.rows(), (maps.width + 1) / 2, maps.in, LANES),
          x_between(maps.rows(), (maps.width + 1) / 2 + 1, maps.in, LANES),
          dy(maps.rows(), (maps.width + 1) / 2, maps.out, outputs_at_once(maps)) {}
};

#if defined(__x86_64__)
INLINE void add_images(const uint16_t* x, const uint16_t* dy, Maps maps, PackedPairs& packed,
                       float* sums) {
    const int64_t at_once = rows_at_once(maps, packed.dy.steps);
    pack(x, maps.rows(), maps.width, 0, packed.x);
    pack(x, maps.rows(), maps.width, -1, packed.x_between);
    pack(dy, maps.rows(), maps.width, 0, packed.dy);
    for (int64_t start = 0; start < maps.height; start += at_once)
        for (int64_t tap = 0; tap < 9; tap++) {
            const int64_t right = tap % 3 - 1;
            Window window = window_at(maps, start, at_once, tap / 3 - 1);
            window.x_step = right > 0;
            window.steps = packed.dy.steps;
            add_tap(right == 0 ? packed.x : packed.x_between, packed.dy, window,
                    sums + tap * maps.in * maps.out);
        }
}
#endif

// `sums`: (out), of the gradient of the bias.
template <class T>
INLINE void add_biases(const T* dy, Maps maps, double* sums) {
    for (int64_t o = 0; o < maps.out; o += LANES) {
        Floats sum{};
        for (int64_t p = 0; p < maps.images * maps.height * maps.width; p++)
            sum += load(dy + p * maps.out + o);
        add(sums + o, sum);
    }
}

// Of weights (3, 3, in, out) and biases (out).
struct Sums {
    std::vector<float> weights;
    std::vector<double> biases;
    explicit Sums(Maps maps) : weights(9 * maps.in * maps.out), biases(maps.out) {}
    // As (out, 3, 3, in) and (out).
    void write_to(float* dweight, float* dbias) const {
        const size_t out = biases.size(), in = weights.size() / out;
        for (size_t i = 0; i < in; i++)
            for (size_t o = 0; o < out; o++) dweight[o * in + i] = weights[i * out + o];
        for (size_t o = 0; o < out; o++) dbias[o] = biases[o];
    }
};

#if defined(__x86_64__)
// Only where `multiplies` says that the processor can.
#define CONVOLUTION_KERNEL extern "C" __attribute__((target("avx512f")))

CONVOLUTION_KERNEL int weight_gradient_float32(const float* x, const float* dy, int64_t images,
                                               int64_t height, int64_t width, int64_t in,
                                               int64_t out, float* dweight, float* dbias) try {
    const Maps maps{images, height, width, in, out};
    const int64_t at_once = images_at_once(maps, width);
    PackedFloats packed(maps.from(0, at_once));
    Sums sums(maps);
    for (int64_t image = 0; image < images; image += at_once) {
        const Maps some = maps.from(image, at_once);
        const float* upstream = dy + image * maps.pixels() * out;
        add_images(x + image * maps.pixels() * in, upstream, some, packed, sums.weights.data());
        add_biases(upstream, some, sums.biases.data());
    }
    sums.write_to(dweight, dbias);
    return DONE;
} catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
}

CONVOLUTION_KERNEL int weight_gradient_bfloat16(const uint16_t* x, const uint16_t* dy,
                                                int64_t images, int64_t height, int64_t width,
                                                int64_t in, int64_t out, float* dweight,
                                                float* dbias) try {
    const Maps maps{images, height, width, in, out};
    const int64_t at_once = images_at_once(maps, (width + 1) / 2);
    PackedPairs packed(maps.from(0, at_once));
    Sums sums(maps);
    for (int64_t image = 0; image < images; image += at_once) {
        const Maps some = maps.from(image, at_once);
        const uint16_t* upstream = dy + image * maps.pixels() * out;
        add_images(x + image * maps.pixels() * in, upstream, some, packed, sums.weights.data());
        add_biases(upstream, some, sums.biases.data());
    }
    sums.write_to(dweight, dbias);
    return DONE;
} catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
}

extern "C" int64_t multiplies_float32() { return __builtin_cpu_supports("avx512f") != 0; }
extern "C" int64_t multiplies_bfloat16() { return __builtin_cpu_supports("avx512bf16") != 0; }
#else
extern "C" int64_t multiplies_float32() { return 0; }
extern "C" int64_t multiplies_bfloat16() { return 0; }
#endif

// Of what source this was built, so that a library of another is not used.
extern "C" const char* kernels_source() { return SOURCE_DIGEST; }

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

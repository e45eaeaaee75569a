// Of a 3x3 convolution padded by one: the gradient of its weights, summed over all pixels.
//
// The channels of the output lie side by side in registers, and each channel of the input is
// multiplied with all of them: LEADING x 16 TRAILING products of LEADING + 16 TRAILING numbers
// that are in the cache. Numbers are floats, or pairs of bfloat16: a channel's of two neighbouring
// pixels, which one instruction multiplies with another pair's and adds. Numbers that are used
// together are packed together first, since rows of many channels fill few sets of a cache.
//
// Included for AVX-512, of whose registers there are enough.

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
    int64_t steps, channels, group, rows = 0;
    std::vector<Number> numbers;
    const Number* start = nullptr;
    Packed(int64_t steps, int64_t channels, int64_t group)
        : steps(steps), channels(channels), group(group) {}
    Number* space_for(int64_t new_rows) {
        rows = new_rows;
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
        to.rows = rows;
        to.start = from;
        return;
    }
    float* next = to.space_for(rows);
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
    Pair* next = to.space_for(rows);
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

INLINE void multiply_add(Floats& sum, Words one, Words other) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(one), "v"(other));
}

// `sums`: (in, out) from a channel i of the inputs and o of the outputs on.
template <int LEADING, int TRAILING, class Number>
INLINE void add_products(const Packed<Number>& xs, const Packed<Number>& dys, Window window,
                         int64_t group, int64_t within, int64_t o, float* sums) {
    Floats products[LEADING][TRAILING] = {};
    const int64_t x_size = xs.size_of(group);
    for (int64_t image = 0; image < window.images; image++)
        for (int64_t r = 0; r < window.rows; r++) {
            const int64_t row = image * window.height + r;
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
static int64_t outputs_at_once(Maps maps) {
    if (maps.out % (4 * LANES) == 0) return 4 * LANES;
    return maps.out % (2 * LANES) == 0 ? 2 * LANES : LANES;
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
static int64_t inputs_at_once(Maps maps) {
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
        : x(maps.width, maps.in, inputs_at_once(maps)),
          dy(maps.width, maps.out, outputs_at_once(maps)) {}
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
        : x((maps.width + 1) / 2, maps.in, LANES),
          x_between((maps.width + 1) / 2 + 1, maps.in, LANES),
          dy((maps.width + 1) / 2, maps.out, outputs_at_once(maps)) {}
};

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

// `sums`: (out), of the gradient of the bias.
template <class T>
INLINE void add_biases(const T* dy, Maps maps, double* sums) {
    for (int64_t o = 0; o < maps.out; o += LANES) {
        Floats sum{};
        for (int64_t p = 0; p < maps.images * maps.pixels(); p++)
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
        for (size_t o = 0; dbias && o < out; o++) dbias[o] = biases[o];
    }
};

// `dbias` is null where there is no bias.
template <class PackedMaps, class T>
INLINE int weight_gradient(const T* x, const T* dy, Maps maps, float* dweight, float* dbias) try {
    PackedMaps packed(maps);
    Sums sums(maps);
    const int64_t at_once = images_at_once(maps, packed.dy.steps);
    for (int64_t image = 0; image < maps.images; image += at_once) {
        const Maps some = maps.from(image, at_once);
        const T* upstream = dy + image * maps.pixels() * maps.out;
        add_images(x + image * maps.pixels() * maps.in, upstream, some, packed,
                   sums.weights.data());
        if (dbias) add_biases(upstream, some, sums.biases.data());
    }
    sums.write_to(dweight, dbias);
    return DONE;
} catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
}

#define WEIGHT_GRADIENT(T, PACKED, DTYPE)                                                          \
    KERNEL NAMED(weight_gradient_##DTYPE)                                                          \
    (const T* x, const T* dy, int64_t images, int64_t height, int64_t width, int64_t in,           \
     int64_t out, float* dweight, float* dbias) {                                                  \
        return weight_gradient<PACKED>(x, dy, {images, height, width, in, out}, dweight, dbias);   \
    }

WEIGHT_GRADIENT(float, PackedFloats, float32)
WEIGHT_GRADIENT(uint16_t, PackedPairs, bfloat16)  // of processors that have AVX512_BF16
#undef WEIGHT_GRADIENT

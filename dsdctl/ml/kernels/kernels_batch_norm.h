// BatchNorm in training: what is the same whether its ReLU comes before or after it.
//
// Maps are channels-last, (rows, width, channels) with the rows of all images one after another
// and the channels a multiple of 16, in float or bfloat16. Per channel, n being the pixels that
// sums and means are over, x is what is normalized:
//
//     z  = x scale + shift     inverse = 1 / sqrt(variance + eps)
//                              scale = weight inverse, shift = bias - mean scale
//     dx = scale dz - offset - slope (x - mean)
//                              offset = scale sum(dz) / n
//                              slope = scale inverse^2 sum(dz (x - mean)) / n
//
// Comparisons are written so that a NaN goes on as one. Included once for each target.

constexpr int64_t BLOCK = 64;  // pixels summed in float, before that is added to a double

struct Shape {
    int64_t rows, width, channels;
    int64_t row() const { return width * channels; }
    int64_t pixels() const { return rows * width; }
};

INLINE Floats relu(Floats y) { return y <= 0 ? Floats{} : y; }

// What x is of the maps y that are in memory.
struct Rectified {
    INLINE Floats of(Floats y) { return relu(y); }
};
struct AsItIs {
    INLINE Floats of(Floats y) { return y; }
};

// Sums of two terms over all pixels, per channel: sums[c] and sums[channels + c].
//
// `terms(at, c, first, second)` adds those of the LANES channels from `c` on at one pixel, `at` in
// the maps. As many channels are gone through at once as there are registers for, since memory is
// read fastest in long pieces.
template <int VECTORS, class Terms>
INLINE void sum_some(int64_t start, int64_t stop, int64_t c, int64_t channels, Terms terms,
                     double* sums) {
    Floats first[VECTORS] = {}, second[VECTORS] = {};
    for (int64_t p = start; p < stop; p++)
        for (int v = 0; v < VECTORS; v++) {
            const int64_t channel = c + v * LANES;
            terms(p * channels + channel, channel, first[v], second[v]);
        }
    for (int v = 0; v < VECTORS; v++) {
        add(sums + c + v * LANES, first[v]);
        add(sums + channels + c + v * LANES, second[v]);
    }
}

template <class Terms>
INLINE void sum_all(Shape shape, Terms terms, double* sums) {
    const int64_t channels = shape.channels, pixels = shape.pixels();
    for (int64_t start = 0; start < pixels; start += BLOCK) {
        const int64_t stop = start + BLOCK < pixels ? start + BLOCK : pixels;
        int64_t c = 0;
        for (; c + 4 * LANES <= channels; c += 4 * LANES)
            sum_some<4>(start, stop, c, channels, terms, sums);
        for (; c < channels; c += LANES) sum_some<1>(start, stop, c, channels, terms, sums);
    }
}

// What normalizes each channel.
struct Affine {
    std::vector<float> scale, shift;
    INLINED Affine(int64_t channels, const float* weight, const float* bias, const float* mean,
           const float* inverse)
        : scale(channels), shift(channels) {
        for (int64_t c = 0; c < channels; c++) {
            scale[c] = weight[c] * inverse[c];
            shift[c] = bias[c] - mean[c] * scale[c];
        }
    }
};

// Writes mean, variance (biased) and inverse.
template <class X, class T>
INLINE void statistics(const T* y, Shape shape, double eps, float* mean, float* variance,
                       float* inverse) {
    const int64_t channels = shape.channels;
    std::vector<double> sums(2 * channels);
    // Of x - x at the first pixel, and of its square.
    sum_all(
        shape,
        [=](int64_t at, int64_t c, Floats& first, Floats& second) INLINED {
            const Floats x = X::of(load(y + at)) - X::of(load(y + c));
            first += x;
            second += x * x;
        },
        sums.data());
    for (int64_t c = 0; c < channels; c++) {
        const double first = sums[c] / shape.pixels();
        const double second = sums[channels + c] / shape.pixels() - first * first;
        mean[c] = X::of(load(y + c / LANES * LANES))[c % LANES] + first;
        variance[c] = second < 0 ? 0 : second;
        inverse[c] = 1 / std::sqrt(variance[c] + eps);
    }
}

// What makes dx of each channel.
struct Slopes {
    std::vector<float> scale, offset, slope;
    explicit Slopes(int64_t channels) : scale(channels), offset(channels), slope(channels) {}
};

// `sums`: of dz, and of dz (x - mean). Writes the gradients of weight and bias.
INLINE Slopes slopes(const std::vector<double>& sums, Shape shape, const float* weight,
                     const float* inverse, float* dweight, float* dbias) {
    const int64_t channels = shape.channels;
    Slopes all(channels);
    for (int64_t c = 0; c < channels; c++) {
        dbias[c] = sums[c];
        dweight[c] = sums[channels + c] * inverse[c];
        all.scale[c] = weight[c] * inverse[c];
        all.offset[c] = all.scale[c] * dbias[c] / shape.pixels();
        all.slope[c] = all.scale[c] * inverse[c] * dweight[c] / shape.pixels();
    }
    return all;
}

INLINE Floats gradient(Floats dz, Floats x, const float* mean, const Slopes& all, int64_t c) {
    return load(all.scale.data() + c) * dz - load(all.offset.data() + c) -
           load(all.slope.data() + c) * (x - load(mean + c));
}

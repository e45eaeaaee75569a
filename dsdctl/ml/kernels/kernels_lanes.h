// Several numbers at a time, computed with as floats and stored as float or bfloat16.
//
// Included once for each target, with LANES as many as one of its registers holds.

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));
typedef double Doubles __attribute__((vector_size(8 * LANES)));

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

INLINE void add(double* sums, Floats values) {
    write(sums, read<Doubles>(sums) + __builtin_convertvector(values, Doubles));
}

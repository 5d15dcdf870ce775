// A bytecode interpreter that runs the steps of many programs at once. bytecode.py writes the bytecode.
//
// A launch serves all programs. A step has one launch of `reduce_level` for each level of reductions, with a block of
// threads for each tensor and program. Then follows one launch of `finish_step`, with a block for each tile of a tensor
// and each program. Every block first computes the few scalars that its tensor has at that level. It then interprets
// the code for its elements. All threads of a block run the same program, so they never diverge.
//
// Compile with --fmad=false, so that every operation is rounded by itself.

enum Opcode {
    SQUARE, EXP, LOG, SIGN, SQRT, ABS, NORM, SIN, COS, TAN, ARCSIN, ARCCOS, ARCTAN,
    DIV, MUL, ADD, SUB, MINIMUM, MAXIMUM, HEAVISIDE, POW,
    CONST, STEP, GRAD_SCALE, NUMEL, SCALAR_SLOT, REDUCED,
    LOAD, STORE, STORE_SCALAR, UPDATE
};
enum ReductionKind { REDUCE_NORM, REDUCE_MEAN, REDUCE_STD };

#define MAX_REGISTERS 32
#define MAX_SCALARS 256
#define MAX_THREADS 1024
#define WIDTH 4  // elements that a thread processes together, to share the interpreter's overhead

struct Instruction { int op, result, a, b; };
struct Reduction { int kind, start, end, source, result; };

// The data of all programs. The fields have the order of the array of 64-bit integers in interpreter.py.
struct Tables {
    const Instruction* code;       // of all programs; addresses count from a program's base
    const Reduction* reductions;   // likewise
    const int* headers;            // (programs, header_size), see below
    float* const* pointers;        // (programs, tensors, columns): parameter, gradient, slots
    const int* sizes;              // (tensors,)
    float* scalar_slots;           // (2, programs, tensors, slots): the step's parity is read, the other written
    float* results;                // (programs, tensors, max_results)
    const float* grad_scales;      // (programs,)
    const int* step;               // the number of the step, counted from 1
    int* died_at;                  // (programs,): the step that made a parameter non-finite, or 0
    const float* minus_lr;         // (1,): the learning rate's negative
    long long programs, tensors, columns, slots, max_results, header_size;
};

// A program's header: base of its code, base of its reductions, start and end of the final code, number of levels.
// Then for each level: end of the scalars' code, start and end of its reductions.
enum Header { CODE, REDUCTIONS, FINAL_START, FINAL_END, LEVELS, FIRST_LEVEL };

__device__ __forceinline__ float apply(int op, float a, float b) {
    switch (op) {
        case SQUARE: return a * a;
        case EXP: return expf(a);
        case LOG: return logf(a);
        case SIGN: return (a > 0.0f ? 1.0f : 0.0f) - (a < 0.0f ? 1.0f : 0.0f);
        case SQRT: return sqrtf(a);
        case ABS: return fabsf(a);
        case NORM: return fabsf(a);  // of a scalar
        case SIN: return sinf(a);
        case COS: return cosf(a);
        case TAN: return tanf(a);
        case ARCSIN: return asinf(a);
        case ARCCOS: return acosf(a);
        case ARCTAN: return atanf(a);
        case DIV: return a / b;
        case MUL: return a * b;
        case ADD: return a + b;
        case SUB: return a - b;
        case MINIMUM: return a != a ? a : (a < b ? a : b);  // NaN if either is
        case MAXIMUM: return a != a ? a : (a > b ? a : b);
        case HEAVISIDE: return a == 0.0f ? b : (a > 0.0f ? 1.0f : 0.0f);
        case POW: return powf(a, b);
        default: return 0.0f;
    }
}

struct Place {
    const Tables& tables;
    int program, tensor;
    const int* header;
    const Instruction* code;
    float* const* columns;  // of this tensor

    __device__ Place(const Tables& t, int program, int tensor)
        : tables(t), program(program), tensor(tensor), header(t.headers + program * t.header_size),
          code(t.code + header[CODE]), columns(t.pointers + (program * t.tensors + tensor) * t.columns) {}

    __device__ float* scalar_slot(int parity, int slot) const {
        return tables.scalar_slots + ((parity * tables.programs + program) * tables.tensors + tensor) * tables.slots + slot;
    }
    __device__ float* result(int number) const {
        return tables.results + (program * tables.tensors + tensor) * tables.max_results + number;
    }
};

// Thread 0 computes the scalars known at a level; all threads wait for it.
__device__ void compute_scalars(const Place& place, int level, float* scalars) {
    if (threadIdx.x == 0) {
        const int end = place.header[FIRST_LEVEL + 3 * level];
        const int step = *place.tables.step;
        for (int k = 0; k < end; k++) {
            const Instruction i = place.code[k];
            float value;
            switch (i.op) {
                case CONST: value = __int_as_float(i.a); break;
                case STEP: value = (float)step; break;
                case GRAD_SCALE: value = place.tables.grad_scales[place.program]; break;
                case NUMEL: value = (float)place.tables.sizes[place.tensor]; break;
                case SCALAR_SLOT: value = *place.scalar_slot(step & 1, i.a); break;
                case REDUCED: value = *place.result(i.a); break;
                default: value = apply(i.op, scalars[i.a], scalars[i.b]);
            }
            scalars[i.result] = value;
        }
    }
    __syncthreads();
}

// Interprets code for the elements `first + lane * blockDim.x` that lie before `end`.
struct Elements {
    float registers[MAX_REGISTERS][WIDTH];
    int first, end;

    __device__ float operand(int number, int lane, const float* scalars) const {
        return number < 0 ? scalars[-1 - number] : registers[number][lane];
    }

    // Returns true if a parameter became non-finite. The leader also writes the tensor's scalar slots.
    __device__ bool run(const Place& place, int start, int stop, const float* scalars, bool leader, float minus_lr) {
        bool bad = false;
        for (int k = start; k < stop; k++) {
            const Instruction i = place.code[k];
            switch (i.op) {
                case LOAD: {
                    const float* source = place.columns[i.a];
                    #pragma unroll
                    for (int lane = 0; lane < WIDTH; lane++) {
                        const int element = first + lane * (int)blockDim.x;
                        registers[i.result][lane] = element < end ? source[element] : 0.0f;
                    }
                    break;
                }
                case STORE: {
                    float* target = place.columns[i.result];
                    #pragma unroll
                    for (int lane = 0; lane < WIDTH; lane++) {
                        const int element = first + lane * (int)blockDim.x;
                        if (element < end) target[element] = operand(i.a, lane, scalars);
                    }
                    break;
                }
                case STORE_SCALAR:
                    if (leader) *place.scalar_slot((*place.tables.step + 1) & 1, i.result) = operand(i.a, 0, scalars);
                    break;
                case UPDATE: {
                    float* param = place.columns[i.result];
                    #pragma unroll
                    for (int lane = 0; lane < WIDTH; lane++) {
                        const int element = first + lane * (int)blockDim.x;
                        if (element < end) {
                            const float value = fmaf(operand(i.a, lane, scalars), minus_lr, param[element]);
                            param[element] = value;
                            bad |= !isfinite(value);
                        }
                    }
                    break;
                }
                default:
                    #pragma unroll
                    for (int lane = 0; lane < WIDTH; lane++)
                        registers[i.result][lane] = apply(i.op, operand(i.a, lane, scalars), operand(i.b, lane, scalars));
            }
        }
        return bad;
    }
};

// Sums all threads' values, in an order that depends on the number of threads alone.
__device__ float block_sum(float value, float* shared) {
    __syncthreads();
    shared[threadIdx.x] = value;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    __syncthreads();
    return shared[0];
}

// Sums f(value) over a tensor's elements; code[r.start:r.end] computes the values as operand `r.source`.
template <typename F>
__device__ float sum_elements(const Place& place, const Reduction& r, const float* scalars, float* shared, F f) {
    Elements elements;
    const int size = place.tables.sizes[place.tensor];
    elements.end = size;
    float sum = 0.0f;
    for (int start = 0; start < size; start += blockDim.x * WIDTH) {
        elements.first = start + threadIdx.x;
        elements.run(place, r.start, r.end, scalars, false, 0.0f);
        for (int lane = 0; lane < WIDTH; lane++)
            if (elements.first + lane * (int)blockDim.x < size) sum += f(elements.operand(r.source, lane, scalars));
    }
    return block_sum(sum, shared);
}

// grid: (tensors, programs). The number of threads is a power of two.
extern "C" __global__ void reduce_level(const Tables* tables, int level) {
    __shared__ float scalars[MAX_SCALARS];
    __shared__ float shared[MAX_THREADS];
    const Place place(*tables, blockIdx.y, blockIdx.x);
    if (level >= place.header[LEVELS] - 1 || tables->died_at[place.program]) return;
    compute_scalars(place, level, scalars);
    const int* range = place.header + FIRST_LEVEL + 3 * level;
    const int size = tables->sizes[place.tensor];
    for (int k = range[1]; k < range[2]; k++) {
        const Reduction r = tables->reductions[place.header[REDUCTIONS] + k];
        float value;
        if (r.kind == REDUCE_NORM) {
            // As in torch, the norm of one element is its absolute value, whose square can't overflow.
            value = size == 1 ? sum_elements(place, r, scalars, shared, [](float x) { return fabsf(x); })
                              : sqrtf(sum_elements(place, r, scalars, shared, [](float x) { return x * x; }));
        } else {
            value = sum_elements(place, r, scalars, shared, [](float x) { return x; }) / (float)size;
            if (r.kind == REDUCE_STD) {
                const float mean = value;
                const float squares = sum_elements(
                    place, r, scalars, shared, [mean](float x) { return (x - mean) * (x - mean); });
                value = sqrtf(squares / (float)(size - 1));  // 0 / 0 for a single element: NaN
            }
        }
        if (threadIdx.x == 0) *place.result(r.result) = value;
    }
}

// grid: (tiles, programs); a tile is (tensor, first element, end).
extern "C" __global__ void finish_step(const Tables* tables, const int* tiles) {
    __shared__ float scalars[MAX_SCALARS];
    const int* tile = tiles + 3 * blockIdx.x;
    const Place place(*tables, blockIdx.y, tile[0]);
    const int died_at = tables->died_at[place.program];
    const int step = *tables->step;
    if (died_at && died_at < step) return;  // in this step, another block may have set it already
    compute_scalars(place, place.header[LEVELS] - 1, scalars);
    const float minus_lr = *tables->minus_lr;
    Elements elements;
    elements.end = tile[2];
    bool bad = false;
    for (int start = tile[1]; start < tile[2]; start += blockDim.x * WIDTH) {
        elements.first = start + threadIdx.x;
        const bool leader = start == 0 && threadIdx.x == 0;
        bad |= elements.run(place, place.header[FINAL_START], place.header[FINAL_END], scalars, leader, minus_lr);
    }
    if (bad) tables->died_at[place.program] = step;  // all blocks write the same value
}

// Computes the norm of each gradient. grid: (tensors, programs).
extern "C" __global__ void gradient_norms(const Tables* tables, float* norms) {
    __shared__ float shared[MAX_THREADS];
    const float* grad = tables->pointers[(blockIdx.y * tables->tensors + blockIdx.x) * tables->columns + 1];
    const int size = tables->sizes[blockIdx.x];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < size; i += blockDim.x) sum += grad[i] * grad[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) norms[blockIdx.y * tables->tensors + blockIdx.x] = size == 1 ? fabsf(grad[0]) : sqrtf(sum);
}

// Computes the factors that clip each program's gradients to the global norm 1. grid: (programs,).
extern "C" __global__ void clip_factors(const Tables* tables, const float* norms, float* factors) {
    __shared__ float shared[MAX_THREADS];
    float sum = 0.0f;
    for (int t = threadIdx.x; t < tables->tensors; t += blockDim.x) {
        const float norm = norms[blockIdx.x * tables->tensors + t];
        sum += norm * norm;
    }
    const float factor = 1.0f / (sqrtf(block_sum(sum, shared)) + 1e-6f);
    if (threadIdx.x == 0) factors[blockIdx.x] = factor > 1.0f ? 1.0f : factor;  // NaN stays
}

// Runs CUDA kernels on the processor, for tests. cuda_emulator.py puts this before a `.cu` text, builds both into a library with the part
// under EMULATOR_RUNTIME, and has a library that offers the functions of the CUDA driver which the project calls.
//
// Blocks run one after another, in random order. Each CUDA thread of a block is a fibre: a stack of its own, left at barriers and warp
// exchanges only. Who goes on is drawn at random, so that a missing barrier gives results that depend on the seed. At a barrier or exchange
// that some of its threads never reach there comes a time when nobody can go on: the launch fails, and its error says who waits where.
//
// Memory that nobody wrote must not look written: before each block shared memory is filled with bytes 0xff (NaN, -1) or 0x7f (3.4e38,
// 2139062143), and what a lane takes from a lane that gives nothing is 0xff too.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

// ---- words of the language ------------------------------------------------------------------------------------------------------------

// `used`: else the compiler takes a shared variable that is never written for the constant 0.
#define __shared__ static __attribute__((section("cuda_shared"), used))
#define __constant__ static
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) double2 { double x, y; };

static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

extern uint3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

// ---- what the kernels and the runtime share -------------------------------------------------------------------------------------------

namespace emulator {

// Where a thread waits; those of the block come first.
enum Place { NOWHERE, BARRIER, BARRIER_COUNT, BARRIER_AND, BARRIER_OR, SHUFFLE, VOTE, WARP_BARRIER };

// Waits for the other threads of the block, or the lanes of the mask. given: a vote, or bits for the lanes whose source this lane is.
uint64_t meet(Place place, int line, unsigned mask, uint64_t given, int source);

// What a parameter is, as cuda_emulator.py reads it: '*' where it is an address, 'c' where what lies there is not to be written, then f, i
// or u with the bytes of a number; '?' for anything else.
template <class T> struct Numbers { static void write(char*& at) { *at++ = '?'; } };
#define EMULATOR_NUMBERS(type, kind, bytes) \
    template <> struct Numbers<type> { static void write(char*& at) { *at++ = kind; *at++ = bytes; } };
EMULATOR_NUMBERS(float, 'f', '4')
EMULATOR_NUMBERS(float2, 'f', '4')
EMULATOR_NUMBERS(float4, 'f', '4')
EMULATOR_NUMBERS(double, 'f', '8')
EMULATOR_NUMBERS(double2, 'f', '8')
EMULATOR_NUMBERS(int, 'i', '4')
EMULATOR_NUMBERS(int2, 'i', '4')
EMULATOR_NUMBERS(int4, 'i', '4')
EMULATOR_NUMBERS(unsigned, 'u', '4')
EMULATOR_NUMBERS(long long, 'i', '8')
EMULATOR_NUMBERS(unsigned long long, 'u', '8')
EMULATOR_NUMBERS(unsigned char, 'u', '1')
EMULATOR_NUMBERS(bool, 'u', '1')
template <class T> struct Parameter { static void write(char*& at) { Numbers<T>::write(at); } };
template <class T> struct Parameter<T*> { static void write(char*& at) { *at++ = '*'; Numbers<T>::write(at); } };
template <class T> struct Parameter<const T*> { static void write(char*& at) { *at++ = '*'; *at++ = 'c'; Numbers<T>::write(at); } };

struct Kernel {
    const char* name;
    void (*code)();
    void (*call)(void (*code)(), void** arguments);  // with the types of the kernel's parameters
    unsigned threads_max;
    char parameters[256];
    Kernel* next;
    static Kernel* all;

    template <class... A> Kernel(const char* name, void (*code)(A...), unsigned threads_max, unsigned = 0)
        : name(name), code((void (*)())code), call(called<A...>), threads_max(threads_max), next(all) {
        static_assert(sizeof...(A) < 50, "more parameters than the emulator can describe");
        char* at = parameters;
        ((Parameter<A>::write(at), *at++ = ' '), ...);
        *at = 0;
        all = this;
    }

    template <class... A> static void called(void (*code)(), void** arguments) {
        with((void (*)(A...))code, arguments, std::index_sequence_for<A...>{});
    }
    template <class... A, size_t... I> static void with(void (*code)(A...), void** arguments, std::index_sequence<I...>) {
        code(*(A*)arguments[I]...);
    }
};

}  // namespace emulator

// Written by cuda_emulator.py after the text, once for each kernel: its name and its launch bounds.
#define EMULATOR_KERNEL(name, ...) static emulator::Kernel emulator_kernel_##name(#name, name, __VA_ARGS__);

// ---- what kernels call ----------------------------------------------------------------------------------------------------------------

#define EMULATOR_LINE int line = __builtin_LINE()  // the default is the line of the call

static inline void __syncthreads(EMULATOR_LINE) { emulator::meet(emulator::BARRIER, line, 0, 0, 0); }
static inline int __syncthreads_count(int yes, EMULATOR_LINE) { return emulator::meet(emulator::BARRIER_COUNT, line, 0, yes != 0, 0); }
static inline int __syncthreads_and(int yes, EMULATOR_LINE) { return emulator::meet(emulator::BARRIER_AND, line, 0, yes != 0, 0); }
static inline int __syncthreads_or(int yes, EMULATOR_LINE) { return emulator::meet(emulator::BARRIER_OR, line, 0, yes != 0, 0); }
static inline void __syncwarp(unsigned mask = ~0u, EMULATOR_LINE) { emulator::meet(emulator::WARP_BARRIER, line, mask, 0, 0); }
static inline unsigned __ballot_sync(unsigned mask, int yes, EMULATOR_LINE) {
    return emulator::meet(emulator::VOTE, line, mask, yes != 0, 0);
}
static inline int __any_sync(unsigned mask, int yes, EMULATOR_LINE) { return __ballot_sync(mask, yes, line) != 0; }
static inline int __all_sync(unsigned mask, int yes, EMULATOR_LINE) { return __ballot_sync(mask, !yes, line) == 0; }

namespace emulator {
template <class T> T shuffled(unsigned mask, T given, int source, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle takes numbers of 32 or 64 bits");
    uint64_t bits = 0;
    memcpy(&bits, &given, sizeof given);
    bits = meet(SHUFFLE, line, mask, bits, source);
    memcpy(&given, &bits, sizeof given);
    return given;
}
static inline int lane() { return threadIdx.x % warpSize; }
}  // namespace emulator

// Of whole warps only: nothing here exchanges among narrower groups.
template <class T> T __shfl_sync(unsigned mask, T given, int source, EMULATOR_LINE) {
    return emulator::shuffled(mask, given, source & (warpSize - 1), line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T given, int bits, EMULATOR_LINE) {
    return emulator::shuffled(mask, given, emulator::lane() ^ bits, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T given, unsigned by, EMULATOR_LINE) {
    int source = emulator::lane() + by;
    return emulator::shuffled(mask, given, source < warpSize ? source : emulator::lane(), line);
}

// One fibre runs at a time and is left nowhere else, so plain reading and writing is atomic.
namespace emulator {
template <class T> struct Same { using type = T; };  // the second argument becomes what the first is, as in CUDA: atomicAdd(float*, int)
template <class T> T exchanged(T* at, T value) {
    T old = *at;
    *at = value;
    return old;
}
}  // namespace emulator
template <class T> T atomicAdd(T* at, typename emulator::Same<T>::type value) { return emulator::exchanged(at, (T)(*at + value)); }
template <class T> T atomicMax(T* at, typename emulator::Same<T>::type value) { return emulator::exchanged(at, *at > value ? *at : value); }

#define EMULATOR_LEAST_AND_MOST(type) \
    static inline type min(type a, type b) { return b < a ? b : a; } \
    static inline type max(type a, type b) { return a < b ? b : a; }
EMULATOR_LEAST_AND_MOST(int)
EMULATOR_LEAST_AND_MOST(unsigned)
EMULATOR_LEAST_AND_MOST(long long)
EMULATOR_LEAST_AND_MOST(unsigned long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
#define __expf(x) expf(x)  // glibc has a function of this name, which nobody may call

#ifdef EMULATOR_RUNTIME
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

uint3 threadIdx, blockIdx, blockDim, gridDim;

// ---- fibres ---------------------------------------------------------------------------------------------------------------------------

namespace emulator {

enum { THREADS_MAX = 1024, LANES = 32, STACK = 256 << 10, GUARD = 64 << 10 };
// Error codes of the driver.
enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500,
    LAUNCH_FAILED = 719
};

static const char* const place_names[] = {
    "nowhere", "__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or", "a shuffle", "a vote", "__syncwarp"};

struct Fibre {
    jmp_buf at;     // where it was left
    bool begun, ended;
    Place place;
    int line;       // of the text, where it waits
    unsigned mask;  // of the lanes that it waits for
    int source;     // the lane that it takes from
    uint64_t given, answer;
};

static Fibre fibres[THREADS_MAX];
static char* stacks;
static jmp_buf home;  // the launch, to which the last fibre or the first failure returns
static int current, threads, ended, at_barrier;
static uint32_t ready_warps, ready[LANES];  // a bit for each warp that has lanes that can go on; those lanes
static bool staying;                        // until the next barrier a warp goes on as long as it can, far ahead of the others
static uint64_t random_state;
static char words[1024];                    // of the last failure
static const Kernel* kernel;                // that runs now
static void** kernel_arguments;

static uint32_t draw() {  // xorshift64* (Vigna 2016)
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (random_state * 0x2545f4914f6cdd1dull) >> 32;
}

static uint32_t draw_below(uint32_t n) { return ((uint64_t)draw() * n) >> 32; }

static int draw_bit(uint32_t bits) {  // each bit that is set as likely as any other
    for (uint32_t skipped = draw_below(__builtin_popcount(bits)); skipped; skipped--) bits &= bits - 1;
    return __builtin_ctz(bits);
}

[[noreturn]] __attribute__((format(printf, 1, 2))) static void fail(const char* format, ...) {
    int length = snprintf(words, sizeof words, "kernel %s, block %u, thread %u: ", kernel->name, blockIdx.x, threadIdx.x);
    va_list values;
    va_start(values, format);
    vsnprintf(words + length, sizeof words - length, format, values);
    va_end(values);
    _longjmp(home, LAUNCH_FAILED);
}

// Names a thread that waits, and one that is not there. Who waits for its warp is nearer to the fault than who waits for the block.
[[noreturn]] static void fail_stuck() {
    int waiting = -1;
    for (int t = 0; t < threads; t++)
        if (!fibres[t].ended && (waiting < 0 || (fibres[waiting].place <= BARRIER_OR && fibres[t].place > BARRIER_OR))) waiting = t;
    const Fibre& w = fibres[waiting];
    int missing = 0, first = -1;
    for (int t = 0; t < threads; t++) {
        const Fibre& f = fibres[t];
        bool wanted = w.place <= BARRIER_OR || (t / LANES == waiting / LANES && w.mask >> t % LANES & 1);
        bool there = !f.ended && f.place == w.place && f.line == w.line && f.mask == w.mask;
        if (wanted && !there && !missing++) first = t;
    }
    threadIdx.x = waiting;
    char why[80] = "has ended";
    const Fibre& f = fibres[first];
    if (!f.ended) snprintf(why, sizeof why, "waits at %s in line %d", place_names[f.place], f.line);
    fail("waits at %s in line %d for thread %d, which %s; threads missing there: %d", place_names[w.place], w.line, first, why, missing);
}

[[noreturn]] static void go_on();

static void enter() {
    for (;;) {  // once for each block
        kernel->call(kernel->code, kernel_arguments);
        fibres[current].ended = true;
        ended++;
        if (!_setjmp(fibres[current].at)) go_on();
    }
}

static char* stack_of(int thread) { return stacks + (size_t)thread * STACK + (size_t)(thread / LANES + 1) * GUARD; }

// Leaves the fibre that runs for one that can go on, or for home.
[[noreturn]] static void go_on() {
    if (!ready_warps) {
        if (ended == threads) _longjmp(home, -1);
        fail_stuck();
    }
    int warp = staying && ready_warps >> current / LANES & 1 ? current / LANES : draw_bit(ready_warps);
    int lane = draw_bit(ready[warp]);
    ready[warp] &= ~(1u << lane);
    if (!ready[warp]) ready_warps &= ~(1u << warp);
    current = warp * LANES + lane;
    threadIdx.x = current;
    Fibre& f = fibres[current];
    if (f.begun) _longjmp(f.at, 1);
    f.begun = true;
    ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = stack_of(current);
    start.uc_stack.ss_size = STACK;
    start.uc_link = nullptr;
    makecontext(&start, enter, 0);
    setcontext(&start);
    abort();
}

static void make_ready(int thread) {
    ready[thread / LANES] |= 1u << thread % LANES;
    ready_warps |= 1u << thread / LANES;
    fibres[thread].place = NOWHERE;
}

// All threads of the block wait: lets them go on if it is at the same barrier.
static void release_block(Place place, int line) {
    int votes = 0;
    for (int t = 0; t < threads; t++) {
        if (fibres[t].place != place || fibres[t].line != line) fail_stuck();
        votes += fibres[t].given != 0;
    }
    uint64_t answer = place == BARRIER_COUNT ? votes : place == BARRIER_AND ? votes == threads : votes > 0;
    for (int t = 0; t < threads; t++) {
        fibres[t].answer = answer;
        make_ready(t);
    }
    at_barrier = 0;
    staying = draw() & 1;
}

// Lets the lanes of an exchange go on if all of them are there.
static void release_lanes(const Fibre& mine) {
    int first = current / LANES * LANES;
    uint32_t members = mine.mask & (threads - first >= LANES ? ~0u : (1u << (threads - first)) - 1);  // the last warp may be cut short
    uint32_t votes = 0;
    for (uint32_t left = members; left; left &= left - 1) {
        const Fibre& f = fibres[first + __builtin_ctz(left)];
        if (f.ended || f.place != mine.place || f.line != mine.line || f.mask != mine.mask) return;
        votes |= (f.given != 0) << __builtin_ctz(left);
    }
    for (uint32_t left = members; left; left &= left - 1) {
        Fibre& f = fibres[first + __builtin_ctz(left)];
        bool there = f.source >= 0 && f.source < LANES && members >> f.source & 1;
        f.answer = f.place == VOTE ? votes : there ? fibres[first + f.source].given : ~0ull;
    }
    for (uint32_t left = members; left; left &= left - 1) make_ready(first + __builtin_ctz(left));
}

uint64_t meet(Place place, int line, unsigned mask, uint64_t given, int source) {
    Fibre& f = fibres[current];
    f.place = place;
    f.line = line;
    f.mask = mask;
    f.given = given;
    f.source = source;
    if (place <= BARRIER_OR) {
        if (++at_barrier == threads) release_block(place, line);
    } else {
        if (!(mask >> current % LANES & 1)) fail("%s in line %d has a mask, %08x, without the lane itself", place_names[place], line, mask);
        release_lanes(f);
    }
    if (!_setjmp(f.at)) go_on();
    return fibres[current].answer;
}

// ---- launches -------------------------------------------------------------------------------------------------------------------------

// The linker sets these around the section of __shared__ where there is one.
extern "C" __attribute__((weak, visibility("hidden"))) char __start_cuda_shared[], __stop_cuda_shared[];

static int run_block() {
    if (__start_cuda_shared) memset(__start_cuda_shared, draw() & 1 ? 0xff : 0x7f, __stop_cuda_shared - __start_cuda_shared);
    ended = at_barrier = 0;
    for (int t = 0; t < threads; t++) {
        fibres[t].ended = false;
        make_ready(t);
    }
    staying = draw() & 1;
    int code = _setjmp(home);
    if (!code) go_on();
    if (code < 0) return OK;
    for (Fibre& f : fibres) f.begun = false;  // they stopped amid the kernel
    ready_warps = 0;
    memset(ready, 0, sizeof ready);
    return code;
}

static pthread_t launcher;
static struct sigaction before[NSIG];
static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE};

// A wild address or a division by zero must fail the launch, not end the tests.
static void on_fault(int signal, siginfo_t* info, void*) {
    if (!kernel || !pthread_equal(pthread_self(), launcher)) {  // not ours: it happens again, and meets who was there before
        sigaction(signal, &before[signal], nullptr);
        return;
    }
    if (signal == SIGFPE) fail("divides an integer by zero");
    fail("reads or writes at an address (%p) where there is no memory, or overruns its stack of %d KiB", info->si_addr, STACK >> 10);
}

static int run_grid(unsigned blocks) {
    if (!stacks) {
        size_t bytes = (size_t)THREADS_MAX * STACK + THREADS_MAX / LANES * GUARD;
        void* made = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (made == MAP_FAILED) return OUT_OF_MEMORY;
        stacks = (char*)made;
        // A guard before each warp's stacks, not before each stack: a process may have only some 65,000 separate pieces of memory.
        for (int t = 0; t < THREADS_MAX; t += LANES) mprotect(stack_of(t) - GUARD, GUARD, PROT_NONE);
    }
    launcher = pthread_self();
    static char signal_stack[64 << 10];
    stack_t own{}, others{};
    own.ss_sp = signal_stack;
    own.ss_size = sizeof signal_stack;
    sigaltstack(&own, &others);
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // the handler is left by a jump, so the signal must not stay blocked
    for (int fault : faults) sigaction(fault, &action, &before[fault]);

    int code = OK;
    auto* order = (unsigned*)malloc(blocks * sizeof(unsigned));
    for (unsigned i = 0; i < blocks; i++) {
        unsigned j = draw_below(i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (unsigned i = 0; i < blocks && !code; i++) {
        blockIdx = {order[i], 0, 0};
        code = run_block();
    }
    free(order);
    for (int fault : faults) sigaction(fault, &before[fault], nullptr);
    sigaltstack(&others, nullptr);
    return code;
}

Kernel* Kernel::all = nullptr;

static Kernel* kernel_of(const char* name) {
    for (Kernel* k = Kernel::all; k; k = k->next)
        if (!strcmp(k->name, name)) return k;
    return nullptr;
}

struct Module { uint64_t state; };  // of the random numbers: it goes on from launch to launch
struct Function { Kernel* kernel; Module* module; };

static pthread_mutex_t one_launch = PTHREAD_MUTEX_INITIALIZER;
static thread_local int contexts;  // pushed and not popped by this thread
static int the_context;
static void* last_stream;

}  // namespace emulator

// ---- the driver -----------------------------------------------------------------------------------------------------------------------

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

EMULATOR_EXPORT int cuDeviceGet(int* device, int index) {
    *device = index;
    return index ? emulator::INVALID_DEVICE : emulator::OK;
}

EMULATOR_EXPORT int cuDevicePrimaryCtxRetain(void** context, int) {
    *context = &emulator::the_context;
    return emulator::OK;
}

EMULATOR_EXPORT int cuCtxPushCurrent_v2(void* context) {
    if (context != &emulator::the_context) return emulator::INVALID_CONTEXT;
    emulator::contexts++;
    return emulator::OK;
}

EMULATOR_EXPORT int cuCtxPopCurrent_v2(void** context) {
    if (!emulator::contexts) return emulator::INVALID_CONTEXT;
    emulator::contexts--;
    *context = &emulator::the_context;
    return emulator::OK;
}

// An image is "emulated" and the seed.
EMULATOR_EXPORT int cuModuleLoadData(void** module, const void* image) {
    unsigned long long seed;
    if (!emulator::contexts) return emulator::INVALID_CONTEXT;
    if (sscanf((const char*)image, "emulated %llu", &seed) != 1) return emulator::INVALID_IMAGE;
    *module = new emulator::Module{(seed + 1) * 0x9e3779b97f4a7c15ull};
    return emulator::OK;
}

EMULATOR_EXPORT int cuModuleGetFunction(void** function, void* module, const char* name) {
    if (!emulator::contexts) return emulator::INVALID_CONTEXT;
    emulator::Kernel* kernel = emulator::kernel_of(name);
    if (!kernel) return emulator::NOT_FOUND;
    *function = new emulator::Function{kernel, (emulator::Module*)module};
    return emulator::OK;
}

EMULATOR_EXPORT int cuLaunchKernel(
    void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
    unsigned shared, void* stream, void** arguments, void** extra
) {
    if (!emulator::contexts) return emulator::INVALID_CONTEXT;
    auto* f = (emulator::Function*)function;
    bool one_dimensional = grid_y == 1 && grid_z == 1 && block_y == 1 && block_z == 1;
    bool fits = grid_x && grid_x <= INT32_MAX && block_x && block_x <= emulator::THREADS_MAX && block_x <= f->kernel->threads_max;
    if (!one_dimensional || !fits || shared || extra) return emulator::INVALID_VALUE;
    pthread_mutex_lock(&emulator::one_launch);
    emulator::last_stream = stream;
    emulator::kernel = f->kernel;
    emulator::kernel_arguments = arguments;
    emulator::random_state = f->module->state;
    emulator::threads = block_x;
    blockDim = {block_x, 1, 1};
    gridDim = {grid_x, 1, 1};
    int code = emulator::run_grid(grid_x);
    f->module->state = emulator::random_state;
    emulator::kernel = nullptr;
    pthread_mutex_unlock(&emulator::one_launch);
    return code;
}

EMULATOR_EXPORT int cuGetErrorString(int code, const char** text) {
    *text = code == emulator::INVALID_VALUE     ? "invalid argument"
            : code == emulator::OUT_OF_MEMORY   ? "out of memory"
            : code == emulator::INVALID_DEVICE  ? "invalid device ordinal"
            : code == emulator::INVALID_IMAGE   ? "device kernel image is invalid"
            : code == emulator::INVALID_CONTEXT ? "invalid device context"
            : code == emulator::NOT_FOUND       ? "named symbol not found"
            : code == emulator::LAUNCH_FAILED   ? emulator::words
                                                : "unknown error";
    return emulator::OK;
}

// What the driver has not: for cuda_emulator.py and tests.
EMULATOR_EXPORT const char* emulator_parameters(const char* kernel) {
    emulator::Kernel* found = emulator::kernel_of(kernel);
    return found ? found->parameters : nullptr;
}
EMULATOR_EXPORT int emulator_contexts() { return emulator::contexts; }
EMULATOR_EXPORT void* emulator_last_stream() { return emulator::last_stream; }

// ---- what code calls that -fsanitize adds: the first fields of GCC's and Clang's descriptions of a place and a type ---------------------

namespace emulator {
struct Type { uint16_t kind, info; char name[1]; };
struct OutOfBounds { const char* file; uint32_t line, column; const Type *array, *index; };
struct Mismatch { const char* file; uint32_t line, column; const Type* type; uint8_t log_alignment, kind; };
}  // namespace emulator

extern "C" void __ubsan_handle_out_of_bounds(emulator::OutOfBounds* place, intptr_t index) {
    bool small = place->index->info >> 1 <= 5, is_signed = place->index->info & 1;  // small: of 32 bits or less
    long long i = small && is_signed ? (int)index : index;
    emulator::fail("index %lld is outside of %s in line %u", i, place->array->name, place->line);
}

extern "C" void __ubsan_handle_type_mismatch_v1(emulator::Mismatch* place, uintptr_t address) {
    const char* type = place->type->name;
    int bytes = 1 << place->log_alignment;
    if (address % bytes) emulator::fail("%s at an address that is no multiple of %d bytes in line %u", type, bytes, place->line);
    emulator::fail("%s outside of its variable in line %u", type, place->line);
}
#endif

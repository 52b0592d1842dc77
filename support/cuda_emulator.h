// Runs CUDA kernels on the processor, for tests. cuda_emulator.py puts this in front of a `.cu` text and builds both into a library that
// offers the functions of the CUDA driver which the project calls.
//
// Blocks run one after another, in random order. Each CUDA thread of a block is a fibre: a stack of its own, left at barriers and warp
// exchanges only. Whoever may go on is drawn at random, so a missing barrier gives results that depend on the seed. A barrier or an exchange
// that some of its threads never reach leaves nobody who could go on: the launch fails and the error says who waits where.
//
// Memory that nobody wrote must not look written: shared memory is filled with 0xff before each block (NaN, or -1), and what a lane reads
// from a lane that gave nothing is 0xff too.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <utility>

// ---- words of the language -------------------------------------------------------------------------------------------------------------

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
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct int3 { int x, y, z; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) double2 { double x, y; };

static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

static uint3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

// ---- fibres ----------------------------------------------------------------------------------------------------------------------------

namespace emulator {

enum { THREADS_MAX = 1024, LANES = 32, STACK = 64 << 10, GUARD = 64 << 10 };
// Error codes of the driver.
enum { OK = 0, INVALID_VALUE = 1, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

// Where a fibre waits.
enum Place { NOWHERE, BARRIER, BARRIER_COUNT, BARRIER_AND, BARRIER_OR, SHUFFLE, VOTE, WARP_BARRIER };
static const char* const place_names[] = {
    "nowhere", "__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or", "a shuffle", "a vote", "__syncwarp"};

struct Fibre {
    jmp_buf at;             // where it was left
    bool begun, ended;
    Place place;
    int line;               // of the text, where it waits
    unsigned mask;          // of the lanes that it waits for
    int source;             // the lane that it reads from
    uint64_t given, answer;
};

static Fibre fibres[THREADS_MAX];
static char* stacks;
static jmp_buf home;                      // the launch, to which the last fibre or the first failure returns
static int current, threads, ended, at_barrier;
static uint32_t ready_warps, ready[LANES];  // a bit for each warp that has lanes that may go on; those lanes
static bool staying;                      // in this interval a warp goes on as long as it can, far ahead of the others
static uint64_t random_state;
static void (*body)();
static char words[1024];                  // of the last failure
static const char* kernel_name;

static uint32_t draw() {  // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (random_state * 0x2545f4914f6cdd1dull) >> 32;
}

static uint32_t draw_below(uint32_t n) { return ((uint64_t)draw() * n) >> 32; }

static int draw_bit(uint32_t bits) {
    int turn = draw() % LANES;
    uint32_t turned = turn ? bits >> turn | bits << (LANES - turn) : bits;
    return (__builtin_ctz(turned) + turn) % LANES;
}

[[noreturn]] __attribute__((format(printf, 1, 2))) static void fail(const char* format, ...) {
    int length = snprintf(words, sizeof words, "kernel %s, block %u, thread %u: ", kernel_name, blockIdx.x, threadIdx.x);
    va_list values;
    va_start(values, format);
    vsnprintf(words + length, sizeof words - length, format, values);
    va_end(values);
    _longjmp(home, LAUNCH_FAILED);
}

[[noreturn]] static void fail_stuck() {
    // The first waiting thread, and the first that is not where that one waits.
    int waiting = 0;
    while (fibres[waiting].ended) waiting++;
    const Fibre& w = fibres[waiting];
    bool block = w.place >= BARRIER && w.place <= BARRIER_OR;
    int missing = 0, first = -1;
    for (int t = 0; t < threads; t++) {
        const Fibre& f = fibres[t];
        bool meant = block || (t / LANES == waiting / LANES && w.mask >> t % LANES & 1);
        bool there = !f.ended && f.place == w.place && f.line == w.line && (block || f.mask == w.mask);
        if (meant && !there && !missing++) first = t;
    }
    threadIdx.x = waiting;
    if (first < 0) fail("waits at %s in line %d for lanes that are not there", place_names[w.place], w.line);
    const Fibre& m = fibres[first];
    if (m.ended) fail("waits at %s in line %d, %d threads do not come: thread %d has ended", place_names[w.place], w.line, missing, first);
    fail("waits at %s in line %d, %d threads do not come: thread %d waits at %s in line %d", place_names[w.place], w.line, missing, first,
         place_names[m.place], m.line);
}

[[noreturn]] static void go_on();

static void enter() {
    for (;;) {  // once for each block
        body();
        fibres[current].ended = true;
        ended++;
        if (!_setjmp(fibres[current].at)) go_on();
    }
}

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
    start.uc_stack.ss_sp = stacks + (size_t)current * (STACK + GUARD) + GUARD;
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

static void release_block(Place place) {
    int votes = 0;
    for (int t = 0; t < threads; t++) votes += fibres[t].given != 0;
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
    uint32_t members = mine.mask & (threads - first >= LANES ? ~0u : (1u << (threads - first)) - 1);  // the last warp may be a part of one
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

// Waits for the others; everything that makes threads wait ends here.
__attribute__((noinline)) static uint64_t meet(Place place, int line, unsigned mask, uint64_t given, int source) {
    Fibre& f = fibres[current];
    f.place = place;
    f.line = line;
    f.mask = mask;
    f.given = given;
    f.source = source;
    if (place <= BARRIER_OR) {
        // A divergent barrier may wait in another line: only threads that all wait at the same one go on.
        if (++at_barrier == threads) {
            for (int t = 0; t < threads; t++)
                if (fibres[t].place != place || fibres[t].line != line) fail_stuck();
            release_block(place);
        }
    } else {
        if (!(mask >> current % LANES & 1)) fail("%s in line %d with a mask, %08x, that leaves its own lane out", place_names[place], line, mask);
        release_lanes(f);
    }
    if (!_setjmp(f.at)) go_on();
    return fibres[current].answer;
}

// ---- launches --------------------------------------------------------------------------------------------------------------------------

extern "C" __attribute__((weak, visibility("hidden"))) char __start_cuda_shared[], __stop_cuda_shared[];

static int run_block() {
    if (__start_cuda_shared) memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
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
    if (!pthread_equal(pthread_self(), launcher)) {  // not ours: it happens again, and meets who was there before
        sigaction(signal, &before[signal], nullptr);
        return;
    }
    if (signal == SIGFPE) fail("divides an integer by zero");
    fail("reads or writes at an address (%p) where there is no memory, or overruns its stack of %d KiB", info->si_addr, STACK >> 10);
}

static int run_grid(unsigned blocks) {
    if (!stacks) {
        size_t each = STACK + GUARD;
        void* made = mmap(nullptr, THREADS_MAX * each, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (made == MAP_FAILED) return 2;  // CUDA_ERROR_OUT_OF_MEMORY
        stacks = (char*)made;
        for (int t = 0; t < THREADS_MAX; t++) mprotect(stacks + t * each, GUARD, PROT_NONE);
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

// What a parameter is, as cuda_emulator.py reads it: '*' where it is an address, 'c' where what lies there is not to be written; f, i or u
// with the bytes of a number; '?' for anything else.
template <class T> struct Numbers { static void write(char*& at) { *at++ = '?'; } };
#define EMULATOR_NUMBERS(type, kind, bytes) \
    template <> struct Numbers<type> { static void write(char*& at) { *at++ = kind; *at++ = bytes; } };
EMULATOR_NUMBERS(float, 'f', '4') EMULATOR_NUMBERS(float2, 'f', '4') EMULATOR_NUMBERS(float3, 'f', '4') EMULATOR_NUMBERS(float4, 'f', '4')
EMULATOR_NUMBERS(double, 'f', '8') EMULATOR_NUMBERS(double2, 'f', '8')
EMULATOR_NUMBERS(int, 'i', '4') EMULATOR_NUMBERS(int2, 'i', '4') EMULATOR_NUMBERS(int3, 'i', '4') EMULATOR_NUMBERS(int4, 'i', '4')
EMULATOR_NUMBERS(unsigned, 'u', '4') EMULATOR_NUMBERS(uint2, 'u', '4') EMULATOR_NUMBERS(uint4, 'u', '4')
EMULATOR_NUMBERS(long, 'i', '8') EMULATOR_NUMBERS(long long, 'i', '8')
EMULATOR_NUMBERS(unsigned long, 'u', '8') EMULATOR_NUMBERS(unsigned long long, 'u', '8')
EMULATOR_NUMBERS(short, 'i', '2') EMULATOR_NUMBERS(unsigned short, 'u', '2')
EMULATOR_NUMBERS(signed char, 'i', '1') EMULATOR_NUMBERS(unsigned char, 'u', '1') EMULATOR_NUMBERS(bool, 'u', '1')
template <class T> struct Parameter { static void write(char*& at) { Numbers<T>::write(at); } };
template <class T> struct Parameter<T*> { static void write(char*& at) { *at++ = '*'; Numbers<T>::write(at); } };
template <class T> struct Parameter<const T*> { static void write(char*& at) { *at++ = '*'; *at++ = 'c'; Numbers<T>::write(at); } };

static void (*kernel_code)();
static void** kernel_arguments;

template <class... A, size_t... I> void call(void (*code)(A...), std::index_sequence<I...>) { code(*(A*)kernel_arguments[I]...); }
template <class... A> void call_body() { call((void (*)(A...))kernel_code, std::index_sequence_for<A...>{}); }

struct Kernel {
    const char* name;
    void (*code)();
    void (*body)();
    char parameters[256];
    Kernel* next;
    static Kernel* all;

    template <class... A> Kernel(const char* name, void (*code)(A...)) : name(name), code((void (*)())code), body(call_body<A...>), next(all) {
        static_assert(sizeof...(A) < 50, "more parameters than the emulator can describe");
        char* at = parameters;
        ((Parameter<A>::write(at), *at++ = ' '), ...);
        *at = 0;
        all = this;
    }
};
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

// Named by cuda_emulator.py after the text, once for each kernel.
#define EMULATOR_KERNEL(name) static emulator::Kernel emulator_kernel_##name(#name, name);

// ---- the driver ------------------------------------------------------------------------------------------------------------------------

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
    void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
    void* stream, void** arguments, void** extra
) {
    if (!emulator::contexts) return emulator::INVALID_CONTEXT;
    bool one_dimensional = grid_y == 1 && grid_z == 1 && block_y == 1 && block_z == 1;
    if (!one_dimensional || !grid_x || grid_x > INT32_MAX || !block_x || block_x > emulator::THREADS_MAX || shared || extra) return emulator::INVALID_VALUE;
    pthread_mutex_lock(&emulator::one_launch);
    auto* f = (emulator::Function*)function;
    emulator::last_stream = stream;
    emulator::kernel_name = f->kernel->name;
    emulator::kernel_code = f->kernel->code;
    emulator::body = f->kernel->body;
    emulator::kernel_arguments = arguments;
    emulator::random_state = f->module->state;
    emulator::threads = block_x;
    blockDim = {block_x, 1, 1};
    gridDim = {grid_x, 1, 1};
    int code = emulator::run_grid(grid_x);
    f->module->state = emulator::random_state;
    pthread_mutex_unlock(&emulator::one_launch);
    return code;
}

EMULATOR_EXPORT int cuGetErrorString(int code, const char** text) {
    *text = code == emulator::INVALID_VALUE     ? "invalid argument"
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

// Called by code that -fsanitize=bounds adds, with the place in the text and the index.
extern "C" void __ubsan_handle_out_of_bounds(void* data, void* index) {
    struct Type { uint16_t kind, info; char name[1]; };
    struct Data { const char* file; uint32_t line, column; const Type *array, *index; };
    auto* d = (const Data*)data;
    bool narrow = d->index->info >> 1 <= 5;  // 32 bits or less
    long long i = narrow && d->index->info & 1 ? (int)(intptr_t)index : (long long)(intptr_t)index;
    emulator::fail("index %lld is outside of %s in line %u", i, d->array->name, d->line);
}
extern "C" void __ubsan_handle_type_mismatch_v1(void* data, void* address) {
    struct Type { uint16_t kind, info; char name[1]; };
    struct Data { const char* file; uint32_t line, column; const Type* type; uint8_t alignment, kind; };
    auto* d = (const Data*)data;
    uintptr_t at = (uintptr_t)address, bytes = (uintptr_t)1 << d->alignment;
    if (at % bytes) emulator::fail("%s at an address that is no multiple of %d bytes in line %u", d->type->name, (int)bytes, d->line);
    emulator::fail("%s outside of its variable in line %u", d->type->name, d->line);
}
extern "C" void __ubsan_handle_out_of_bounds_abort(void* data, void* index) { __ubsan_handle_out_of_bounds(data, index); }

// ---- what kernels call -----------------------------------------------------------------------------------------------------------------

static inline void __syncthreads(int line = __builtin_LINE()) { emulator::meet(emulator::BARRIER, line, 0, 0, 0); }
static inline int __syncthreads_count(int yes, int line = __builtin_LINE()) { return emulator::meet(emulator::BARRIER_COUNT, line, 0, yes != 0, 0); }
static inline int __syncthreads_and(int yes, int line = __builtin_LINE()) { return emulator::meet(emulator::BARRIER_AND, line, 0, yes != 0, 0); }
static inline int __syncthreads_or(int yes, int line = __builtin_LINE()) { return emulator::meet(emulator::BARRIER_OR, line, 0, yes != 0, 0); }
static inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) { emulator::meet(emulator::WARP_BARRIER, line, mask, 0, 0); }

namespace emulator {
template <class T> T shuffled(unsigned mask, T given, int source, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle takes numbers of 32 or 64 bits");
    uint64_t bits = 0;
    memcpy(&bits, &given, sizeof given);
    bits = meet(SHUFFLE, line, mask, bits, source);
    memcpy(&given, &bits, sizeof given);
    return given;
}
static inline int lane() { return threadIdx.x % LANES; }
}  // namespace emulator

// All of 32 lanes wide: no kernel here uses narrower ones.
template <class T> T __shfl_sync(unsigned mask, T given, int source, int line = __builtin_LINE()) {
    return emulator::shuffled(mask, given, source % emulator::LANES, line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T given, int bits, int line = __builtin_LINE()) {
    return emulator::shuffled(mask, given, emulator::lane() ^ bits, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T given, unsigned by, int line = __builtin_LINE()) {
    int source = emulator::lane() + by;
    return emulator::shuffled(mask, given, source < emulator::LANES ? source : emulator::lane(), line);
}
template <class T> T __shfl_up_sync(unsigned mask, T given, unsigned by, int line = __builtin_LINE()) {
    int source = emulator::lane() - (int)by;
    return emulator::shuffled(mask, given, source >= 0 ? source : emulator::lane(), line);
}
static inline unsigned __ballot_sync(unsigned mask, int yes, int line = __builtin_LINE()) { return emulator::meet(emulator::VOTE, line, mask, yes != 0, 0); }
static inline int __any_sync(unsigned mask, int yes, int line = __builtin_LINE()) { return __ballot_sync(mask, yes, line) != 0; }
static inline int __all_sync(unsigned mask, int yes, int line = __builtin_LINE()) { return __ballot_sync(mask, !yes, line) == 0; }

// One fibre runs at a time and is left nowhere else, so plain reading and writing is atomic.
namespace emulator {
template <class T> struct Same { using type = T; };
template <class T> T exchanged(T* at, T value) {
    T old = *at;
    *at = value;
    return old;
}
}  // namespace emulator
template <class T> T atomicAdd(T* at, typename emulator::Same<T>::type value) { return emulator::exchanged(at, (T)(*at + value)); }
template <class T> T atomicMax(T* at, typename emulator::Same<T>::type value) { return emulator::exchanged(at, *at > value ? *at : value); }
template <class T> T atomicMin(T* at, typename emulator::Same<T>::type value) { return emulator::exchanged(at, *at < value ? *at : value); }
template <class T> T atomicExch(T* at, typename emulator::Same<T>::type value) { return emulator::exchanged(at, value); }
template <class T> T atomicCAS(T* at, typename emulator::Same<T>::type expected, typename emulator::Same<T>::type value) {
    return emulator::exchanged(at, *at == expected ? value : *at);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

#define EMULATOR_LEAST_AND_MOST(type) \
    static inline type min(type a, type b) { return b < a ? b : a; } \
    static inline type max(type a, type b) { return a < b ? b : a; }
EMULATOR_LEAST_AND_MOST(int) EMULATOR_LEAST_AND_MOST(unsigned) EMULATOR_LEAST_AND_MOST(long long) EMULATOR_LEAST_AND_MOST(unsigned long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
#define __expf(x) expf(x)  // glibc has functions of these names, which nobody may call
#define __logf(x) logf(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __float_as_int(float x) {
    int bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline float __int_as_float(int bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// Gaussians blended front to back (Kerbl et al. 2023, equations 2 and 3) and the gradients. A block is a tile of 16 x 16 pixels, a thread a
// pixel, a warp 8 x 4 of them: neighbours finish and skip together. FEATURES is set when compiling: how many features a Gaussian has; its
// depth is blended after them, as one more channel, and the sum of the weights, alpha, comes last.
//
// No atomic additions: blend_back writes one row of sums for each pair of tile and Gaussian, gather adds the rows of each Gaussian in the
// order of its tiles. So the same bits at each run.

#define TILE 16
#define THREADS 256
#define WARPS (THREADS / 32)
#define WHOLE_WARP 0xffffffffu
#define ALPHA_MIN (1.0f / 255.0f)        // projection.ALPHA_MIN
#define ALPHA_MAX 0.999f                 // torch_form.ALPHA_MAX
#define TRANSMITTANCE_MIN 1e-4f          // torch_form.TRANSMITTANCE_MIN

#define VALUES (FEATURES + 1)            // what is blended by weight: the features and the depth
#define MOMENTS 8                        // columns of a row before those of the values
#define COLUMNS ((MOMENTS + VALUES + 15) / 16 * 16)
#define SHARED_BYTES (47 * 1024)         // of the 48 KiB that every card gives a block

__device__ constexpr int fitting(int most, int bytes_each) { return most * bytes_each <= SHARED_BYTES ? most : SHARED_BYTES / bytes_each; }
// Gaussians that a block holds at once.
constexpr int FORWARD_BATCH = fitting(THREADS, 4 * (6 + VALUES));
constexpr int BACKWARD_BATCH = fitting(32, 4 * (6 + VALUES + WARPS * COLUMNS));

// A tile of a band (see cuda_lists.cu) and this thread's pixel in it. A launch draws the tiles from first_tile on.
struct Place {
    int tile, x, y;
    bool inside;
    long long pixel;  // number in the pictures (cameras, height, width)
};

__device__ inline Place place_of(int first_tile, int band_begin, int across, int down, int width, int height) {
    Place p;
    p.tile = first_tile + blockIdx.x;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = band_begin + p.tile / across;
    p.x = p.tile % across * TILE + warp % 2 * 8 + lane % 8;
    p.y = row % down * TILE + warp / 2 * 4 + lane / 8;
    p.inside = p.x < width && p.y < height;
    p.pixel = ((long long)(row / down) * height + p.y) * width + p.x;
    return p;
}

// Alpha of a Gaussian at (dx, dy) from its centre; 0 below ALPHA_MIN. shape: conic xx, xy, yy, opacity.
__device__ inline float alpha_at(const float4& shape, float dx, float dy) {
    float power = 0.5f * (shape.x * dx * dx + shape.z * dy * dy) + shape.y * dx * dy;
    float alpha = fminf(shape.w * expf(-power), ALPHA_MAX);
    return power >= 0.0f && alpha >= ALPHA_MIN ? alpha : 0.0f;
}

// Copies what is blended of one Gaussian: its features, then its depth. Features of all cameras together have n rows, else cameras * n.
__device__ inline void load_values(float* values, const float* features, const float* depths, int feature_rows, int owner) {
    for (int c = 0; c < FEATURES; c++) values[c] = features[(long long)(owner % feature_rows) * FEATURES + c];
    values[FEATURES] = depths[owner];
}

// picture (cameras, height, width, FEATURES + 2). For the way back: light (cameras, height, width), what is left of it behind the last
// Gaussian that counts, and last, the place after that Gaussian in the tile's list.
extern "C" __global__ void __launch_bounds__(THREADS) blend(
    const float2* centres, const float4* shapes, const float* features, const float* depths, int feature_rows,
    const int* starts, const int* owners, int first_tile, int band_begin, int across, int down, int width, int height,
    float* picture, float* light_left, int* last_place
) {
    __shared__ float2 centre[FORWARD_BATCH];
    __shared__ float4 shape[FORWARD_BATCH];
    __shared__ float values[FORWARD_BATCH][VALUES];
    Place p = place_of(first_tile, band_begin, across, down, width, height);
    float x = p.x + 0.5f, y = p.y + 0.5f, light = 1.0f, total[VALUES], alpha_total = 0.0f;
#pragma unroll
    for (int c = 0; c < VALUES; c++) total[c] = 0.0f;
    bool done = !p.inside;
    int begin = starts[p.tile], end = starts[p.tile + 1], last = 0;
    for (int base = begin; base < end; base += FORWARD_BATCH) {
        if (__syncthreads_count(done) == THREADS) break;  // and nobody reads the batch before any more
        int count = min(FORWARD_BATCH, end - base);
        for (int j = threadIdx.x; j < count; j += THREADS) {
            int owner = owners[base + j];
            centre[j] = centres[owner];
            shape[j] = shapes[owner];
            load_values(values[j], features, depths, feature_rows, owner);
        }
        __syncthreads();
        for (int j = 0; j < count && !done; j++) {
            float alpha = alpha_at(shape[j], x - centre[j].x, y - centre[j].y);
            if (alpha == 0.0f) continue;
            float after = light * (1.0f - alpha);
            if (after <= TRANSMITTANCE_MIN) {
                done = true;
                break;
            }
            float weight = light * alpha;
#pragma unroll
            for (int c = 0; c < VALUES; c++) total[c] += weight * values[j][c];
            alpha_total += weight;
            light = after;
            last = base + j + 1 - begin;
        }
    }
    if (!p.inside) return;
#pragma unroll
    for (int c = 0; c < VALUES; c++) picture[p.pixel * (VALUES + 1) + c] = total[c];
    picture[p.pixel * (VALUES + 1) + VALUES] = alpha_total;
    light_left[p.pixel] = light;
    last_place[p.pixel] = last;
}

// Sums 16 numbers of each lane over the warp in 16 exchanges instead of 80. In each step a lane keeps one half of its numbers and gives the
// other half to the lane that keeps those; at the end lane l holds the sum of number l / 2.
__device__ inline float sum_over_warp(float (&numbers)[16]) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 8; half > 0; half /= 2) {
        bool keeps_upper = lane & (2 * half);
#pragma unroll
        for (int i = 0; i < half; i++) {
            float given = keeps_upper ? numbers[i] : numbers[i + half], kept = keeps_upper ? numbers[i + half] : numbers[i];
            numbers[i] = kept + __shfl_xor_sync(WHOLE_WARP, given, 2 * half);
        }
    }
    return numbers[0] + __shfl_xor_sync(WHOLE_WARP, numbers[0], 1);
}

// Back to front. A pixel knows the light that is left behind a Gaussian, divides by 1 - alpha for the light before it, and adds up in
// `behind` the gradient's product with what lies behind: nothing is subtracted, so no digits are lost where little light is left. Alpha is
// 1 minus the light left at the end: its gradient enters once, as a backdrop of the value -1.
//
// rows (pairs, COLUMNS): sums over the tile's pixels of h, h dx, h dy, h dx dx, h dx dy, h dy dy, with h = alpha times its gradient; then
// the absolute sums of the centre's gradient; from MOMENTS on the gradients of the values. Row slots[k] belongs to place k of the lists.
extern "C" __global__ void __launch_bounds__(THREADS) blend_back(
    const float2* centres, const float4* shapes, const float* features, const float* depths, int feature_rows,
    const int* starts, const int* owners, const int* slots, int first_tile, int band_begin, int across, int down,
    int width, int height,
    const float* light_left, const int* last_place, const float* g_picture, float* rows
) {
    __shared__ float2 centre[BACKWARD_BATCH];
    __shared__ float4 shape[BACKWARD_BATCH];
    __shared__ float values[BACKWARD_BATCH][VALUES];
    __shared__ float parts[WARPS][BACKWARD_BATCH][COLUMNS];
    __shared__ int furthest;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Place p = place_of(first_tile, band_begin, across, down, width, height);
    float x = p.x + 0.5f, y = p.y + 0.5f, light = 1.0f, behind = 0.0f, g_value[VALUES];
    int last = 0;
#pragma unroll
    for (int c = 0; c < VALUES; c++) g_value[c] = p.inside ? g_picture[p.pixel * (VALUES + 1) + c] : 0.0f;
    if (p.inside) {
        light = light_left[p.pixel];
        behind = -light * g_picture[p.pixel * (VALUES + 1) + VALUES];
        last = last_place[p.pixel];
    }
    if (threadIdx.x == 0) furthest = 0;
    __syncthreads();
    atomicMax(&furthest, last);
    __syncthreads();
    int begin = starts[p.tile], length = starts[p.tile + 1] - begin, reached = furthest;
    for (int end = reached; end > 0; end -= BACKWARD_BATCH) {
        int base = max(end - BACKWARD_BATCH, 0), count = end - base;
        for (int j = threadIdx.x; j < count; j += THREADS) {
            int owner = owners[begin + base + j];
            centre[j] = centres[owner];
            shape[j] = shapes[owner];
            load_values(values[j], features, depths, feature_rows, owner);
        }
        __syncthreads();
        for (int j = count - 1; j >= 0; j--) {
            float4 s = shape[j];
            float dx = x - centre[j].x, dy = y - centre[j].y;
            float alpha = base + j < last ? alpha_at(s, dx, dy) : 0.0f;
            if (!__any_sync(WHOLE_WARP, alpha > 0.0f)) {
                for (int c = lane; c < COLUMNS; c += 32) parts[warp][j][c] = 0.0f;
                continue;
            }
            float row[COLUMNS];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) row[c] = 0.0f;
            if (alpha > 0.0f) {
                light /= 1.0f - alpha;
                float weight = light * alpha, product = 0.0f;
#pragma unroll
                for (int c = 0; c < VALUES; c++) {
                    product += values[j][c] * g_value[c];
                    row[MOMENTS + c] = weight * g_value[c];
                }
                float h = alpha < ALPHA_MAX ? weight * product - behind * alpha / (1.0f - alpha) : 0.0f;
                behind += weight * product;
                row[0] = h;
                row[1] = h * dx;
                row[2] = h * dy;
                row[3] = h * dx * dx;
                row[4] = h * dx * dy;
                row[5] = h * dy * dy;
                row[6] = fabsf(h * (s.x * dx + s.y * dy));
                row[7] = fabsf(h * (s.y * dx + s.z * dy));
            }
#pragma unroll
            for (int block = 0; block < COLUMNS; block += 16) {
                float numbers[16];
#pragma unroll
                for (int i = 0; i < 16; i++) numbers[i] = row[block + i];
                float sum = sum_over_warp(numbers);
                if (lane % 2 == 0) parts[warp][j][block + lane / 2] = sum;
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < count * COLUMNS; i += THREADS) {
            int j = i / COLUMNS, c = i % COLUMNS;
            float sum = 0.0f;
            for (int w = 0; w < WARPS; w++) sum += parts[w][j][c];
            rows[(long long)slots[begin + base + j] * COLUMNS + c] = sum;
        }
    }
    for (int i = threadIdx.x; i < (length - reached) * COLUMNS; i += THREADS)
        rows[(long long)slots[begin + reached + i / COLUMNS] * COLUMNS + i % COLUMNS] = 0.0f;
}

// Where the gradient of a Gaussian lies that a column of its rows makes; none for the columns that only fill up.
__device__ inline float* target_of(
    int column, long long i, float* g_centres, float* g_shapes, float* g_features, float* g_depths, float* absolute
) {
    if (column == 0) return g_shapes + 4 * i + 3;
    if (column < 3) return g_centres + 2 * i + column - 1;
    if (column < 6) return g_shapes + 4 * i + column - 3;
    if (column < MOMENTS) return absolute + 2 * i + column - 6;
    if (column < MOMENTS + FEATURES) return g_features + i * FEATURES + column - MOMENTS;
    return column == MOMENTS + FEATURES ? g_depths + i : 0;
}

// Adds the rows of order[k], from ends[k - 1] to ends[k], and turns their moments into gradients. COLUMNS threads share a Gaussian. Sums go
// on from band to band (`goes_on`: there were bands before) and become gradients at the last one (`ends_here`): the same bits however many.
#define SHARING (THREADS / COLUMNS)
extern "C" __global__ void __launch_bounds__(THREADS) gather(
    const float4* shapes, const int* order, const int* ends, int entries, const float* rows, int goes_on, int ends_here,
    float* g_centres, float* g_shapes, float* g_features, float* g_depths, float* absolute
) {
    __shared__ float sums[SHARING][COLUMNS];
    int group = threadIdx.x / COLUMNS, column = threadIdx.x % COLUMNS;
    long long k = (long long)blockIdx.x * SHARING + group, i = 0;
    float* target = 0;
    float sum = 0.0f;
    if (group < SHARING && k < entries) {
        i = order[k];
        target = target_of(column, i, g_centres, g_shapes, g_features, g_depths, absolute);
    }
    if (target) {
        if (goes_on) sum = *target;
        for (int row = k ? ends[k - 1] : 0; row < ends[k]; row++) sum += rows[(long long)row * COLUMNS + column];
        sums[group][column] = sum;
    }
    __syncthreads();
    if (!target) return;
    if (ends_here) {
        const float* t = sums[group];
        float4 s = shapes[i];
        if (column == 0) sum = s.w > 0.0f ? t[0] / s.w : 0.0f;
        if (column == 1) sum = s.x * t[1] + s.y * t[2];
        if (column == 2) sum = s.y * t[1] + s.z * t[2];
        if (column == 3 || column == 5) sum = -0.5f * t[column];
        if (column == 4) sum = -t[4];
    }
    *target = sum;
}

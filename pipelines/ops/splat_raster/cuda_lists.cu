// Which Gaussians touch which tiles. Rows of tiles are counted through all cameras: row r of camera c is c * down + r. A band is a range of
// such rows; its tiles are numbered from 0, row by row. Sums are of integers, so the order of atomic additions changes nothing.

#define TILE 16

struct Box {
    int x0, x1, y0, y1;
};

// The tile that holds the pixel of this number, within 0 .. most.
__device__ inline int tile_at(float pixel, int most) { return (int)fminf(fmaxf(floorf(pixel / TILE), 0.0f), (float)most); }

// Columns x0 .. x1 - 1 and rows y0 .. y1 - 1 of the tiles that have pixel centres inside the Gaussian's box; none of the unseen.
__device__ inline Box box_of(const float* centre, const float* extent, int across, int down) {
    if (!(extent[0] > 0.0f)) return {0, 0, 0, 0};
    Box box;
    box.x0 = tile_at(ceilf(centre[0] - extent[0] - 0.5f), across);
    box.x1 = tile_at(floorf(centre[0] + extent[0] - 0.5f) + TILE, across);
    box.y0 = tile_at(ceilf(centre[1] - extent[1] - 0.5f), down);
    box.y1 = tile_at(floorf(centre[1] + extent[1] - 0.5f) + TILE, down);
    box.x1 = max(box.x0, box.x1);
    box.y1 = max(box.y0, box.y1);
    return box;
}

// changes (cameras * down + 1): by how much each row has more pairs of tile and Gaussian than the row before.
extern "C" __global__ void __launch_bounds__(256) count_rows(
    const float* centres, const float* extents, int n, int entries, int across, int down, unsigned long long* changes
) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= entries) return;
    Box box = box_of(centres + 2 * (long long)i, extents + 2 * (long long)i, across, down);
    unsigned long long columns = box.x1 - box.x0;
    if (columns == 0 || box.y0 == box.y1) return;
    long long row = (long long)(i / n) * down;
    atomicAdd(changes + row + box.y0, columns);
    atomicAdd(changes + row + box.y1, 0ull - columns);
}

// The part of a box that lies in a band: its first row, its number of rows.
__device__ inline void clip(const Box& box, int camera, int down, int band_begin, int band_end, int& row, int& rows) {
    row = max(camera * down + box.y0, band_begin);
    rows = max(min(camera * down + box.y1, band_end) - row, 0);
}

// counts (entries,): tiles of the band that the Gaussian order[k] touches.
extern "C" __global__ void __launch_bounds__(256) count_pairs(
    const float* centres, const float* extents, const int* order, int n, int entries, int across, int down, int band_begin, int band_end,
    int* counts
) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= entries) return;
    int i = order[k], row, rows;
    Box box = box_of(centres + 2 * (long long)i, extents + 2 * (long long)i, across, down);
    clip(box, i / n, down, band_begin, band_end, row, rows);
    counts[k] = rows * (box.x1 - box.x0);
}

// tiles, owners (pairs,): the pairs of order[k] from ends[k - 1] on.
extern "C" __global__ void __launch_bounds__(256) list_pairs(
    const float* centres, const float* extents, const int* order, const int* ends, int n, int entries, int across, int down,
    int band_begin, int band_end, int* tiles, int* owners
) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= entries) return;
    int i = order[k], first, rows, pair = k ? ends[k - 1] : 0;
    Box box = box_of(centres + 2 * (long long)i, extents + 2 * (long long)i, across, down);
    clip(box, i / n, down, band_begin, band_end, first, rows);
    for (int row = first; row < first + rows; row++)
        for (int column = box.x0; column < box.x1; column++) {
            tiles[pair] = (row - band_begin) * across + column;
            owners[pair] = i;
            pair++;
        }
}

// 3D Gaussians on the screens of pinhole cameras (EWA splatting, Zwicker et al. 2001, as in Kerbl et al. 2023), and the way back of the
// gradients: the formulas of projection.py. Numbers inside are double: long thin Gaussians lose half of float's digits in the inverse of
// their covariance. Cameras are OpenCV's, pixel centres lie at +0.5.
//
// means (N, 3), quats (N, 4) w first, scales (N, 3), opacities (N,): float. views (C, 4, 4), Ks (C, 3, 3): double.
// Of each camera and Gaussian: centres (C, N, 2) in pixels, shapes (C, N, 4) of conic xx, xy, yy and opacity, depths (C, N),
// extents (C, N, 2) half sizes of what is drawn, 0 where unseen, radii (C, N, 2) the same rounded up.

#define FRUSTUM_MARGIN 0.3                     // projection.FRUSTUM_MARGIN
#define LOG_ALPHA_MIN (-5.541263545158426)     // log(1 / 255)
#define LEAST_SHARPNESS 1e-6
#define RADIUS_MAX 16777216.0

struct Lens {
    double width, height, near, far, eps2d;
    bool antialiased;
};

// A Gaussian's rotation, the same with scaled columns, its unit quaternion and 1 / the length of the given one.
struct Axes {
    double rotation[3][3], scaled[3][3], quat[4], inverse_length;
};

__device__ inline Axes axes_of(const float* quat, const float* scale) {
    Axes a;
    double square = 0.0;
    for (int i = 0; i < 4; i++) square += (double)quat[i] * quat[i];
    a.inverse_length = 1.0 / fmax(sqrt(square), 1e-12);
    for (int i = 0; i < 4; i++) a.quat[i] = quat[i] * a.inverse_length;
    double w = a.quat[0], x = a.quat[1], y = a.quat[2], z = a.quat[3];
    double rotation[3][3] = {
        {1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)},
        {2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)},
        {2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)}};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            a.rotation[i][j] = rotation[i][j];
            a.scaled[i][j] = rotation[i][j] * scale[j];
        }
    return a;
}

// What one camera sees of one Gaussian that lies between near and far.
struct Seen {
    double depth, slope[2];      // z, and x / z and y / z
    bool clamped[2];             // whether the Jacobian is taken at the edge of the widened frustum instead
    double rows[2][3];           // Jacobian times the view's rotation
    double screen_axes[2][3];    // rows times the scaled axes
    double xx, yy, xy;           // 2D covariance
    double blurred_xx, blurred_yy, determinant, inverse;  // with eps2d added; inverse is 1 / determinant
};

__device__ inline double depth_of(const double* view, const float* mean) {
    return view[8] * mean[0] + view[9] * mean[1] + view[10] * mean[2] + view[11];
}

__device__ inline Seen see(const double* view, const double* K, const Lens& lens, const Axes& a, const float* mean, double depth) {
    Seen s;
    s.depth = depth;
    const double size[2] = {lens.width, lens.height};
    for (int axis = 0; axis < 2; axis++) {
        const double* v = view + 4 * axis;
        double focal = K[4 * axis], centre = K[3 * axis + 2], margin = FRUSTUM_MARGIN * 0.5 * size[axis] / focal;
        s.slope[axis] = (v[0] * mean[0] + v[1] * mean[1] + v[2] * mean[2] + v[3]) / depth;
        double at = fmin(fmax(s.slope[axis], -centre / focal - margin), (size[axis] - centre) / focal + margin);
        s.clamped[axis] = at != s.slope[axis];
        for (int i = 0; i < 3; i++) s.rows[axis][i] = focal / depth * (v[i] - at * view[8 + i]);
        for (int j = 0; j < 3; j++) {
            s.screen_axes[axis][j] = 0.0;
            for (int i = 0; i < 3; i++) s.screen_axes[axis][j] += s.rows[axis][i] * a.scaled[i][j];
        }
    }
    s.xx = s.yy = s.xy = 0.0;
    for (int j = 0; j < 3; j++) {
        s.xx += s.screen_axes[0][j] * s.screen_axes[0][j];
        s.yy += s.screen_axes[1][j] * s.screen_axes[1][j];
        s.xy += s.screen_axes[0][j] * s.screen_axes[1][j];
    }
    s.blurred_xx = s.xx + lens.eps2d;
    s.blurred_yy = s.yy + lens.eps2d;
    s.determinant = s.blurred_xx * s.blurred_yy - s.xy * s.xy;
    s.inverse = 1.0 / (s.determinant > 0.0 ? s.determinant : 1.0);
    return s;
}

// How much of its determinant a Gaussian keeps when it is widened by eps2d (Mip-Splatting, Yu et al. 2024).
__device__ inline double sharpness_of(const Seen& s) { return (s.xx * s.yy - s.xy * s.xy) * s.inverse; }

// One thread per camera and Gaussian.
extern "C" __global__ void __launch_bounds__(128) project(
    const float* means, const float* quats, const float* scales, const float* opacities, const double* views, const double* Ks,
    int n, int cameras, int width, int height, float near, float far, float eps2d, int antialiased,
    float* centres, float* shapes, float* depths, float* extents, int* radii
) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (long long)n * cameras) return;
    int camera = (int)(at / n), g = (int)(at % n);
    const double *view = views + 16 * camera, *K = Ks + 9 * camera;
    const float* mean = means + 3 * (long long)g;
    float *centre = centres + 2 * at, *shape = shapes + 4 * at, *extent = extents + 2 * at;
    int* radius = radii + 2 * at;
    double depth = depth_of(view, mean), opacity = opacities[g];
    depths[at] = (float)depth;
    extent[0] = extent[1] = 0.0f;
    radius[0] = radius[1] = 0;
    if (!(depth > near && depth < far)) {  // finite numbers that mean nothing
        centre[0] = (float)K[2];
        centre[1] = (float)K[5];
        shape[0] = shape[2] = 1.0f;
        shape[1] = 0.0f;
        shape[3] = (float)opacity;
        return;
    }
    Lens lens = {(double)width, (double)height, near, far, eps2d, antialiased != 0};
    Seen s = see(view, K, lens, axes_of(quats + 4 * (long long)g, scales + 3 * (long long)g), mean, depth);
    if (lens.antialiased) opacity *= sqrt(fmax(sharpness_of(s), LEAST_SHARPNESS));
    double x = K[0] * s.slope[0] + K[2], y = K[4] * s.slope[1] + K[5];
    centre[0] = (float)x;
    centre[1] = (float)y;
    shape[0] = (float)(s.blurred_yy * s.inverse);
    shape[1] = (float)(-s.xy * s.inverse);
    shape[2] = (float)(s.blurred_xx * s.inverse);
    shape[3] = (float)opacity;
    double reach = 2.0 * (log(fmax(opacity, 1e-12)) - LOG_ALPHA_MIN);  // squared Mahalanobis distance at which alpha is 1/255
    if (!(s.determinant > 0.0 && reach > 0.0)) return;
    double half_x = sqrt(reach * s.blurred_xx), half_y = sqrt(reach * s.blurred_yy);
    if (x + half_x > 0.0 && x - half_x < lens.width && y + half_y > 0.0 && y - half_y < lens.height) {
        extent[0] = (float)half_x;
        extent[1] = (float)half_y;
        radius[0] = (int)fmin(ceil(half_x), RADIUS_MAX);
        radius[1] = (int)fmin(ceil(half_y), RADIUS_MAX);
    }
}

// One thread per Gaussian, which adds up the cameras in their order.
extern "C" __global__ void __launch_bounds__(128) project_back(
    const float* means, const float* quats, const float* scales, const float* opacities, const double* views, const double* Ks,
    int n, int cameras, int width, int height, float near, float far, float eps2d, int antialiased,
    const int* radii, const float* g_centres, const float* g_shapes, const float* g_depths,
    float* g_means, float* g_quats, float* g_scales, float* g_opacities
) {
    int g = blockIdx.x * blockDim.x + threadIdx.x;
    if (g >= n) return;
    const float *mean = means + 3 * (long long)g, *scale = scales + 3 * (long long)g;
    Lens lens = {(double)width, (double)height, near, far, eps2d, antialiased != 0};
    Axes a = axes_of(quats + 4 * (long long)g, scale);
    double g_scaled[3][3] = {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}}, g_mean[3] = {0, 0, 0}, g_opacity = 0.0;
    for (int camera = 0; camera < cameras; camera++) {
        long long at = (long long)camera * n + g;
        if (radii[2 * at] == 0) continue;
        const double *view = views + 16 * camera, *K = Ks + 9 * camera;
        const float *g_centre = g_centres + 2 * at, *g_shape = g_shapes + 4 * at;
        Seen s = see(view, K, lens, a, mean, depth_of(view, mean));

        // The conic is the inverse of the blurred covariance S: dK = -K dS K.
        double k00 = s.blurred_yy * s.inverse, k01 = -s.xy * s.inverse, k11 = s.blurred_xx * s.inverse;
        double g00 = g_shape[0], g01 = 0.5 * g_shape[1], g11 = g_shape[2];
        double left00 = k00 * g00 + k01 * g01, left01 = k00 * g01 + k01 * g11;
        double left10 = k01 * g00 + k11 * g01, left11 = k01 * g01 + k11 * g11;
        double g_xx = -(left00 * k00 + left01 * k01), g_yy = -(left10 * k01 + left11 * k11);
        double g_xy = -2.0 * (left00 * k01 + left01 * k11);
        if (lens.antialiased) {
            double sharpness = sharpness_of(s), factor = sqrt(fmax(sharpness, LEAST_SHARPNESS));
            g_opacity += g_shape[3] * factor;
            if (sharpness > LEAST_SHARPNESS) {
                double along = g_shape[3] * opacities[g] * 0.5 / factor * s.inverse;
                g_xx += along * (s.yy - sharpness * s.blurred_yy);
                g_yy += along * (s.xx - sharpness * s.blurred_xx);
                g_xy += along * 2.0 * s.xy * (sharpness - 1.0);
            }
        } else {
            g_opacity += g_shape[3];
        }

        double g_axes[2][3];
        for (int j = 0; j < 3; j++) {
            g_axes[0][j] = 2.0 * g_xx * s.screen_axes[0][j] + g_xy * s.screen_axes[1][j];
            g_axes[1][j] = 2.0 * g_yy * s.screen_axes[1][j] + g_xy * s.screen_axes[0][j];
        }
        double g_depth = g_depths[at];
        for (int axis = 0; axis < 2; axis++) {
            double focal = K[4 * axis], g_slope = focal * g_centre[axis], along_row = 0.0, along_view = 0.0;
            for (int i = 0; i < 3; i++) {
                double g_row = 0.0;
                for (int j = 0; j < 3; j++) {
                    g_row += g_axes[axis][j] * a.scaled[i][j];
                    g_scaled[i][j] += s.rows[axis][i] * g_axes[axis][j];
                }
                along_row += g_row * s.rows[axis][i];
                along_view += g_row * view[8 + i];
            }
            if (!s.clamped[axis]) g_slope -= focal / s.depth * along_view;
            g_depth -= (along_row + g_slope * s.slope[axis]) / s.depth;
            for (int i = 0; i < 3; i++) g_mean[i] += view[4 * axis + i] * g_slope / s.depth;
        }
        for (int i = 0; i < 3; i++) g_mean[i] += view[8 + i] * g_depth;
    }

    double t[3][3];  // gradient of the rotation
    for (int j = 0; j < 3; j++) {
        double sum = 0.0;
        for (int i = 0; i < 3; i++) {
            sum += a.rotation[i][j] * g_scaled[i][j];
            t[i][j] = g_scaled[i][j] * scale[j];
        }
        g_scales[3 * (long long)g + j] = (float)sum;
        g_means[3 * (long long)g + j] = (float)g_mean[j];
    }
    g_opacities[g] = (float)g_opacity;
    double w = a.quat[0], x = a.quat[1], y = a.quat[2], z = a.quat[3];
    double q[4] = {
        2 * (x * (t[2][1] - t[1][2]) + y * (t[0][2] - t[2][0]) + z * (t[1][0] - t[0][1])),
        2 * (y * (t[0][1] + t[1][0]) + z * (t[0][2] + t[2][0]) + w * (t[2][1] - t[1][2]) - 2 * x * (t[1][1] + t[2][2])),
        2 * (x * (t[0][1] + t[1][0]) + z * (t[1][2] + t[2][1]) + w * (t[0][2] - t[2][0]) - 2 * y * (t[0][0] + t[2][2])),
        2 * (x * (t[0][2] + t[2][0]) + y * (t[1][2] + t[2][1]) + w * (t[1][0] - t[0][1]) - 2 * z * (t[0][0] + t[1][1]))};
    double along = 0.0;  // the length of the given quaternion changes nothing
    for (int i = 0; i < 4; i++) along += a.quat[i] * q[i];
    for (int i = 0; i < 4; i++) g_quats[4 * (long long)g + i] = (float)((q[i] - a.quat[i] * along) * a.inverse_length);
}

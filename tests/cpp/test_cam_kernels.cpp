// The CPU kernels without torch: against a slow, obvious double-precision expectation, in buffers
// that are exactly as long as they must be (so that a sanitizer sees every step outside).
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#include "check.h"
#include "common/losses.h"
#include "cpu/kernels/cam.h"

using namespace fastcam;

namespace {

struct Shape {
  int64_t n, t, c, p, q;
};
const Shape kShapes[] = {{1, 1, 1, 1, 1},  {2, 1, 3, 49, 9},  {1, 3, 5, 169, 36},
                         {3, 5, 17, 7, 7}, {2, 4, 64, 16, 4}, {1, 6, 40, 33, 1}};

template <class T>
constexpr ScalarKind kKind = std::is_same_v<T, double> ? ScalarKind::kDouble : ScalarKind::kFloat;

// One call of the kernels with its buffers; A and D are channels first or last as asked.
template <class T>
struct Case {
  Shape shape;
  bool last;
  std::vector<T> a, d, s, w, alpha, grad_map, loss, cam, peak, da, dalpha;
  std::vector<uint8_t> status;
  std::vector<char> on;  // `where`
  LossKind kind = LossKind::kIoUTone;
  double theta = 0.5, sharpness = 3, eps = 1e-6;

  Case(const Shape& shape_, bool last_, unsigned seed) : shape(shape_), last(last_) {
    check::Random random(seed);
    const auto [n, t, c, p, q] = shape;
    const auto fill = [&](std::vector<T>& v, int64_t count, double low, double high) {
      v.resize(size_t(count));
      for (T& x : v) x = T(random.uniform(low, high));
    };
    fill(a, n * c * p, 0, 1);
    fill(d, n * t * c * q, -0.6, 1);
    fill(s, n * t * p, 0, 1);
    fill(w, n * t * p, 0.5, 3);
    alpha.resize(size_t(n * t * c));
    grad_map.resize(size_t(n * t * p));
    cam.resize(size_t(n * t * p));
    loss.resize(size_t(n * t));
    peak.resize(size_t(n * t));
    status.assign(size_t(n * t), 77);
    on.assign(size_t(n * t), 1);
    da.resize(a.size());
    dalpha.resize(alpha.size());
  }

  T& A(int64_t n, int64_t c, int64_t p) {
    return a[size_t(last ? (n * shape.p + p) * shape.c + c : (n * shape.c + c) * shape.p + p)];
  }
  T& D(int64_t n, int64_t t, int64_t c, int64_t q) {
    const int64_t pair = n * shape.t + t;
    return d[size_t(last ? (pair * shape.q + q) * shape.c + c
                         : (pair * shape.c + c) * shape.q + q)];
  }

  CamInputs inputs() const {
    const auto [n, t, c, p, q] = shape;
    return {n, t, c, p, q, a.data(), c * p, last, {d.data(), t * c * q, c * q}, last};
  }

  void run_sums(const CamBackward& op, int64_t blocks) {
    scratch(cam_scratch_bytes(op.targets, op.cells), [&](void* memory) {
      cam_kernels().cam_backward(op, kKind<T>, blocks, 0, op.batch * blocks, memory);
    });
  }

  CamLossForward loss_op() {
    const auto [n, t, c, p, q] = shape;
    CamLossForward pass{};
    CamLoss& op = pass.loss;
    op.in = inputs();
    op.regions = {s.data(), t * p, p};
    op.cell_weights = {w.data(), t * p, p};
    op.where = {on.data(), t, 1};
    op.kind = kind;
    op.params = {{theta, sharpness, eps}, 1, int32_t(p)};
    op.alpha = alpha.data();
    op.grad_map = grad_map.data();
    op.loss = loss.data();
    op.status = status.data();
    pass.grad_gradients = dalpha.data();
    return pass;
  }

  void run_loss(int64_t blocks = 1) {
    const CamLossForward pass = loss_op();
    const int64_t n = shape.n;
    const int64_t bytes = cam_scratch_bytes(shape.t, shape.p);
    if (blocks == 1) {
      scratch(bytes, [&](void* memory) {
        for (int64_t i = 0; i < n; ++i) {  // one sample a call, as threads would
          cam_kernels().cam_loss_forward(pass, kKind<T>, kKind<T>, i, i + 1, memory);
        }
      });
    } else {
      scratch(n * blocks * bytes, [&](void* parts) {
        for (int64_t i = n * blocks; i-- > 0;) {
          cam_kernels().cam_loss_maps(pass.loss, kKind<T>, kKind<T>, blocks, i, i + 1, parts);
        }
        cam_kernels().cam_loss_values(pass.loss, kKind<T>, blocks, 0, n, parts);
      });
      run_sums(sums_of_gradients(pass), blocks);
    }
  }

  void run_map(bool normalize) {
    CamForward op{inputs(), normalize, alpha.data(), cam.data(), peak.data()};
    scratch(cam_scratch_bytes(shape.t, shape.p), [&](void* memory) {
      cam_kernels().cam_forward(op, kKind<T>, kKind<T>, 0, shape.n, memory);
    });
  }

  void run_backward(const std::vector<T>& scale, int64_t blocks) {
    CamBackward op = sums_of_gradients(loss_op());
    op.scale = scale.data();
    op.grad_activations = da.data();
    run_sums(op, blocks);
  }

  template <class F>
  static void scratch(int64_t bytes, const F& f) {
    void* memory = ::operator new(size_t(bytes), std::align_val_t(64));
    std::memset(memory, 0xff, size_t(bytes));  // NaN, should anything read before it writes
    f(memory);
    ::operator delete(memory, std::align_val_t(64));
  }
};

// ---- the expectation ----------------------------------------------------------------------------

template <class T>
std::vector<double> expected_map(Case<T>& k, int64_t n, int64_t t) {
  std::vector<double> map(size_t(k.shape.p));
  for (int64_t c = 0; c < k.shape.c; ++c) {
    double alpha = 0;
    for (int64_t q = 0; q < k.shape.q; ++q) alpha += double(k.D(n, t, c, q)) / double(k.shape.p);
    for (int64_t p = 0; p < k.shape.p; ++p) map[size_t(p)] += alpha * double(k.A(n, c, p));
  }
  for (double& r : map) r = r > 0 ? r : 0;
  return map;
}

double soft_set(LossKind kind, double x, double theta, double s) {
  if (kind == LossKind::kIoUHard) return x > theta;
  if (kind == LossKind::kIoUSigmoid) return 1 / (1 + std::exp(-s * (x - theta)));
  return x < theta ? theta * std::pow(x / theta, s)
                   : 1 - (1 - theta) * std::pow((1 - x) / (1 - theta), s);
}

template <class T>
double expected_loss(Case<T>& k, int64_t n, int64_t t) {
  const std::vector<double> map = expected_map(k, n, t);
  double peak = 0;
  for (double r : map) peak = r > peak ? r : peak;
  double inter = k.eps, uni = k.eps;
  for (int64_t p = 0; p < k.shape.p; ++p) {
    const size_t i = size_t((n * k.shape.t + t) * k.shape.p + p);
    const double m = soft_set(k.kind, map[size_t(p)] / (peak > 0 ? peak : 1), k.theta, k.sharpness);
    inter += double(k.w[i]) * m * double(k.s[i]);
    uni += double(k.w[i]) * (m + double(k.s[i]) - m * double(k.s[i]));
  }
  return -std::log(inter / uni);
}

template <class T, class F>
void for_all_cases(const F& f) {
  unsigned seed = 0;
  for (const Shape& shape : kShapes) {
    for (bool last : {false, true}) {
      check::where = "N,T,C,P,Q = " + std::to_string(shape.n) + "," + std::to_string(shape.t) +
                     "," + std::to_string(shape.c) + "," + std::to_string(shape.p) + "," +
                     std::to_string(shape.q) + (last ? " channels last" : "");
      Case<T> k(shape, last, ++seed);
      f(k);
    }
  }
}

template <class T>
constexpr double kTolerance = std::is_same_v<T, double> ? 1e-10 : 2e-4;

template <class T>
void check_forward() {
  for_all_cases<T>([](Case<T>& k) {
    for (LossKind kind : {LossKind::kIoUTone, LossKind::kIoUSigmoid}) {
      k.kind = kind;
      k.run_loss();
      for (int64_t i = 0; i < k.shape.n * k.shape.t; ++i) {
        const double want = expected_loss(k, i / k.shape.t, i % k.shape.t);
        CHECK_NEAR(double(k.loss[size_t(i)]), want, kTolerance<T>, kTolerance<T>);
        CHECK((k.status[size_t(i)] & kStatusValid) != 0);
      }
    }
    for (bool normalize : {false, true}) {
      k.run_map(normalize);
      for (int64_t i = 0; i < k.shape.n * k.shape.t; ++i) {
        const std::vector<double> map = expected_map(k, i / k.shape.t, i % k.shape.t);
        double peak = 0;
        for (double r : map) peak = r > peak ? r : peak;
        CHECK_NEAR(double(k.peak[size_t(i)]), peak, kTolerance<T>, kTolerance<T>);
        for (int64_t p = 0; p < k.shape.p; ++p) {
          const double want = map[size_t(p)] / (normalize && peak > 0 ? peak : 1);
          CHECK_NEAR(double(k.cam[size_t(i * k.shape.p + p)]), want, kTolerance<T>, kTolerance<T>);
        }
      }
    }
  });
}

TEST(forward_double) { check_forward<double>(); }
TEST(forward_float) { check_forward<float>(); }

TEST(backward_equals_difference_quotients) {
  for_all_cases<double>([](Case<double>& k) {
    const auto [n, t, c, p, q] = k.shape;
    k.run_loss();
    std::vector<double> scale(size_t(n * t));
    check::Random random(99);
    for (double& g : scale) g = random.uniform(-1, 2);
    k.run_backward(scale, c >= 32 ? 2 : 1);
    const auto total = [&, n = n, t = t] {
      double sum = 0;
      for (int64_t i = 0; i < n * t; ++i) sum += scale[size_t(i)] * expected_loss(k, i / t, i % t);
      return sum;
    };
    const auto quotient = [&](double& x) {
      const double h = 1e-6, kept = x;
      x = kept + h;
      const double up = total();
      x = kept - h;
      const double down = total();
      x = kept;
      return (up - down) / (2 * h);
    };
    for (int trial = 0; trial < 12; ++trial) {  // a sample of the entries: each costs two losses
      const auto below = [&](int64_t end) { return int64_t(random.uniform() * double(end)); };
      const int64_t in = below(n), it = below(t), ic = below(c), ip = below(p), iq = below(q);
      double& x = k.A(in, ic, ip);
      CHECK_NEAR(k.da[size_t(&x - k.a.data())], quotient(x), 1e-4, 1e-7);
      // d loss / d D is d loss / d alpha / P ... which is what the kernel returns.
      CHECK_NEAR(k.dalpha[size_t((in * t + it) * c + ic)], quotient(k.D(in, it, ic, iq)), 1e-4,
                 1e-7);
    }
  });
}

// The gradients that the forward makes are those of the backward with a scale of 1, and channel
// blocks change a sum's order at most.
TEST(forward_makes_the_gradients_of_d) {
  for_all_cases<double>([](Case<double>& k) {
    k.on[k.on.size() / 2] = 0;
    k.run_loss();
    const auto made = k.dalpha, loss = k.loss, grad_map = k.grad_map, alpha = k.alpha;
    const auto status = k.status;
    k.run_backward(std::vector<double>(k.loss.size(), 1.0), 1);
    CHECK(made == k.dalpha);
    k.run_loss(3);
    CHECK(alpha == k.alpha && status == k.status);
    for (size_t i = 0; i < loss.size(); ++i) CHECK_NEAR(k.loss[i], loss[i], 1e-12, 1e-12);
    for (size_t i = 0; i < made.size(); ++i) CHECK_NEAR(k.dalpha[i], made[i], 1e-9, 1e-12);
    for (size_t i = 0; i < grad_map.size(); ++i) {
      CHECK_NEAR(k.grad_map[i], grad_map[i], 1e-9, 1e-12);
    }
  });
}

TEST(channel_blocks_change_nothing) {
  for_all_cases<float>([](Case<float>& k) {
    k.run_loss();
    const std::vector<float> scale(k.loss.size(), 1.5f);
    k.run_backward(scale, 1);
    const std::vector<float> da = k.da, dalpha = k.dalpha;
    k.run_backward(scale, 3);
    CHECK(da == k.da && dalpha == k.dalpha);
  });
}

TEST(invalid_pairs_are_exactly_zero_whatever_they_hold) {
  for (bool last : {false, true}) {
    Case<float> k({2, 3, 5, 11, 4}, last, 5);
    for (int64_t p = 0; p < 11; ++p) k.s[size_t((0 * 3 + 1) * 11 + p)] = 0;  // empty region
    k.on[4] = 0;                                                             // switched off
    for (int64_t c = 0; c < 5; ++c) {
      k.D(0, 1, c, 2) = std::numeric_limits<float>::quiet_NaN();
      k.D(1, 1, c, 0) = std::numeric_limits<float>::infinity();
    }
    k.run_loss();
    k.run_backward(std::vector<float>(6, 1.0f), 1);
    for (int pair = 0; pair < 6; ++pair) {
      const bool valid = pair != 1 && pair != 4;
      CHECK((k.status[size_t(pair)] & kStatusValid) == (valid ? kStatusValid : 0));
      CHECK(valid ? k.loss[size_t(pair)] > 0 : k.loss[size_t(pair)] == 0);
      for (int c = 0; c < 5; ++c) {
        const float g = k.dalpha[size_t(pair * 5 + c)];
        CHECK(valid ? std::isfinite(g) : g == 0);
      }
    }
    for (float g : k.da) CHECK(std::isfinite(g));
  }
}

TEST(a_dead_map_costs_its_region_and_has_no_gradient) {
  Case<double> k({1, 2, 4, 9, 4}, false, 8);
  for (int64_t c = 0; c < 4; ++c) {
    for (int64_t q = 0; q < 4; ++q) k.D(0, 1, c, q) = -1;
  }
  k.run_loss();
  k.run_backward({1.0, 1.0}, 1);
  double covered = 0;
  for (int64_t p = 9; p < 18; ++p) covered += k.w[size_t(p)] * k.s[size_t(p)];
  CHECK(k.status[0] == kStatusValid);
  CHECK(k.status[1] == (kStatusValid | kStatusDead));
  CHECK_NEAR(k.loss[1], -std::log(k.eps / (covered + k.eps)), 1e-12, 0);
  for (int64_t c = 0; c < 4; ++c) CHECK_NEAR(k.dalpha[size_t(4 + c)], 0, 0, 0);
}

TEST(nan_of_a_valid_pair_stays_visible) {
  for (bool last : {false, true}) {
    Case<float> k({1, 1, 3, 10, 4}, last, 2);
    k.A(0, 1, 7) = std::numeric_limits<float>::quiet_NaN();
    k.run_loss();
    CHECK(std::isnan(k.loss[0]));
    k.run_map(true);
    CHECK(std::isnan(k.peak[0]));
  }
}

// A vector may reach into the next row, and a row's last vector overlaps the one before.
TEST(nan_of_one_channel_stays_in_its_row) {
  for_all_cases<float>([](Case<float>& k) {
    const auto [n, t, c, p, q] = k.shape;
    k.run_loss();  // before the NaN comes: it would be in the whole map
    const int64_t bad = c / 2;
    for (int64_t i = 0; i < p; ++i) k.A(n - 1, bad, i) = std::numeric_limits<float>::quiet_NaN();
    k.run_backward(std::vector<float>(size_t(n * t), 1.0f), 1);
    for (float g : k.da) CHECK(std::isfinite(g));  // dA does not depend on A, given the map
    for (int64_t i = 0; i < n * t * c; ++i) {
      const bool hit = i / (t * c) == n - 1 && i % c == bad;
      CHECK(std::isnan(k.dalpha[size_t(i)]) == hit);
    }
  });
}

TEST(the_instruction_set_asked_for_runs) {
  const char* asked = std::getenv("FASTCAM_CPU_ISA");
  std::printf("      instruction set: %s\n", cam_kernels().isa);
  if (asked != nullptr && std::strcmp(asked, "baseline") == 0) {
    CHECK(std::strcmp(cam_kernels().isa, "baseline") == 0);
  }
  if (asked != nullptr) CHECK(std::strcmp(cam_kernels().isa, "avx512") != 0);
}

}  // namespace

int main() { return check::run(); }

// Grad-CAM ops on the CPU: splits the work over torch's threads and calls the kernels of
// cpu/kernels/cam.h.
#include "cpu/kernels/cam.h"
#include "common/pairs.h"
#include "cpu/ops/pages.h"
#include "cpu/ops/parallel.h"
#include "ops/cam_loss.h"

#include <limits>

namespace fastcam {
namespace {

// The values of a per-cell argument, of the pairs that are not switched off. A mask of 0 to 255 or
// a weight of -1 would give a loss that looks like any other. fastcam/ops/checks.py knows the
// prefix.
template <class Acc>
void check_values(const CamLoss& op, const PairView& cells, Acc low, Acc high, const char* expected,
                  const char* advice) {
  for (int64_t n = 0; n < op.in.batch; ++n) {
    for (int64_t t = 0; t < op.in.targets; ++t) {
      if (op.where.data && *op.where.of<uint8_t>(n, t) == 0) continue;
      const Acc* value = cells.of<Acc>(n, t);
      const auto fits = [&](int64_t p) { return int(value[p] >= low) & int(value[p] <= high); };
      int all = 1;  // NaN fits nowhere
      for (int64_t p = 0; p < op.in.cells; ++p) all &= fits(p);
      if (all) continue;
      int64_t p = 0;
      while (fits(p)) ++p;
      STD_TORCH_CHECK(false, "fastcam: value: ", expected, ", got ", double(value[p]),
                      value[p] > high ? advice : "");
    }
  }
}

template <class Acc>
void check_values(const CamLoss& op) {
  constexpr double kRounding = 1e-3;  // what resizing a mask may leave beyond [0, 1]
  check_values(op, op.regions, Acc(-kRounding), Acc(1 + kRounding),
               "regions: expected values in [0, 1]", " (divide a mask of 0 to 255 by 255)");
  if (op.cell_weights.data == nullptr) return;
  const bool shared = op.cell_weights.stride_n == 0 && op.cell_weights.stride_t == 0;
  CamLoss some = op;
  if (shared) some.in.batch = some.in.targets = 1, some.where = {};
  check_values(some, op.cell_weights, Acc(0), std::numeric_limits<Acc>::max(),
               "cell_weights: expected finite values >= 0", "");
}

// Few samples are split into channel blocks, at the most so many each, to have as many items of
// work as are wanted.
int64_t channel_blocks(int64_t batch, int64_t items, int64_t most) {
  return std::clamp<int64_t>(ceil_div(items, batch), 1, std::max<int64_t>(1, most));
}

void run_forward(const Tensor&, const CamForward& op, ScalarKind a, ScalarKind d) {
  const int64_t work = op.in.channels * op.in.cells * op.in.targets;
  parallel_over(op.in.batch, work, [&](int64_t begin, int64_t end) {
    const Scratch scratch(cam_scratch_bytes(op.in.targets, op.in.cells));
    cam_kernels().cam_forward(op, a, d, begin, end, scratch.get());
  });
}

void run_backward(const Tensor&, const CamBackward& op, ScalarKind a) {
  prefer_huge_pages(op.grad_activations, op.batch * op.channels * op.cells * bytes_of(a));
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t blocks = channel_blocks(op.batch, 2 * threads, op.channels / 32);
  const int64_t work = op.channels * op.cells * op.targets / blocks;
  parallel_over(op.batch * blocks, work, [&](int64_t begin, int64_t end) {
    const Scratch scratch(cam_scratch_bytes(op.targets, op.cells));
    cam_kernels().cam_backward(op, a, blocks, begin, end, scratch.get());
  });
}

// ---- losses with all their gradients ------------------------------------------------------------

template <class Acc>
void reduce_pairs(const CamLossForward& op) {
  const int64_t pairs = op.loss.in.batch * op.loss.in.targets;
  const Acc* losses = static_cast<const Acc*>(op.loss.loss);
  PairSum<Acc> sum{0, 0};
  for (int64_t i = 0; i < pairs; ++i) sum.add(losses[i], op.loss.status[i]);
  *static_cast<Acc*>(op.reduced) = sum.reduced(op.reduction);
  *static_cast<Acc*>(op.count) = sum.count;
}

// Channel blocks of a sample: several where samples are few and large, and their maps, of which
// each block has its own, take little. By shapes alone, so that results do not depend on the number
// of threads.
int64_t forward_blocks(const CamInputs& in, int64_t map_bytes) {
  constexpr int64_t kItems = 16;
  constexpr int64_t kMostBytes = int64_t(32) << 20;
  const int64_t most = std::min({in.channels * in.cells / kGrainElements, in.channels / 32,
                                 kMostBytes / (in.batch * map_bytes)});
  return channel_blocks(in.batch, kItems, most);
}

void run_loss_forward(const Tensor& device, const CamLossForward& op, ScalarKind a, ScalarKind d) {
  const CamLoss& loss = op.loss;
  const CamInputs& in = loss.in;
  with_acc(a, [&](auto acc) { check_values<decltype(acc)>(loss); });
  const int64_t work = in.channels * in.cells * in.targets;
  const int64_t scratch_bytes = cam_scratch_bytes(in.targets, in.cells);
  const int64_t blocks = forward_blocks(in, scratch_bytes);
  if (blocks == 1) {
    parallel_over(in.batch, work, [&](int64_t begin, int64_t end) {
      const Scratch scratch(scratch_bytes);
      cam_kernels().cam_loss_forward(op, a, d, begin, end, scratch.get());
    });
  } else {
    const Scratch parts(in.batch * blocks * scratch_bytes);
    parallel_over(in.batch * blocks, work / blocks, [&](int64_t begin, int64_t end) {
      cam_kernels().cam_loss_maps(loss, a, d, blocks, begin, end, parts.get());
    });
    parallel_over(in.batch, in.cells * in.targets * 32, [&](int64_t begin, int64_t end) {
      cam_kernels().cam_loss_values(loss, a, blocks, begin, end, parts.get());
    });
    if (op.grad_gradients != nullptr) run_backward(device, sums_of_gradients(op), a);
  }
  if (op.reduction == Reduction::kNone) return;
  with_acc(a, [&](auto acc) { reduce_pairs<decltype(acc)>(op); });
}

// The scale of every pair, and the constants of dD times it.
template <class Acc>
void scale_pairs(const CamLossBackward& op, Acc* scales) {
  const Acc count = op.count == nullptr ? Acc(1) : *static_cast<const Acc*>(op.count);
  for (int64_t n = 0; n < op.batch; ++n) {
    for (int64_t t = 0; t < op.targets; ++t) {
      const int64_t pair = n * op.targets + t;
      scales[pair] = pair_scale(op.status[pair], *op.grad.of<Acc>(n, t), count);
      if (op.scaled_gradients == nullptr) continue;
      const Acc* from = static_cast<const Acc*>(op.grad_gradients) + pair * op.channels;
      Acc* to = static_cast<Acc*>(op.scaled_gradients) + pair * op.channels;
      for (int64_t c = 0; c < op.channels; ++c) to[c] = scales[pair] * from[c];
    }
  }
}

void run_loss_backward(const Tensor& device, const CamLossBackward& op, ScalarKind a) {
  const int64_t pairs = op.batch * op.targets;
  const Scratch scales(pairs * (a == ScalarKind::kDouble ? 8 : 4));
  with_acc(a, [&](auto acc) { scale_pairs(op, static_cast<decltype(acc)*>(scales.get())); });
  if (op.grad_activations == nullptr) return;
  CamBackward product{};
  product.batch = op.batch;
  product.targets = op.targets;
  product.channels = op.channels;
  product.cells = op.cells;
  product.activations_channels_last = op.channels_last;
  product.alpha = op.alpha;
  product.grad_map = op.grad_map;
  product.scale = scales.get();
  product.status = op.status;
  product.grad_activations = op.grad_activations;
  run_backward(device, product, a);
}

std::string cpu_isa() { return cam_kernels().isa; }

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m)
{
  using namespace fastcam;
  m.impl("_cam_forward", TORCH_BOX(&cam_forward<run_forward>));
  m.impl("_cam_backward", TORCH_BOX(&cam_backward<run_backward>));
  m.impl("_cam_loss_forward", TORCH_BOX(&cam_loss_forward<run_loss_forward>));
  m.impl("_cam_loss_backward", TORCH_BOX(&cam_loss_backward<run_loss_backward>));
}

STABLE_TORCH_LIBRARY_IMPL(fastcam, CompositeExplicitAutograd, m)
{
  m.impl("_cpu_isa", TORCH_BOX(&fastcam::cpu_isa));
}

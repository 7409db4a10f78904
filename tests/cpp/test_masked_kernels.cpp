// The masked products of cpu/masked_kernels.h against loops over every entry in double.
#include "cpu/masked_kernels.h"
#include "cpu/masked_lists.h"

#include <cstdint>
#include <vector>

#include "check.h"

using namespace fastcam;

namespace {

template <class Acc>
struct Case {
  int64_t R, J, I;
  std::vector<Acc> v, weight, grad;
  std::vector<uint8_t> passed;

  Case(int64_t rows, int64_t units, int64_t width) : R(rows), J(units), I(width) {
    check::Random random(uint64_t(rows * 7919 + units * 31 + width));
    const auto fill = [&](std::vector<Acc>& to, int64_t count) {
      for (int64_t i = 0; i < count; ++i) to.push_back(Acc(random.uniform(-1, 1)));
    };
    fill(v, R * J);
    fill(weight, J * I);
    fill(grad, R * I);
    for (int64_t i = 0; i < R * J; ++i) {
      // The first row is empty, the last one full.
      passed.push_back(i >= (R - 1) * J || (i >= J && random.uniform() < 0.3));
      if (passed.back() == 0) v[size_t(i)] = 0;
    }
    check::where =
        std::to_string(R) + " rows, " + std::to_string(J) + " units, " + std::to_string(I);
  }

  static constexpr ScalarKind kind() {
    return sizeof(Acc) == 8 ? ScalarKind::kDouble : ScalarKind::kFloat;
  }
};

template <bool kByRow, class Acc>
struct Lists {
  std::vector<int32_t> lines, counts, indices;
  std::vector<Acc> values;
  MaskedLists made;

  explicit Lists(const Case<Acc>& k) : Lists(k, k.passed) {}
  Lists(const Case<Acc>& k, const std::vector<uint8_t>& passed) {
    const MaskedCells cells{k.R, k.J, masked_kernels().tile};
    lines.resize(size_t(cells.all_lines(kByRow)));
    counts.resize(lines.size());
    indices.resize(size_t(cells.all_entries(kByRow)));
    values.resize(indices.size());
    // In two parts, as two threads would.
    const int64_t half = cells.unit_tiles() / 2;
    for (const auto& [begin, end] : {std::pair(int64_t(0), half), {half, cells.unit_tiles()}}) {
      masked_lists<kByRow, Acc>(k.v.data(), passed.data(), cells, lines.data(), counts.data(),
                                indices.data(), values.data(), begin, end);
    }
    made = {cells.lines(kByRow), cells.capacity(kByRow), lines.data(),
            counts.data(),       indices.data(),         values.data()};
  }
};

template <class Acc, class Body>
void for_all_cases(const Body& body) {
  for (int64_t rows : {1, 3, 64, 65, 256}) {
    for (int64_t units : {1, 5, 64, 130}) {
      for (int64_t width : {1, 7, 64, 128, 300}) body(Case<Acc>(rows, units, width));
    }
  }
}

template <class Acc>
double bound() {
  return sizeof(Acc) == 8 ? 1e-12 : 1e-4;
}

template <class Acc>
void products() {
  std::vector<char> memory(size_t(kMaskedScratchBytes) + 64);
  char* scratch = memory.data() + (64 - uintptr_t(memory.data()) % 64);
  const MaskedKernels& kernels = masked_kernels();
  for_all_cases<Acc>([&](const Case<Acc>& k) {
    const MaskedShape shape{k.R, k.J, k.I};
    const Lists<true, Acc> by_row(k);
    const Lists<false, Acc> by_unit(k);
    const int64_t block = kernels.block_bytes / int64_t(sizeof(Acc));
    const int64_t blocks = (k.I + block - 1) / block;
    const int64_t tiles = (k.J + kernels.tile - 1) / kernels.tile;

    std::vector<Acc> out(size_t(k.R * k.I), Acc(7));
    kernels.product({shape, by_row.made, k.weight.data(), out.data()}, k.kind(), 0, blocks,
                    scratch);
    for (int64_t r = 0; r < k.R; ++r) {
      for (int64_t i = 0; i < k.I; ++i) {
        double want = 0;
        for (int64_t j = 0; j < k.J; ++j) {
          want += double(k.v[size_t(r * k.J + j)]) * double(k.weight[size_t(j * k.I + i)]);
        }
        CHECK_NEAR(out[size_t(r * k.I + i)], want, 0, bound<Acc>());
      }
    }

    for (bool add : {false, true}) {
      std::vector<Acc> sum(size_t(k.J * k.I), Acc(7));
      kernels.outer({shape, by_unit.made, k.grad.data(), add, sum.data()}, k.kind(), 0, tiles,
                    scratch);
      for (int64_t j = 0; j < k.J; ++j) {
        for (int64_t i = 0; i < k.I; ++i) {
          double want = add ? 7 : 0;
          for (int64_t r = 0; r < k.R; ++r) {
            want += double(k.v[size_t(r * k.J + j)]) * double(k.grad[size_t(r * k.I + i)]);
          }
          CHECK_NEAR(sum[size_t(j * k.I + i)], want, 0, bound<Acc>());
        }
      }
    }

    std::vector<Acc> workspace(by_unit.values.size()), dots(size_t(k.R * k.J), Acc(7));
    kernels.dots(
        {shape, by_unit.made, k.weight.data(), k.grad.data(), workspace.data(), dots.data()},
        k.kind(), 0, tiles, scratch);
    for (int64_t r = 0; r < k.R; ++r) {
      for (int64_t j = 0; j < k.J; ++j) {
        double want = 0;
        for (int64_t i = 0; i < k.I; ++i) {
          want += double(k.weight[size_t(j * k.I + i)]) * double(k.grad[size_t(r * k.I + i)]);
        }
        // What takes no part is not written.
        if (k.passed[size_t(r * k.J + j)] == 0) want = 7;
        CHECK_NEAR(dots[size_t(r * k.J + j)], want, 0, bound<Acc>());
      }
    }
  });
}

TEST(products_of_float) { products<float>(); }
TEST(products_of_double) { products<double>(); }

TEST(lists_hold_each_entry_once) {
  for_all_cases<float>([](const Case<float>& k) {
    const Lists<true, float> lists(k);
    const int64_t tile = masked_kernels().tile;
    const int64_t row_tiles = (k.R + tile - 1) / tile;
    std::vector<uint8_t> seen(k.passed.size());
    for (int64_t cell = 0; cell < int64_t(lists.lines.size()) / lists.made.lines_per_cell; ++cell) {
      int64_t entry = cell * lists.made.lines_per_cell * lists.made.capacity;
      for (int64_t n = 0; n < lists.made.lines_per_cell; ++n) {
        const size_t list = size_t(cell * lists.made.lines_per_cell + n);
        if (lists.lines[list] < 0) break;
        CHECK(lists.counts[list] % kMaskedPad == 0);
        const int64_t r = cell % row_tiles * tile + lists.lines[list];
        for (int64_t end = entry + lists.counts[list]; entry < end; ++entry) {
          if (lists.indices[size_t(entry)] == tile) continue;
          const int64_t j = cell / row_tiles * tile + lists.indices[size_t(entry)];
          CHECK(lists.values[size_t(entry)] == k.v[size_t(r * k.J + j)]);
          ++seen[size_t(r * k.J + j)];
        }
      }
    }
    CHECK(seen == k.passed);
  });
}

template <bool kByRow>
void any_byte_but_zero_takes_part() {
  for_all_cases<float>([](const Case<float>& k) {
    std::vector<uint8_t> bytes = k.passed;
    check::Random random(5);
    for (uint8_t& byte : bytes) {
      if (byte != 0) byte = uint8_t(1 + int(random.uniform() * 255));
    }
    const Lists<kByRow, float> wanted(k), got(k, bytes);
    CHECK(got.lines == wanted.lines && got.counts == wanted.counts);
    CHECK(got.indices == wanted.indices && got.values == wanted.values);
  });
}
TEST(any_byte_but_zero_takes_part_by_row) { any_byte_but_zero_takes_part<true>(); }
TEST(any_byte_but_zero_takes_part_by_unit) { any_byte_but_zero_takes_part<false>(); }

}  // namespace

int main() { return check::run(); }

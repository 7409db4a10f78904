// The smallest test harness that does: TEST(name) { CHECK(...); } and one program for each file.
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace check {

struct Test {
  std::string name;
  std::function<void()> body;
};

inline std::vector<Test> tests;
inline int failures = 0;   // of the whole program
inline std::string where;  // what a loop is at; printed with a failure

struct Register {
  Register(const char* name, std::function<void()> body) { tests.push_back({name, body}); }
};

inline void fail(const char* file, int line, const std::string& what) {
  ++failures;
  std::printf("%s:%d: %s%s%s\n", file, line, what.c_str(), where.empty() ? "" : " at ",
              where.c_str());
}

inline void that(bool ok, const char* file, int line, const char* text) {
  if (!ok) fail(file, line, std::string("failed: ") + text);
}

// |got - want| <= atol + rtol |want|; NaN agrees with NaN only, an infinity with itself only.
inline void near(double got, double want, double rtol, double atol, const char* file, int line,
                 const char* text) {
  if (std::isnan(got) && std::isnan(want)) return;
  if (got == want || std::fabs(got - want) <= atol + rtol * std::fabs(want)) return;
  char message[160];
  std::snprintf(message, sizeof message, ": got %.17g, want %.17g", got, want);
  fail(file, line, text + std::string(message));
}

inline int run() {
  for (const Test& test : tests) {
    const int before = failures;
    where.clear();
    try {
      test.body();
    } catch (const std::exception& error) {
      fail(test.name.c_str(), 0, std::string("exception: ") + error.what());
    }
    std::printf("%s  %s\n", failures == before ? "ok  " : "FAIL", test.name.c_str());
  }
  return failures == 0 && !tests.empty() ? 0 : 1;
}

// Uniform numbers that are the same everywhere (the standard distributions are not).
class Random {
public:
  explicit Random(unsigned long long seed)
      : state_(seed * 2862933555777941757ULL + 3037000493ULL) {}
  double uniform(double low = 0, double high = 1) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return low + (high - low) * double(state_ >> 11) * 0x1p-53;
  }

private:
  unsigned long long state_;
};

}  // namespace check

#define TEST(name)                                                  \
  static void test_##name();                                        \
  static const check::Register register_##name(#name, test_##name); \
  static void test_##name()
#define CHECK(condition) check::that((condition), __FILE__, __LINE__, #condition)
#define CHECK_NEAR(got, want, rtol, atol) \
  check::near((got), (want), (rtol), (atol), __FILE__, __LINE__, #got)

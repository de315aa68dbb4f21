// The floor: a value in a cache line of each direction, and nothing else. How long a line takes between two cores
// depends on where its address has its home in the processor: each pair has lines of its own.
#include "tests/bench/queues/shared_object.hpp"
#include "tests/bench/queues/transports.hpp"

namespace sluice::bench {

namespace {

struct Lines {
  Line there, back;
};

class LineEnd {
 public:
  LineEnd(Line& out, Line& in) : out_(out.value), in_(in.value) {}
  std::byte* loan() { return reinterpret_cast<std::byte*>(to_send_); }
  void send() { store(out_, to_send_[0], sluice::release); }
  const std::byte* receive() {
    std::uint64_t value;
    while ((value = load(in_, acquire)) == last_) cpu_relax();
    last_ = value;
    for (auto& word : received_) word = value;
    return reinterpret_cast<const std::byte*>(received_);
  }
  void release() {}

 private:
  std::uint64_t& out_;
  std::uint64_t& in_;
  std::uint64_t last_ = 0;
  std::uint64_t to_send_[8] = {};
  std::uint64_t received_[8] = {};
};

class LinePair final : public Pair {
 public:
  void run(Side side, Board& board) override {
    const bool is_caller = side == Side::caller;
    LineEnd end(is_caller ? lines_->there : lines_->back, is_caller ? lines_->back : lines_->there);
    measure(end, side, board);
  }

 private:
  SharedObject<Lines> lines_;
};

}  // namespace

std::unique_ptr<Pair> open_line(const Task&, Waits) { return std::make_unique<LinePair>(); }

}  // namespace sluice::bench

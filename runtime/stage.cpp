#include "runtime/stage.hpp"

#include "ipc/processes.hpp"
#include "runtime/pipeline_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include <unistd.h>

namespace sluice {

namespace {

constexpr std::uint32_t lane_cells = 256;
// Until a program that makes messages looks again whether there is a block.
constexpr auto pause_for_blocks = std::chrono::milliseconds(1);

std::atomic<bool> signalled{false};
static_assert(std::atomic<bool>::is_always_lock_free);

// No SA_RESTART: waits end.
void take_signals() {
  struct sigaction action{};
  action.sa_handler = [](int) { signalled.store(true, std::memory_order_relaxed); };
  struct sigaction present{};
  sigaction(SIGTERM, &action, nullptr);
  if (sigaction(SIGINT, nullptr, &present) == 0 && present.sa_handler != SIG_IGN)
    sigaction(SIGINT, &action, nullptr);
}

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): before there are threads
  return value == nullptr ? std::string_view() : value;
}

std::unexpected<Error> wrong(std::string_view name, std::string_view found, std::string_view expected) {
  return fail(Status::bad_argument,
              fmt::format("{}: found '{}', expected {}; `sluice run` sets it for the program of a stage",
                          name, found, expected));
}

}  // namespace

std::vector<std::string> split_names(std::string_view text) {
  std::vector<std::string> names;
  while (!text.empty()) {
    const auto name = text.substr(0, text.find(','));
    if (!name.empty()) names.emplace_back(name);
    text.remove_prefix(std::min(text.size(), name.size() + 1));
  }
  return names;
}

Expected<SubscriberPolicy> parse_lagging(std::string_view word) {
  if (word.empty() || word == "block") return SubscriberPolicy::block;
  if (word == "lose-oldest") return SubscriberPolicy::lose_oldest;
  if (word == "disconnect") return SubscriberPolicy::disconnect;
  return fail(Status::bad_argument,
              fmt::format("lagging: found '{}', expected one of block, lose-oldest, disconnect", word));
}

// ---- Beginning ---------------------------------------------------------------------------------------------

Expected<Stage> Stage::from_environment() {
  StageOptions options;
  options.segment = variable("SLUICE_SEGMENT");
  if (options.segment.empty()) return wrong("SLUICE_SEGMENT", "", "the path of a segment");
  if (const auto name = variable("SLUICE_NAME"); !name.empty()) options.name = name;
  options.from = split_names(variable("SLUICE_FROM"));
  options.into = split_names(variable("SLUICE_INTO"));
  options.fed_by = split_names(variable("SLUICE_FED_BY"));
  if (options.from.empty() && options.into.empty())
    return wrong("SLUICE_FROM", "", "a queue, there or in SLUICE_INTO");
  const auto lagging = parse_lagging(variable("SLUICE_LAGGING"));
  if (!lagging)
    return wrong("SLUICE_LAGGING", variable("SLUICE_LAGGING"), "block, lose-oldest or disconnect");
  options.lagging = *lagging;
  if (const auto fd = variable("SLUICE_READY_FD"); !fd.empty()) {
    const auto [end, error] = std::from_chars(fd.data(), fd.data() + fd.size(), options.ready_fd);
    if (error != std::errc() || end != fd.data() + fd.size()) return wrong("SLUICE_READY_FD", fd, "a number");
    ::unsetenv("SLUICE_READY_FD");  // NOLINT(concurrency-mt-unsafe): a child of ours is not to write there
  }
  return open(std::move(options));
}

Expected<Stage> Stage::open(StageOptions options) {
  take_signals();
  auto session = Session::open(options.segment, options.name);
  if (!session) return std::unexpected(std::move(session.error()));
  Stage stage(std::move(options), std::move(*session));
  auto lane = stage.session_->claim_lane({.cells = lane_cells, .name = stage.options_.name});
  if (!lane) return std::unexpected(std::move(lane.error()));
  stage.lane_ = std::move(*lane);
  return stage;
}

Stage::Stage(StageOptions options, Session session)
    : options_(std::move(options)),
      session_(std::make_unique<Session>(std::move(session))),
      parent_(::getppid()) {}

Stage::Stage(Stage&& other) noexcept = default;
Stage::~Stage() = default;

void say_ready(int ready_fd, std::string_view line) {
  if (ready_fd < 0) return;
  const auto text = fmt::format("{}\n", line);
  [[maybe_unused]] const auto written =
      ::write(ready_fd, text.data(), text.size());  // nobody there: nothing to say
  ::close(ready_fd);
}

// ---- Serving -----------------------------------------------------------------------------------------------

// Whether somebody lives who could bring a message.
bool Stage::fillable() const {
  const auto& segment = session_->segment();
  const auto has_feeder = [&] {
    for (std::uint32_t i = 0; i < segment.header().process_count; ++i) {
      const auto& process = process_row(segment, i);
      if (process_word::state(load(process.word, acquire)) == ProcessState::free) continue;
      const std::string_view role(process.role, strnlen(process.role, role_bytes));
      if (std::ranges::find(options_.fed_by, role) != options_.fed_by.end()) return true;
    }
    return false;
  };
  return std::ranges::any_of(options_.from, [&](const std::string& name) {
    const auto queue = find_queue(segment, name);
    if (!queue) return false;
    const auto& row = queue_row(segment, queue->index);
    const bool is_work = load(row.kind, relaxed) == static_cast<std::uint32_t>(QueueKind::work);
    return is_work ? load(row.closed, acquire) == 0 && has_feeder() : load(row.producer, acquire) != 0;
  });
}

void Stage::look_around() {
  const bool is_orphan = ::getppid() != parent_;
  if (stopping() || (!signalled.load(relaxed) && !is_orphan)) return;
  if (is_orphan) {
    session_->recover_dead();
    if (fillable()) return;
  }
  stop_->store(true, relaxed);
}

Expected<WorkerReport> Stage::serve(const Handler& handler) {
  // Who is supervised is followed by another of the same name, which goes on where this one stops.
  const std::string_view subscriber = options_.ready_fd >= 0 ? options_.name : std::string_view();
  const WorkerOptions work{.from = options_.from,
                           .into = options_.into,
                           .subscription = {.policy = options_.lagging, .name = subscriber},
                           .idle = [this] { look_around(); },
                           .opened = [this] { say_ready(options_.ready_fd, "ready"); }};
  auto served = run_worker(*lane_, work, handler, *stop_);
  if (served && served->ended != Status::ok && served->ended != Status::full)
    return fail(served->ended,
                fmt::format("{}: the handler stopped it: {}", options_.name, to_string(served->ended)));
  return served;
}

Expected<void> Stage::produce(const std::function<Status(Producer& into)>& make) {
  if (options_.into.empty()) return fail(Status::bad_argument, "stage: no queue to publish into");
  auto into = Producer::open(*lane_, options_.into.front());
  if (!into) return std::unexpected(std::move(into.error()));
  say_ready(options_.ready_fd, "ready");
  while (!signalled.load(relaxed)) {
    const auto status = make(*into);
    if (status == Status::closed) break;
    if (status == Status::exhausted) {  // those behind this one may be slow
      fetch_add(pipeline_state(session_->segment()).short_of_blocks, 1, relaxed);
      std::this_thread::sleep_for(pause_for_blocks);
      continue;
    }
    if (status != Status::ok && status != Status::interrupted)
      return fail(status, fmt::format("queue {}: {}", options_.into.front(), to_string(status)));
  }
  return {};
}

}  // namespace sluice

#include "runtime/worker.hpp"

#include "ipc/waiting.hpp"

#include <fmt/format.h>

namespace sluice {

namespace {

using namespace std::chrono_literals;

std::unexpected<Error> bad_message(std::string_view stream, const Message& message, std::string_view what) {
  return fail(Status::corrupt,
              fmt::format("stream {}: message of flow {} at {} names block {:#x}, bytes {} to {}: {}", stream,
                          message.flow, message.position, message.handle, message.offset,
                          std::uint64_t{message.offset} + message.length, what));
}

// What a worker waits for: a message or the end of each stream that has not ended, a message of those that have (they
// may be opened again), and the request to stop.
void wait_for_more(Lane& lane, std::vector<StreamConsumer>& consumers, const std::atomic<bool>& stop,
                   std::vector<WaitSource>& sources) {
  sources.clear();
  for (auto& consumer : consumers) {
    sources.push_back(consumer.messages());
    if (consumer.ended())
      sources.back().ready = [](const void* of) noexcept {
        return !static_cast<const StreamConsumer*>(of)->empty();
      };
  }
  sources.push_back({&stop, [](const void* of) noexcept {
                       return static_cast<const std::atomic<bool>*>(of)->load(relaxed);
                     }});
  (void)wait_any(lane, sources, 100ms);  // for as long as who stops it does not ring
}

// Show the oldest message to the handler. ok: handled; anything else: what the handler said.
Expected<Status> deliver(const Segment& segment, std::string_view stream, StreamConsumer& consumer,
                         const Message& message, const Handler& handler, WorkerReport& report) {
  std::span<const std::byte> bytes;
  if (message.handle != 0) {
    const auto block = find_block(segment, {message.handle});
    if (!block) return bad_message(stream, message, "no such block is live");
    if (message.offset > block->bytes || message.length > block->bytes - message.offset)
      return bad_message(stream, message, fmt::format("it has {} bytes", block->bytes));
    bytes = {block->data + message.offset, message.length};
  }
  const bool redelivered = consumer.redelivered();
  if (const auto handled = handler({message, bytes, redelivered}); handled != Status::ok) return handled;
  ++report.messages;
  report.bytes += message.length;
  report.redelivered += redelivered ? 1 : 0;
  return Status::ok;
}

}  // namespace

Expected<WorkerReport> run_worker(Session& session, Lane& lane, const WorkerOptions& options,
                                  const Handler& handler, const std::atomic<bool>& stop) {
  const auto& segment = session.segment();
  std::vector<StreamConsumer> consumers;
  for (const auto& name : options.streams) {
    const auto queue = find_queue(segment, name);
    if (!queue) return std::unexpected(queue.error());
    auto consumer = StreamConsumer::claim(lane, *queue);
    if (!consumer)
      return fail(consumer.error(),
                  fmt::format("stream {}: cannot be consumed: {}", name,
                              consumer.error() == Status::busy ? "another lane consumes it"
                                                               : to_string(consumer.error())));
    consumers.push_back(std::move(*consumer));
  }

  WorkerReport report;
  std::vector<WaitSource> sources;
  for (;;) {
    bool any = false;
    bool all_ended = true;
    for (std::size_t i = 0; i < consumers.size(); ++i) {
      auto& consumer = consumers[i];
      for (std::uint32_t served = 0; served < options.batch; ++served) {
        const auto* message = consumer.peek();
        if (message == nullptr) break;
        any = true;
        const auto handled = deliver(segment, options.streams[i], consumer, *message, handler, report);
        if (!handled) return std::unexpected(handled.error());
        if (*handled != Status::ok) {
          report.ended = *handled;
          return report;
        }
        if (const auto acknowledged = consumer.acknowledge(); acknowledged != Status::ok)
          return fail(acknowledged,
                      fmt::format("stream {}: acknowledge: {}", options.streams[i], to_string(acknowledged)));
      }
      all_ended = all_ended && consumer.ended();
    }
    if (any) continue;
    lane.heap().flush();  // nobody waits for blocks that a sleeper has freed
    if (all_ended || stop.load(relaxed)) return report;
    wait_for_more(lane, consumers, stop, sources);
  }
}

}  // namespace sluice

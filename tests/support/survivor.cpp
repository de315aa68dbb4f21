#include "tests/support/survivor.hpp"

namespace sluice::test {

Survivor::Survivor(const SurvivorOptions& options)
    : file(options.segment),
      session(must(Session::open(file.path(), "survivor"))),
      lane(must(session.claim_lane({.cells = options.cells, .name = "survivor"}))),
      stream(must(create_stream(*lane, stream_name, stream_capacity))) {
  for (const auto bytes : options.kept_bytes) {
    kept.emplace_back(must(lane->heap().allocate(bytes)), kept.size());
    fill_pattern(lane->heap().bytes(kept.back().first), kept.back().second);
  }
}

void push_numbered(Lane& lane, StreamProducer& producer, std::size_t bytes, bool shared) {
  const auto number = producer.tail();
  Message message{};
  message.kind = MessageKind::data;
  message.position = number;
  message.length = static_cast<std::uint32_t>(bytes);
  if (bytes == 0) {
    must(producer.push(message));
  } else {
    const auto reference = must(lane.heap().allocate(bytes));
    fill_pattern(lane.heap().bytes(reference).first(bytes), number);
    if (shared) {
      const auto second = must(lane.heap().clone(reference));
      must(lane.heap().release(reference));
      must(producer.push(message, second));
    } else {
      must(producer.push(message, reference));
    }
  }
}

bool is_numbered(const Segment& segment, const Message& message, std::uint64_t number) {
  if (message.position != number || message.kind != MessageKind::data) return false;
  if (message.length == 0) return message.handle == 0;
  const auto block = find_block(segment, Handle{message.handle});
  return block && block->bytes >= message.length && has_pattern(block->span().first(message.length), number);
}

}  // namespace sluice::test

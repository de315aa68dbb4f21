#include "runtime/pipeline_streams.hpp"

#include "runtime/pipeline_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace sluice {

namespace {

std::string stream_name(std::uint32_t index) { return fmt::format("ingress.{}", index); }

// Another process that creates the same name holds it for microseconds, unless it died: then it is recovered.
Expected<QueueId> create_patiently(Lane& lane, const std::string& name, std::uint32_t capacity) {
  auto id = find_or_create_stream(lane, name, capacity);
  for (int attempt = 0; attempt < 100 && !id && id.error().status == Status::busy; ++attempt) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    id = find_or_create_stream(lane, name, capacity);
  }
  return id;
}

// "worker-0 (pid 1234)" for a role's claim word, empty for nobody.
std::string describe_claim(const Segment& segment, std::uint64_t claim) {
  const auto lane = lane_claim::Lane::get(claim);
  if (lane == 0 || lane >= segment.header().lane_count) return {};
  const auto process = lane_word::Process::get(load(segment.lane_row(lane).word, acquire));
  if (process >= segment.header().process_count) return {};
  const ProcessRow& row = process_row(segment, process);
  char role[role_bytes + 1] = {};
  std::copy_n(row.role, role_bytes, role);
  return fmt::format("{} (pid {})", role, load(row.pid, relaxed));
}

}  // namespace

Expected<PipelineStreams> PipelineStreams::open(Lane& lane, std::uint32_t workers, std::uint32_t capacity,
                                                const std::vector<PublishedStream>& published) {
  PipelineStreams result(lane, workers);
  for (std::uint32_t i = 0; i < workers; ++i) {
    auto id = create_patiently(lane, stream_name(i), capacity);
    if (!id) return std::unexpected(id.error());
    result.streams_.push_back({stream_name(i), *id});
  }
  for (const auto& stream : published) {
    auto id = create_patiently(lane, stream.name, capacity);
    if (!id) return std::unexpected(id.error());
    result.published_.push_back({stream.name, *id, stream.mirrored});
  }
  // Without workers nobody could serve what an earlier run left: it stays.
  for (std::uint32_t i = workers; workers != 0 && i < lane.segment().header().queue_count; ++i) {
    const auto id = find_queue(lane.segment(), stream_name(i));
    if (!id) break;  // they are created in order
    result.streams_.push_back({stream_name(i), *id});
  }
  return result;
}

std::vector<std::string> PipelineStreams::produced() const {
  std::vector<std::string> names;
  names.reserve(workers_);
  for (std::uint32_t i = 0; i < workers_; ++i) names.push_back(streams_[i].name);
  return names;
}

std::vector<std::string> PipelineStreams::served_by(std::uint32_t worker) const {
  std::vector<std::string> names;
  for (std::size_t i = worker; i < streams_.size(); i += workers_) names.push_back(streams_[i].name);
  return names;
}

std::string PipelineStreams::holder() const {
  for (const auto* streams : {&streams_, &published_}) {
    for (const auto& stream : *streams) {
      for (const auto* role : {&row(stream).producer, &row(stream).consumer}) {
        if (role == &row(stream).consumer && !stream.consumer_is_ours) continue;
        auto text = describe_claim(lane_->segment(), load(*role, acquire));
        if (!text.empty()) return text;
      }
    }
  }
  return {};
}

Status PipelineStreams::reopen() {
  const auto reopen_one = [&](const Stream& stream) {
    const auto producer =
        StreamProducer::claim(*lane_, stream.id);  // claiming opens it, and it is given back
    return producer ? Status::ok : producer.error();
  };
  for (std::uint32_t i = 0; i < workers_; ++i)
    if (const auto status = reopen_one(streams_[i]); status != Status::ok) return status;
  for (const auto& stream : published_)
    if (const auto status = reopen_one(stream); status != Status::ok) return status;
  return Status::ok;
}

bool PipelineStreams::end(std::uint32_t first) {
  bool all_closed = true;
  for (std::size_t i = first; i < streams_.size(); ++i) {
    auto& shared = row(streams_[i]);
    if (load(shared.closed, acquire) != 0) continue;
    all_closed = false;
    if (load(shared.producer, acquire) != 0) continue;
    // By the stamps: where a producer has died tail may be behind head.
    if (pushed_messages(lane_->segment(), shared) - load(shared.head, acquire) >= shared.capacity) continue;
    auto producer = StreamProducer::claim(*lane_, streams_[i].id);
    if (!producer) continue;
    Message restart{};
    restart.kind = MessageKind::restart;
    restart.flow = load(pipeline_state(lane_->segment()).next_flow, acquire);
    if (restart.flow == 0 || producer->push(restart) == Status::ok) producer->close();
  }
  return all_closed;
}

bool PipelineStreams::closed_and_empty(const Stream& stream) const {
  const auto& shared = row(stream);
  const bool closed = load(shared.closed, acquire) != 0;
  const auto head = load(shared.head, acquire);
  return closed && head == load(shared.tail, acquire);
}

bool PipelineStreams::finished(std::uint32_t worker) const {
  for (std::size_t i = worker; i < streams_.size(); i += workers_)
    if (!closed_and_empty(streams_[i])) return false;
  return true;
}

const PipelineStreams::Stream* PipelineStreams::find_published(std::string_view name) const noexcept {
  const auto found = std::ranges::find(published_, name, &Stream::name);
  return found == published_.end() ? nullptr : &*found;
}

void PipelineStreams::close_published(std::string_view name) {
  const auto* stream = find_published(name);
  if (stream == nullptr || load(row(*stream).closed, acquire) != 0) return;
  if (auto producer = StreamProducer::claim(*lane_, stream->id)) producer->close();
}

bool PipelineStreams::published_finished(std::string_view name) const {
  const auto* stream = find_published(name);
  return stream == nullptr || closed_and_empty(*stream);
}

PipelineTotals PipelineStreams::totals() const {
  PipelineTotals totals;
  for (const auto* streams : {&streams_, &published_}) {
    for (const auto& stream : *streams) {
      const auto& shared = row(stream);
      totals.taken +=
          load(shared.head, acquire);  // head first: it never passes the tail that is read after it
      totals.pushed += load(shared.tail, acquire);
      totals.bytes += load(shared.bytes_in, relaxed);
      totals.redelivered += load(shared.redelivered, relaxed);
    }
  }
  return totals;
}

}  // namespace sluice

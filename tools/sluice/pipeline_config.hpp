// What a pipeline is made of: defaults, a TOML file over them, flags over both. Every key of the file is the
// flag of the same name without its dashes; docs/pipeline.md has the table.
#pragma once

#include "runtime/pipeline_plan.hpp"
#include "shm/status.hpp"
#include "tools/sluice/pipeline_graph.hpp"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools {

/// What a file or the flags say; empty where they say nothing.
struct PipelineSettings {
  std::optional<std::string> segment;
  std::optional<std::uint64_t> size;
  std::optional<std::string> tcp;
  std::optional<std::string> into;
  std::optional<std::uint64_t> workers;
  std::optional<std::string> sink;
  std::optional<bool> count;
  std::optional<std::uint64_t> queue_capacity;
  std::optional<std::uint64_t> buffers;
  std::optional<std::uint64_t> buffer_size;
  std::optional<std::uint64_t> max_connections;
  std::optional<std::uint64_t> share;
  std::optional<std::chrono::nanoseconds> drain;
  std::optional<std::chrono::nanoseconds> status;
  // Of the file; no flags make any.
  std::vector<QueueSettings> queues;
  std::vector<StageSettings> stages;
  std::vector<DeviceSettings> devices;

  /// What `over` says wins. A handler (sink, count) there replaces the handler here.
  void override_with(const PipelineSettings& over);
};

inline constexpr std::uint32_t workers_default = 2;

struct PipelineConfig {
  std::string segment;
  std::uint64_t size = std::uint64_t{1}
                       << 30;  // most payload of a segment that is created; the file is sparse
  std::string host;
  std::uint16_t port = 0;
  Topology topology;        // without [[stage]] tables: the ingress, streams, and one stage named "worker"
  PipelinePlan plan;        // of that
  bool has_stages = false;  // it was given as tables
  std::uint32_t buffers = 512;
  std::uint32_t buffer_size = 32 * 1024;
  std::uint32_t max_connections = 1024;
  std::uint32_t share = 0;  // 0: a quarter of the buffers
  std::chrono::nanoseconds drain = std::chrono::seconds(5);
  std::chrono::nanoseconds status{0};

  /// The directories that stages write flows into.
  std::vector<std::string> sinks() const;
};

/// Parse a configuration. `name` is what messages call it.
/// errors  bad_argument  names the line and the key
Expected<PipelineSettings> parse_settings(std::string_view toml, std::string_view name);
/// errors  not_found, permission, io_error; bad_argument as parse_settings
Expected<PipelineSettings> read_settings(const std::string& path);

/// Fill in the defaults and check every value, and that stages and queues make a pipeline that can run.
/// errors  bad_argument  names the setting, what was found and what was expected
Expected<PipelineConfig> resolve(const PipelineSettings& settings);

struct Endpoint {
  std::string host;
  std::uint16_t port = 0;
};
/// "127.0.0.1:9000", "[::1]:0"
/// errors  bad_argument
Expected<Endpoint> parse_endpoint(std::string_view text);
std::string format_endpoint(const Endpoint& endpoint);

}  // namespace sluice::tools

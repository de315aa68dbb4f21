// The stages of a pipeline and the queues between them, as a configuration has them: [[queue]] and [[stage]] tables. Each
// is checked by itself here; how they are connected is checked where they become a plan (pipeline_graph.hpp).
#pragma once

#include "shm/status.hpp"

#include <toml++/toml.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools {

/// One [[queue]]; empty where it says nothing.
struct QueueSettings {
  std::string place;  // "pipeline.toml:12", for who finds something wrong with it later
  std::optional<std::string> name;
  std::optional<std::string> kind;  // stream, work, broadcast
  std::optional<std::uint64_t> capacity;
  std::optional<std::string> policy;  // block, fail, drop-oldest
  std::optional<std::uint64_t> deliveries_max;
  std::optional<std::string> dead_letter;
  std::optional<std::uint64_t> subscribers_max;
};

/// One [[stage]]; empty where it says nothing.
struct StageSettings {
  std::string place;
  std::optional<std::string> name;
  std::optional<std::string> from;
  std::optional<std::string> into;
  std::optional<std::uint64_t> workers;
  std::optional<std::string> lagging;  // block, lose-oldest, disconnect
  // What its workers do with a message, before it goes on if it does; nothing of these: only that.
  std::optional<std::vector<std::string>> run;  // a program and its arguments
  std::optional<std::string> sink;              // a directory
  std::optional<bool> count;
};

/// The tables of `queue = …` and `stage = …`.
/// errors  bad_argument  names file, line, key, what was found and what was expected
Expected<std::vector<QueueSettings>> read_queues(std::string_view file, const toml::node& node);
Expected<std::vector<StageSettings>> read_stages(std::string_view file, const toml::node& node);

}  // namespace sluice::tools

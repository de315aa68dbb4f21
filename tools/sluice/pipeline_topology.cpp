#include "tools/sluice/pipeline_topology.hpp"

#include "ipc/broadcast_layout.hpp"
#include "ipc/queue_layout.hpp"
#include "ipc/work_layout.hpp"
#include "tools/sluice/toml_value.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::tools {

namespace {

// "NAME-63" is a role in the segment's process table, and a subscriber's name.
constexpr std::size_t stage_name_max = 24;
constexpr std::size_t queue_name_max = queue_name_bytes - 8;  // with ".1048576" behind it
constexpr std::string_view name_characters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
constexpr std::string_view queue_keys =
    "name, kind, capacity, policy, deliveries-max, dead-letter, subscribers-max";
constexpr std::string_view stage_keys = "name, from, into, workers, lagging, run, sink, count";

Expected<void> unknown_key(const TomlPlace& place, std::string_view table, std::string_view keys) {
  return fail(Status::bad_argument,
              fmt::format("{}:{}: unknown key '{}' in [[{}]], expected one of {}", place.file,
                          place.node->source().begin.line, place.key, table, keys));
}

Expected<void> read_command(const TomlPlace& place, std::optional<std::vector<std::string>>& out) {
  const auto* array = place.node->as_array();
  if (array == nullptr || array->empty() || !array->is_homogeneous(toml::node_type::string))
    return place.wrong("expected a program and its arguments, e.g. [\"./parse\", \"--strict\"]");
  out.emplace();
  for (const auto& text : *array) out->push_back(*text.value_exact<std::string>());
  if (out->front().empty()) return place.wrong("the program's name is empty");
  return {};
}

Expected<void> read_key(const TomlPlace& place, QueueSettings& out) {
  const auto key = place.key;
  if (key == "name") return read_value(place, out.name);
  if (key == "kind") return read_word(place, {"stream", "work", "broadcast"}, out.kind);
  if (key == "capacity") return read_value(place, out.capacity);
  if (key == "policy") return read_word(place, {"block", "fail", "drop-oldest"}, out.policy);
  if (key == "deliveries-max") return read_value(place, out.deliveries_max);
  if (key == "dead-letter") return read_value(place, out.dead_letter);
  if (key == "subscribers-max") return read_value(place, out.subscribers_max);
  return unknown_key(place, "queue", queue_keys);
}

Expected<void> read_key(const TomlPlace& place, StageSettings& out) {
  const auto key = place.key;
  if (key == "name") return read_value(place, out.name);
  if (key == "from") return read_value(place, out.from);
  if (key == "into") return read_value(place, out.into);
  if (key == "workers") return read_value(place, out.workers);
  if (key == "lagging") return read_word(place, {"block", "lose-oldest", "disconnect"}, out.lagging);
  if (key == "run") return read_command(place, out.run);
  if (key == "sink") return read_value(place, out.sink);
  if (key == "count") return read_value(place, out.count);
  return unknown_key(place, "stage", stage_keys);
}

// A table's own place, under the name of the key that is wrong.
class Table {
 public:
  Table(std::string_view file, const toml::node& table) : file_(file), table_(&table) {}
  std::unexpected<Error> wrong(std::string_view key, std::string_view what) const {
    return TomlPlace{file_, key, table_}.wrong(what);
  }
  Expected<void> name(const std::optional<std::string>& found, std::size_t longest,
                      std::string_view what) const {
    if (!found) return wrong("name", fmt::format("missing, expected what to call the {}", what));
    if (found->empty() || found->size() > longest ||
        found->find_first_not_of(name_characters) != std::string::npos)
      return wrong("name",
                   fmt::format("found '{}', expected 1 to {} letters, digits, dots, dashes or underscores",
                               *found, longest));
    return {};
  }
  Expected<void> range(std::string_view key, const std::optional<std::uint64_t>& found, std::uint64_t least,
                       std::uint64_t most) const {
    if (!found || (*found >= least && *found <= most)) return {};
    return wrong(key, fmt::format("found {}, expected {} to {}", *found, least, most));
  }

 private:
  std::string_view file_;
  const toml::node* table_;
};

Expected<void> check(const Table& table, const QueueSettings& queue) {
  if (auto named = table.name(queue.name, queue_name_max, "queue"); !named) return named;
  if (!queue.kind) return table.wrong("kind", "missing, expected one of stream, work, broadcast");
  const auto only_of = [&](std::string_view key, bool found, std::string_view kind) -> Expected<void> {
    if (!found || queue.kind == kind) return {};
    return table.wrong(key, fmt::format("found with kind {}, expected it with {}", *queue.kind, kind));
  };
  const Expected<void> checks[] = {
      table.range("capacity", queue.capacity, 2, queue_capacity_max),
      only_of("deliveries-max", queue.deliveries_max.has_value(), "work"),
      only_of("dead-letter", queue.dead_letter.has_value(), "work"),
      only_of("subscribers-max", queue.subscribers_max.has_value(), "broadcast"),
      table.range("deliveries-max", queue.deliveries_max, 1, work_word::Deliveries::max),
      table.range("subscribers-max", queue.subscribers_max, 1, subscribers_limit),
  };
  for (const auto& checked : checks)
    if (!checked) return checked;
  if (queue.policy && queue.kind == "broadcast")
    return table.wrong("policy",
                       "found with kind broadcast, where each stage that takes from it says what "
                       "becomes of it when it lags (lagging)");
  if (queue.policy == "drop-oldest" && queue.kind != "work") return only_of("policy", true, "work");
  if (queue.deliveries_max.has_value() != queue.dead_letter.has_value())
    return table.wrong(queue.dead_letter ? "deliveries-max" : "dead-letter",
                       "missing: a limit of deliveries and a queue of dead letters go together");
  return {};
}

Expected<void> check(const Table& table, const StageSettings& stage) {
  if (auto named = table.name(stage.name, stage_name_max, "stage"); !named) return named;
  if (auto checked = table.range("workers", stage.workers, 1, 64); !checked) return checked;
  const int handlers = (stage.run ? 1 : 0) + (stage.sink ? 1 : 0) + (stage.count.value_or(false) ? 1 : 0);
  if (handlers > 1) return table.wrong("run, sink, count", "found several of these, expected one");
  if (stage.sink && stage.sink->empty()) return table.wrong("sink", "empty, expected a directory");
  if (!stage.from && !(stage.run && stage.into))
    return table.wrong(
        "from", "missing, expected a queue; without one a stage makes messages, and needs run and into");
  if (handlers == 0 && !stage.into)
    return table.wrong("into",
                       "missing: what the stage takes would go nowhere, expected into, run, sink or count");
  return {};
}

template <class Settings>
Expected<std::vector<Settings>> read_tables(std::string_view file, std::string_view key,
                                            const toml::node& node) {
  const auto* tables = node.as_array();
  if (tables == nullptr || !tables->is_homogeneous(toml::node_type::table))
    return TomlPlace{file, key, &node}.wrong(fmt::format("expected tables, each with [[{}]] above it", key));
  std::vector<Settings> all;
  for (const auto& table : *tables) {
    Settings settings;
    settings.place = fmt::format("{}:{}", file, table.source().begin.line);
    for (const auto& [name, value] : *table.as_table())
      if (auto read = read_key({file, name.str(), &value}, settings); !read)
        return std::unexpected(read.error());
    const Table here(file, table);
    if (auto checked = check(here, settings); !checked) return std::unexpected(checked.error());
    if (std::ranges::any_of(all, [&](const Settings& other) { return other.name == settings.name; }))
      return here.wrong("name", fmt::format("found '{}' a second time", *settings.name));
    all.push_back(std::move(settings));
  }
  return all;
}

}  // namespace

Expected<std::vector<QueueSettings>> read_queues(std::string_view file, const toml::node& node) {
  return read_tables<QueueSettings>(file, "queue", node);
}

Expected<std::vector<StageSettings>> read_stages(std::string_view file, const toml::node& node) {
  return read_tables<StageSettings>(file, "stage", node);
}

}  // namespace sluice::tools

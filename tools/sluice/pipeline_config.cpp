#include "tools/sluice/pipeline_config.hpp"

#include "tools/sluice/toml_value.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <limits>
#include <memory>
#include <utility>

namespace sluice::tools {

namespace {

Expected<void> read_key(const TomlPlace& place, PipelineSettings& out) {
  const auto key = place.key;
  if (key == "segment") return read_value(place, out.segment);
  if (key == "size") return read_size(place, out.size);
  if (key == "tcp") return read_value(place, out.tcp);
  if (key == "workers") return read_value(place, out.workers);
  if (key == "sink") return read_value(place, out.sink);
  if (key == "count") return read_value(place, out.count);
  if (key == "queue-capacity") return read_value(place, out.queue_capacity);
  if (key == "buffers") return read_value(place, out.buffers);
  if (key == "buffer-size") return read_size(place, out.buffer_size);
  if (key == "max-connections") return read_value(place, out.max_connections);
  if (key == "share") return read_value(place, out.share);
  if (key == "drain") return read_value(place, out.drain);
  if (key == "status") return read_value(place, out.status);
  if (key == "into") return read_value(place, out.into);
  if (key == "queue") {
    auto queues = read_queues(place.file, *place.node);
    if (!queues) return std::unexpected(queues.error());
    out.queues = std::move(*queues);
    return {};
  }
  if (key == "stage") {
    auto stages = read_stages(place.file, *place.node);
    if (!stages) return std::unexpected(stages.error());
    out.stages = std::move(*stages);
    return {};
  }
  if (key == "ublk") {
    auto devices = read_devices(place.file, *place.node);
    if (!devices) return std::unexpected(devices.error());
    out.devices = std::move(*devices);
    return {};
  }
  return fail(Status::bad_argument,
              fmt::format("{}:{}: unknown key '{}'", place.file, place.node->source().begin.line, key));
}

template <class T>
void take_over(std::optional<T>& setting, const std::optional<T>& over) {
  if (over) setting = over;
}

template <class T>
Expected<void> in_range(std::string_view name, const std::optional<std::uint64_t>& found, std::uint64_t low,
                        std::uint64_t high, T& out) {
  if (!found) return {};
  if (*found < low || *found > high)
    return fail(Status::bad_argument,
                fmt::format("{}: found {}, expected {} to {}", name, *found, low, high));
  out = static_cast<T>(*found);
  return {};
}

Expected<void> in_range(std::string_view name, const std::optional<std::chrono::nanoseconds>& found,
                        std::chrono::nanoseconds low, std::chrono::nanoseconds& out) {
  constexpr auto longest = std::chrono::hours(1);
  if (!found) return {};
  if (*found != std::chrono::nanoseconds::zero() && (*found < low || *found > longest))
    return fail(Status::bad_argument,
                fmt::format("{}: expected 0, or {} ms to 1 h", name,
                            std::chrono::duration_cast<std::chrono::milliseconds>(low).count()));
  out = *found;
  return {};
}

Expected<void> resolve_listener(const PipelineSettings& settings, PipelineConfig& config) {
  const auto endpoint = parse_endpoint(*settings.tcp);
  if (!endpoint) return std::unexpected(endpoint.error());
  config.host = endpoint->host;
  config.port = endpoint->port;
  return {};
}

// Without tables: streams from the ingress to workers that all do the same.
Expected<void> resolve_workers(const PipelineSettings& settings, Topology& topology) {
  const bool count = settings.count.value_or(false);
  if (settings.sink.has_value() == count)
    return fail(Status::bad_argument, count ? "sink and count exclude each other"
                                            : "sink: missing, expected a directory, or count instead");
  if (settings.sink && settings.sink->empty())
    return fail(Status::bad_argument, "sink: empty, expected a directory");
  std::uint64_t workers = workers_default;
  if (auto checked = in_range("workers", settings.workers, 1, 64, workers); !checked) return checked;
  QueueSettings queue;
  queue.name = topology.ingress_into = "ingress";
  queue.kind = "stream";
  StageSettings stage;
  stage.name = "worker";
  stage.from = queue.name;
  stage.workers = workers;
  stage.sink = settings.sink;
  stage.count = settings.count;
  topology.queues.push_back(std::move(queue));
  topology.stages.push_back(std::move(stage));
  return {};
}

// What stages and queues say for themselves is not said for all of them.
Expected<void> resolve_stages(const PipelineSettings& settings, Topology& topology) {
  const std::pair<std::string_view, bool> given[] = {
      {"workers", settings.workers.has_value()},
      {"sink", settings.sink.has_value()},
      {"count", settings.count.has_value()},
  };
  for (const auto& [name, present] : given)
    if (present)
      return fail(Status::bad_argument,
                  fmt::format("{}: found beside [[stage]] tables, where each stage has its own", name));
  if (settings.tcp.has_value() != settings.into.has_value())
    return fail(Status::bad_argument, settings.tcp
                                          ? "into: missing, expected the [[queue]] that the ingress fills"
                                          : "into: found without tcp, which it belongs to");
  topology.ingress_into = settings.into;
  topology.queues = settings.queues;
  topology.stages = settings.stages;
  return {};
}

// What would have no effect was meant for something.
Expected<void> check_no_ingress(const PipelineSettings& settings) {
  if (settings.devices.empty() && settings.stages.empty())
    return fail(Status::bad_argument,
                "tcp: missing, expected HOST:PORT, or [[stage]] or [[ublk]] tables in the configuration");
  const std::pair<std::string_view, bool> given[] = {
      {"into", settings.into.has_value()},
      {"workers", settings.workers.has_value()},
      {"sink", settings.sink.has_value()},
      {"count", settings.count.has_value()},
      {"buffers", settings.buffers.has_value()},
      {"buffer-size", settings.buffer_size.has_value()},
      {"max-connections", settings.max_connections.has_value()},
      {"share", settings.share.has_value()},
  };
  for (const auto& [name, present] : given)
    if (present)
      return fail(Status::bad_argument, fmt::format("{}: found without tcp, which it belongs to", name));
  return {};
}

}  // namespace

void PipelineSettings::override_with(const PipelineSettings& over) {
  if (over.sink || over.count) {
    sink = over.sink;
    count = over.count;
  }
  take_over(segment, over.segment);
  take_over(size, over.size);
  take_over(tcp, over.tcp);
  take_over(into, over.into);
  take_over(workers, over.workers);
  take_over(queue_capacity, over.queue_capacity);
  take_over(buffers, over.buffers);
  take_over(buffer_size, over.buffer_size);
  take_over(max_connections, over.max_connections);
  take_over(share, over.share);
  take_over(drain, over.drain);
  take_over(status, over.status);
}

Expected<PipelineSettings> parse_settings(std::string_view toml, std::string_view name) {
  toml::table table;
  try {
    table = toml::parse(toml, name);
  } catch (const toml::parse_error& error) {
    return fail(Status::bad_argument,
                fmt::format("{}:{}: {}", name, error.source().begin.line, error.description()));
  }
  PipelineSettings settings;
  for (const auto& [key, node] : table)
    if (auto read = read_key({name, key.str(), &node}, settings); !read) return std::unexpected(read.error());
  return settings;
}

Expected<PipelineSettings> read_settings(const std::string& path) {
  constexpr std::size_t bytes_max = 1 << 20;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"), std::fclose);
  if (file == nullptr) return fail_errno(fmt::format("open {}", path));
  std::string text(bytes_max, '\0');
  const auto bytes = std::fread(text.data(), 1, bytes_max, file.get());
  if (std::ferror(file.get()) != 0) return fail_errno(fmt::format("read {}", path));
  if (bytes == bytes_max)
    return fail(Status::bad_argument, fmt::format("{}: not a configuration: over 1 MiB", path));
  text.resize(bytes);
  return parse_settings(text, path);
}

Expected<PipelineConfig> resolve(const PipelineSettings& settings) {
  PipelineConfig config;
  if (!settings.segment || settings.segment->empty())
    return fail(Status::bad_argument, "segment: missing, expected the path of the segment");
  config.segment = *settings.segment;
  config.has_stages = !settings.stages.empty() || !settings.queues.empty();
  auto& topology = config.topology;
  topology.devices = settings.devices;
  if (auto source = settings.tcp ? resolve_listener(settings, config) : check_no_ingress(settings); !source)
    return std::unexpected(source.error());
  if (config.has_stages || settings.tcp)
    if (auto staged =
            config.has_stages ? resolve_stages(settings, topology) : resolve_workers(settings, topology);
        !staged)
      return std::unexpected(staged.error());

  const std::array checks = {
      in_range("size", settings.size, 64 * 1024, std::uint64_t{1} << 44, config.size),
      in_range("queue-capacity", settings.queue_capacity, 2, 1 << 20, topology.queue_capacity),
      in_range("buffers", settings.buffers, 2, 32768, config.buffers),
      in_range("buffer-size", settings.buffer_size, 64, 1 << 20, config.buffer_size),
      in_range("max-connections", settings.max_connections, 1, 65536, config.max_connections),
      in_range("share", settings.share, 0, 32768, config.share),
      in_range("drain", settings.drain, std::chrono::milliseconds(1), config.drain),
      in_range("status", settings.status, std::chrono::milliseconds(10), config.status),
  };
  for (const auto& check : checks)
    if (!check) return std::unexpected(check.error());
  auto plan = plan_of(topology);
  if (!plan) return std::unexpected(std::move(plan.error()));
  config.plan = std::move(*plan);
  return config;
}

std::vector<std::string> PipelineConfig::sinks() const {
  std::vector<std::string> directories;
  for (const auto& stage : topology.stages)
    if (stage.sink) directories.push_back(*stage.sink);
  return directories;
}

Expected<Endpoint> parse_endpoint(std::string_view text) {
  const auto wrong = [&] {
    return fail(
        Status::bad_argument,
        fmt::format("tcp: found '{}', expected HOST:PORT with a numeric host, e.g. 127.0.0.1:9000 or [::1]:0",
                    text));
  };
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return wrong();
  auto host = text.substr(0, colon);
  const auto port = text.substr(colon + 1);
  if (host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string_view::npos)
    return wrong();
  Endpoint endpoint{std::string(host), 0};
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), endpoint.port);
  if (error != std::errc() || end != port.data() + port.size() || host.empty()) return wrong();
  return endpoint;
}

std::string format_endpoint(const Endpoint& endpoint) {
  const bool v6 = endpoint.host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", endpoint.host, v6 ? "]" : "", endpoint.port);
}

}  // namespace sluice::tools

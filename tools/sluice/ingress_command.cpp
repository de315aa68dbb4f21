// `sluice ingress`: the process that receives. `sluice run` starts it; it can stand alone.
#include "io/ingress.hpp"

#include "tools/common/command_line.hpp"
#include "tools/common/format.hpp"
#include "tools/common/json.hpp"
#include "tools/sluice/child_side.hpp"
#include "tools/sluice/commands.hpp"
#include "tools/sluice/pipeline_config.hpp"

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>

namespace sluice::tools {

namespace {

struct IngressFlags {
  std::string segment;
  std::string tcp;
  std::string into;
  std::uint64_t buffer_size = IngressOptions{}.buffer_bytes;
  std::chrono::nanoseconds drain = IngressOptions{}.drain_grace;
  IngressOptions options;
  int ready_fd = -1;
  bool json = false;
};

void print_counters(const IngressCounters& counters, bool json) {
  const auto cut = counters.reset + counters.aborted_at_drain;
  const auto stalls = counters.stalls_no_buffer + counters.stalls_stream_full + counters.stalls_share;
  if (!json) {
    fmt::print("ingress: {} flows: {} closed, {} aborted; {} in {} messages, {} stalls\n", counters.accepted,
               counters.closed, cut, format_size(counters.bytes), counters.messages, stalls);
    return;
  }
  auto document = json_document("sluice.ingress/1");
  document["accepted"] = counters.accepted;
  document["closed"] = counters.closed;
  document["reset"] = counters.reset;
  document["aborted_at_drain"] = counters.aborted_at_drain;
  document["refused_at_drain"] = counters.refused_at_drain;
  document["bytes"] = counters.bytes;
  document["messages"] = counters.messages;
  document["stalls_no_buffer"] = counters.stalls_no_buffer;
  document["stalls_stream_full"] = counters.stalls_stream_full;
  document["stalls_share"] = counters.stalls_share;
  document["accept_pauses"] = counters.accept_pauses;
  document["accept_backoffs"] = counters.accept_backoffs;
  document["stale_completions"] = counters.stale_completions;
  document["bad_buffers"] = counters.bad_buffers;
  print_json(document);
}

ExitCode run_ingress(const IngressFlags& flags) {
  const auto& stop = stop_on_signal();
  std::signal(SIGPIPE, SIG_IGN);
  name_process("ingress");
  auto endpoint = parse_endpoint(flags.tcp);
  if (!endpoint) return report(endpoint.error());
  auto options = flags.options;
  options.host = endpoint->host;
  options.port = endpoint->port;
  options.into = split_names(flags.into);
  options.buffer_bytes =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(flags.buffer_size, ~std::uint32_t{0}));
  options.drain_grace = std::chrono::ceil<std::chrono::milliseconds>(flags.drain);

  auto session = Session::open(flags.segment, "ingress");
  if (!session) return report(session.error());
  auto ingress = Ingress::open(*session, options);
  if (!ingress) return report(ingress.error());
  endpoint->port = (*ingress)->port();
  const auto address = format_endpoint(*endpoint);
  if (flags.ready_fd >= 0) {
    say_ready(flags.ready_fd, address);
  } else if (!flags.json) {
    fmt::print("ready: listening on {}, into {}, segment {}\n", address, flags.into, flags.segment);
    std::fflush(stdout);
  }
  const auto served = (*ingress)->run(stop);
  const bool supervised = flags.ready_fd >= 0;
  if (const auto counters = (*ingress)->counters(); !supervised || counters.accepted != 0)
    print_counters(counters, flags.json);
  return served ? ExitCode::ok : report(served.error());
}

}  // namespace

void add_ingress_command(CLI::App& app) {
  auto* command = app.add_subcommand("ingress", "Receive connections into queues of a segment");
  auto flags = std::make_shared<IngressFlags>();
  auto& options = flags->options;
  command->add_option("--segment", flags->segment, "The segment")->required();
  command->add_option("--tcp", flags->tcp, "HOST:PORT to listen on; host numeric, port 0 for a free one")
      ->required();
  command
      ->add_option("--into", flags->into,
                   "Names of existing streams with commas between, or one work queue or broadcast")
      ->required();
  command->add_option("--buffers", options.buffers, "Blocks to receive into")->capture_default_str();
  add_size_option(*command, "--buffer-size", flags->buffer_size, "Size of each block [32KiB]");
  command->add_option("--max-connections", options.connections_max, "More wait in the backlog")
      ->capture_default_str();
  command
      ->add_option("--share", options.connection_share,
                   "Most blocks of one connection that no worker has taken yet; 0: a quarter")
      ->capture_default_str();
  add_duration_option(*command, "--drain", flags->drain,
                      "Time for open connections to end after SIGTERM [5s]");
  command->add_option("--ready-fd", flags->ready_fd, "Descriptor to write the address to, once it listens");
  command->add_flag("--json", flags->json, "At the end, the counters as one JSON document on stdout");
  on_run(*command, [flags] { return run_ingress(*flags); });
}

}  // namespace sluice::tools

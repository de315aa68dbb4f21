// Which pipelines of stages can run, and what is said of those that cannot.
#include "tools/sluice/pipeline_children.hpp"
#include "tools/sluice/pipeline_config.hpp"

#include "tests/support/must.hpp"

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <string>
#include <string_view>

using namespace sluice;
using namespace sluice::test;
using namespace sluice::tools;
using Catch::Contains;

namespace {

// "queue NAME KIND [LINE…]" and "stage NAME FROM INTO [LINE…]", with - for nothing, as the tables that they stand for.
std::string queue(std::string_view name, std::string_view kind, std::string_view more = "") {
  return fmt::format("[[queue]]\nname = \"{}\"\nkind = \"{}\"\n{}\n", name, kind, more);
}
std::string stage(std::string_view name, std::string_view from, std::string_view into,
                  std::string_view more = "") {
  auto text = fmt::format("[[stage]]\nname = \"{}\"\n{}\n", name, more);
  if (!from.empty()) text += fmt::format("from = \"{}\"\n", from);
  if (!into.empty()) text += fmt::format("into = \"{}\"\n", into);
  return text;
}
const std::string listening = "segment = \"/s\"\ntcp = \"127.0.0.1:0\"\ninto = \"in\"\n";
const std::string sourced = "segment = \"/s\"\n";

Expected<PipelineConfig> configured(const std::string& toml) {
  const auto settings = parse_settings(toml, "p.toml");
  if (!settings) return std::unexpected(settings.error());
  return resolve(*settings);
}

std::string refusal(const std::string& toml) {
  const auto config = configured(toml);
  REQUIRE(!config);
  CHECK(config.error().status == Status::bad_argument);
  CHECK(config.error().message.find('\n') == std::string::npos);
  return config.error().message;
}

constexpr std::string_view count = "count = true";

}  // namespace

TEST_CASE("graph: stages by name become a plan", "[tools][graph]") {
  const auto config = must(
      configured(listening + queue("in", "stream") +
                 queue("jobs", "work", "deliveries-max = 3\ndead-letter = \"dead\"") + queue("dead", "work") +
                 queue("done", "broadcast", "capacity = 64\nsubscribers-max = 4") +
                 stage("parse", "in", "jobs", "workers = 3") +
                 stage("work", "jobs", "done", "run = [\"./work\", \"-v\"]") + stage("a", "done", "", count) +
                 stage("b", "done", "", "count = true\nlagging = \"lose-oldest\"")));
  const auto& plan = config.plan;
  CHECK(plan.ingress_into == 0);
  CHECK(plan.queues.at(0).streams == 3);
  CHECK(plan.queues.at(1).dead_letter == 2);
  CHECK(plan.queues.at(1).deliveries_max == 3);
  CHECK(plan.queues.at(3).capacity == 64);
  CHECK(plan.stages.at(1).from == 1);
  CHECK(plan.stages.at(1).into == 3);
  CHECK(plan.stages.at(3).lagging == SubscriberPolicy::lose_oldest);
  const auto options = supervisor_options(config, 0);
  const auto program = options.worker_command({.stage = 1,
                                               .name = "work-0",
                                               .from = {"jobs"},
                                               .into = {"done"},
                                               .fed_by = {"parse-0", "parse-1"},
                                               .ready_fd = 9});
  CHECK(program.program == "./work");
  CHECK(program.arguments == std::vector<std::string>{"./work", "-v"});
  CHECK(program.environment == std::vector<std::string>{"SLUICE_SEGMENT=/s", "SLUICE_NAME=work-0",
                                                        "SLUICE_FROM=jobs", "SLUICE_INTO=done",
                                                        "SLUICE_FED_BY=parse-0,parse-1",
                                                        "SLUICE_LAGGING=", "SLUICE_READY_FD=9"});
  const auto built_in = options.worker_command({.stage = 0,
                                                .name = "parse-1",
                                                .from = {"in.1"},
                                                .into = {"jobs"},
                                                .fed_by = {"ingress"},
                                                .ready_fd = 5});
  CHECK(built_in.arguments == std::vector<std::string>{"sluice", "worker", "--segment", "/s", "--name",
                                                       "parse-1", "--from", "in.1", "--fed-by", "ingress",
                                                       "--ready-fd", "5", "--into", "jobs"});
}

TEST_CASE("graph: what is not connected is refused", "[tools][graph]") {
  const auto in = queue("in", "work");
  CHECK_THAT(refusal(listening + in + stage("a", "nowhere", "", count)),
             Contains("p.toml:8: stage a: from: found 'nowhere', which is no queue, expected one of in"));
  CHECK_THAT(refusal(listening + in + stage("a", "in", "nowhere")),
             Contains("stage a: into: found 'nowhere'"));
  CHECK_THAT(
      refusal("segment = \"/s\"\ntcp = \"127.0.0.1:0\"\ninto = \"x\"\n" + in + stage("a", "in", "", count)),
      Contains("into: found 'x', which is no queue"));
  CHECK_THAT(refusal("segment = \"/s\"\ntcp = \"127.0.0.1:0\"\n" + in + stage("a", "in", "", count)),
             Contains("into: missing"));
  CHECK_THAT(refusal(sourced + "into = \"in\"\n" + in + stage("a", "in", "", count)),
             Contains("into: found without tcp"));
  CHECK_THAT(refusal(listening + in + queue("idle", "work") + stage("a", "in", "", count) +
                     stage("b", "idle", "", count)),
             Contains("queue idle: nobody publishes into it"));
  CHECK_THAT(refusal(listening + in + queue("full", "work") + stage("a", "in", "full")),
             Contains("queue full: no stage takes from it"));
  CHECK_THAT(refusal(listening + in + stage("a", "in", "")),
             Contains("what the stage takes would go nowhere"));
  CHECK_THAT(refusal(sourced + queue("q", "work") + stage("a", "", "q") + stage("b", "q", "", count)),
             Contains("from: missing, expected a queue"));
  CHECK_THAT(refusal(listening + "workers = 3\n" + in + stage("a", "in", "", count)),
             Contains("workers: found beside [[stage]] tables"));
  // A broadcast may be read by others than stages.
  must(configured(listening + queue("in", "broadcast") + queue("q", "work") + stage("a", "in", "q") +
                  stage("b", "q", "", count)));
  must(configured(sourced + queue("q", "broadcast") + stage("a", "", "q", "run = [\"make\"]")));
}

TEST_CASE("graph: two owners where there can be one are refused", "[tools][graph]") {
  const auto sink_of = [](std::string_view from) { return stage("z", from, "", count); };
  CHECK_THAT(
      refusal(listening + queue("in", "stream") + stage("a", "in", "", count) + stage("b", "in", "", count)),
      Contains("queue in: stage a and stage b take from it, but a stream has one consumer"));
  CHECK_THAT(
      refusal(listening + queue("in", "stream") + stage("a", "", "in", "run = [\"m\"]") + sink_of("in")),
      Contains("queue in: the ingress and stage a publish into it, but a stream has one producer"));
  CHECK_THAT(refusal(listening + queue("in", "work") + queue("s", "stream") +
                     stage("a", "in", "s", "workers = 2") + stage("b", "s", "", "count = true\nworkers = 3")),
             Contains("2 workers of stage a publish into the streams of 3 workers"));
  CHECK_THAT(refusal(listening + queue("in", "work") + queue("s", "broadcast") +
                     stage("a", "in", "s", "workers = 2") + sink_of("s")),
             Contains("2 workers of stage a publish into it, but a broadcast has one producer"));
  CHECK_THAT(refusal(listening + queue("in", "broadcast", "subscribers-max = 2") +
                     stage("a", "in", "", "count = true\nworkers = 3")),
             Contains("3 workers subscribe to it, expected at most 2"));
  CHECK_THAT(refusal(listening + queue("in", "work", "policy = \"fail\"") + sink_of("in")),
             Contains("the ingress waits for room"));
  // One producer may fill the streams of many, and as many as there are consumers one each.
  must(configured(listening + queue("in", "work") + queue("s", "stream") + stage("a", "in", "s") +
                  stage("b", "s", "", "count = true\nworkers = 3")));
  must(configured(listening + queue("in", "work") + queue("s", "stream") +
                  stage("a", "in", "s", "workers = 3") + stage("b", "s", "", "count = true\nworkers = 3")));
}

TEST_CASE("graph: a cycle in which everybody may wait for room is refused", "[tools][graph]") {
  const auto cycle = [](std::string_view more) {
    return listening + queue("in", "work") + queue("a", "work", more) + queue("b", "work") +
           stage("first", "in", "a") + stage("there", "a", "b") + stage("back", "b", "a");
  };
  CHECK_THAT(refusal(cycle("")), Contains("queue a: messages can go round in a cycle (a, b)"));
  must(configured(cycle("policy = \"fail\"")));
  must(configured(cycle("policy = \"drop-oldest\"")));
  // A stage that tries dead letters again.
  CHECK_THAT(refusal(listening + queue("in", "work", "deliveries-max = 2\ndead-letter = \"dead\"") +
                     queue("dead", "work") + stage("a", "in", "", count) + stage("again", "dead", "in")),
             Contains("cycle (in, dead)"));
  CHECK_THAT(refusal(listening + queue("in", "work", "deliveries-max = 2\ndead-letter = \"dead\"") +
                     queue("dead", "work", "deliveries-max = 2\ndead-letter = \"in\"") +
                     stage("a", "in", "", count)),
             Contains("its dead letters come back to it"));
}

TEST_CASE("graph: one queue that drops does not break every cycle that it is on", "[tools][graph]") {
  const auto first = queue("in", "work") + queue("all", "broadcast") + stage("a", "in", "all");
  CHECK_THAT(refusal(listening + first + queue("drops", "work", "policy = \"fail\"") +
                     stage("b", "all", "in") + stage("c", "all", "drops") + stage("d", "drops", "in")),
             Contains("cycle (in, all)"));
  CHECK_THAT(refusal(sourced + queue("s", "stream") + stage("make", "", "s", "run = [\"m\"]") +
                     stage("b", "s", "", "count = true\nworkers = 2")),
             Contains("stage make makes messages for the streams of 2 workers"));
}

TEST_CASE("graph: a file of each flow needs all of the flow's messages", "[tools][graph]") {
  for (const auto* lagging : {"lose-oldest", "disconnect"})
    CHECK_THAT(refusal(listening + queue("in", "broadcast") +
                       stage("a", "in", "", fmt::format("sink = \"d\"\nlagging = \"{}\"", lagging))),
               Contains("some may be dropped before queue in or at it"));
  CHECK_THAT(refusal(listening + queue("in", "stream") + queue("s", "stream", "policy = \"fail\"") +
                     stage("a", "in", "s") + stage("b", "s", "", "sink = \"d\"")),
             Contains("some may be dropped before queue s"));
}

TEST_CASE("graph: a file of each flow needs the flow's messages in order", "[tools][graph]") {
  CHECK_THAT(refusal(listening + queue("in", "work") + stage("a", "in", "", "sink = \"d\"")),
             Contains("stage a: sink: a flow becomes a file from its messages in order"));
  CHECK_THAT(refusal(listening + queue("in", "work") + queue("s", "stream") + stage("a", "in", "s") +
                     stage("b", "s", "", "sink = \"d\"")),
             Contains("stage b: sink:"));
  CHECK_THAT(
      refusal(listening + queue("in", "broadcast") + stage("a", "in", "", "sink = \"d\"\nworkers = 2")),
      Contains("would write the same files"));
  CHECK_THAT(refusal(listening + queue("in", "broadcast") + stage("a", "in", "", "sink = \"d\"") +
                     stage("b", "in", "", "sink = \"d\"")),
             Contains("found 'd', which stage a has already"));
  const auto config =
      must(configured(listening + queue("in", "stream") + queue("s", "broadcast") + stage("a", "in", "s") +
                      stage("b", "s", "", "sink = \"d\"") + stage("c", "s", "", "sink = \"e\"")));
  CHECK(config.sinks() == std::vector<std::string>{"d", "e"});
}

TEST_CASE("graph: keys that mean nothing where they are are refused", "[tools][graph]") {
  const auto with = [](std::string_view kind, std::string_view more) {
    return listening + queue("in", kind, more) + stage("a", "in", "", count);
  };
  CHECK_THAT(refusal(with("stream", "deliveries-max = 3")),
             Contains("deliveries-max: found with kind stream"));
  CHECK_THAT(refusal(with("work", "deliveries-max = 3")), Contains("dead-letter: missing"));
  CHECK_THAT(refusal(with("work", "deliveries-max = 300\ndead-letter = \"d\"")),
             Contains("expected 1 to 255"));
  CHECK_THAT(refusal(with("work", "deliveries-max = 3\ndead-letter = \"d\"")),
             Contains("dead-letter: found 'd'"));
  CHECK_THAT(refusal(with("work", "subscribers-max = 3")), Contains("subscribers-max: found with kind work"));
  CHECK_THAT(refusal(with("stream", "policy = \"drop-oldest\"")), Contains("policy: found with kind stream"));
  CHECK_THAT(refusal(with("broadcast", "policy = \"block\"")), Contains("(lagging)"));
  CHECK_THAT(refusal(with("pipe", "")),
             Contains("kind: found 'pipe', expected one of stream, work, broadcast"));
  CHECK_THAT(refusal(with("work", "capacity = 1")), Contains("capacity: found 1, expected 2 to 1048576"));
  CHECK_THAT(refusal(with("work", "size = 1")), Contains("unknown key 'size' in [[queue]]"));
  CHECK_THAT(
      refusal(listening + queue("in", "work") + stage("a", "in", "", "count = true\nlagging = \"block\"")),
      Contains("lagging: found without a broadcast"));
  CHECK_THAT(refusal(listening + queue("in", "work") + stage("a", "in", "", "count = true\nsink = \"d\"")),
             Contains("found several of these"));
  CHECK_THAT(refusal(listening + queue("in", "work") + stage("a", "in", "", "run = \"ls -l\"")),
             Contains("run: expected a program and its arguments"));
  CHECK_THAT(refusal(listening + queue("in", "work") + stage("a b", "in", "", count)),
             Contains("name: found 'a b', expected 1 to"));
  CHECK_THAT(refusal(listening + queue("in", "work") + queue("in", "work") + stage("a", "in", "", count)),
             Contains("name: found 'in' a second time"));
  CHECK_THAT(refusal(listening + queue("in", "stream") + queue("in.1", "work") + stage("a", "in", "in.1") +
                     stage("b", "in.1", "", count)),
             Contains("queue in.1: that is the name of a stream of queue in"));
}

TEST_CASE("graph: a stage can take what a block device publishes", "[tools][graph]") {
  const std::string disk =
      "[[ublk]]\nname = \"disk\"\ntarget = \"store\"\nsize = \"1MiB\"\npublish = \"changes\"\n";
  const auto config = must(configured(sourced + stage("see", "changes", "", count) + disk));
  CHECK(config.plan.queues.at(0).streams == 0);
  CHECK(supervisor_options(config, 0).devices.at(0).into == 0);
  CHECK_THAT(refusal(sourced + stage("see", "changes", "", "count = true\nworkers = 2") + disk),
             Contains("2 workers take from the stream of device disk"));
  CHECK_THAT(refusal(sourced + stage("see", "changes", "", count) + disk + "mirror = \"copy\"\n"),
             Contains("stage see take from it, but a stream has one consumer"));
  CHECK_THAT(refusal(sourced + queue("changes", "work") + stage("see", "changes", "", count) + disk),
             Contains("device 'disk' publishes into a stream of that name"));
}

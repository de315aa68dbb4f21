// `sluice`: the pipeline's processes, and care for segments.
#include "tools/common/command_line.hpp"
#include "tools/sluice/commands.hpp"

int main(int argc, char** argv) {
  using namespace sluice::tools;
  CLI::App app("Interprocess shared-memory pipelines over one mapped file.");
  set_up_program(app, "sluice");
  add_run_command(app);
  add_ingress_command(app);
  add_worker_command(app);
  add_segment_command(app);
  add_ublk_command(app);
  return run_program(app, argc, argv);
}

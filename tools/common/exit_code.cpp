#include "tools/common/exit_code.hpp"

#include <fmt/format.h>

namespace sluice::tools {

ExitCode exit_code_of(Status status) noexcept {
  switch (status) {
    case Status::ok: return ExitCode::ok;
    case Status::bad_argument:
    case Status::too_large: return ExitCode::usage;
    case Status::not_found: return ExitCode::not_found;
    case Status::incompatible: return ExitCode::incompatible;
    case Status::corrupt: return ExitCode::corrupt;
    case Status::permission:
    case Status::read_only: return ExitCode::permission;
    case Status::shared:
    case Status::busy: return ExitCode::busy;
    case Status::exhausted:
    case Status::no_cell:
    case Status::overflow:
    case Status::full: return ExitCode::no_room;
    case Status::disagreement: return ExitCode::disagreement;
    case Status::exists: return ExitCode::exists;
    case Status::stale:
    case Status::empty:
    case Status::timeout:
    case Status::interrupted:
    case Status::io_error:
    case Status::borrowed:
    case Status::closed:
    case Status::disconnected: return ExitCode::failure;
  }
  return ExitCode::failure;
}

std::string exit_code_footer() {
  std::string text = "Exit codes:\n";
  for (const auto& [code, meaning] : exit_code_meanings)
    text += fmt::format("  {:>2}  {}\n", static_cast<int>(code), meaning);
  return text;
}

}  // namespace sluice::tools

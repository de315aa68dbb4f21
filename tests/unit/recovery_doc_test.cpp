#include "shm/crash_point.hpp"

#include <catch2/catch.hpp>

#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>

namespace {

std::string read(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("docs/recovery.md tells of every crash point, and of no other", "[docs]") {
  const auto text = read(std::string(SLUICE_SOURCE_DIR) + "/docs/recovery.md");
  REQUIRE_FALSE(text.empty());
  std::set<std::string> told;
  const std::regex name("`([a-z_]+\\.[a-z_]+\\.[a-z_]+)`");
  for (std::sregex_iterator it(text.begin(), text.end(), name), end; it != end; ++it) told.insert((*it)[1]);
  std::set<std::string> listed;
  for (const auto point : sluice::crash_point_names) listed.emplace(point);
  CHECK(told == listed);
}

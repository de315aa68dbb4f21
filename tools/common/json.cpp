#include "tools/common/json.hpp"

#include <unistd.h>

namespace sluice::tools {

Json json_document(std::string_view schema) {
  Json document = Json::object();
  document["schema"] = schema;
  return document;
}

namespace {

void print_indented(const Json& document, int indent, std::FILE* out) {
  // A path may hold any bytes; what is not UTF-8 becomes U+FFFD rather than an exception.
  const auto text = document.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
  std::fwrite(text.data(), 1, text.size(), out);
}

}  // namespace

void print_json(const Json& document, std::FILE* out) {
  print_indented(document, isatty(fileno(out)) == 1 ? 2 : -1, out);
}

void print_json_line(const Json& document, std::FILE* out) { print_indented(document, -1, out); }

}  // namespace sluice::tools

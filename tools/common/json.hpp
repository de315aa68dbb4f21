// JSON on stdout. Every document is one object whose first member, `schema`, names its shape and version:
// members may be added within a version, never renamed or removed. docs/tools.md lists the shapes.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdio>
#include <string_view>

namespace sluice::tools {

using Json = nlohmann::ordered_json;

/// An object with its schema, e.g. "sluice.segment.recover/1".
Json json_document(std::string_view schema);

/// One line per call, unless `out` is a terminal: then indented.
void print_json(const Json& document, std::FILE* out = stdout);
/// One line always: for documents that follow each other.
void print_json_line(const Json& document, std::FILE* out = stdout);

}  // namespace sluice::tools

#!/usr/bin/env python3
"""Check that folders include only downward, and that no source file has outgrown its purpose.

usage: include_direction.py [ROOT]      check the tree at ROOT (default: the checkout this script is in)
       include_direction.py --self-test plant one fault of each kind, and check that each is found

exit codes: 0 clean, 1 findings (one line each), 2 usage
"""

import os
import re
import sys
import tempfile

# A folder includes itself and folders of a lower rank. Equal ranks (io, ublk) never include each other.
RANK = {"shm": 0, "ipc": 1, "runtime": 2, "io": 3, "ublk": 3, "tools": 4, "tests": 5}
CPP = (".cpp", ".hpp", ".h")
COUNTED = CPP + (".py", ".sh")
LINES_MAX = 500

INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]')


def files_of(root):
    """Paths, relative to root, of the files in the ranked folders."""
    for folder in RANK:
        for directory, _, names in os.walk(os.path.join(root, folder)):
            for name in sorted(names):
                if name.endswith(COUNTED):
                    yield os.path.relpath(os.path.join(directory, name), root)


def target_of(root, path, included):
    """The ranked folder that an include reaches, or None for the system's headers."""
    beside = os.path.normpath(os.path.join(os.path.dirname(path), included))
    resolved = beside if os.path.exists(os.path.join(root, beside)) else os.path.normpath(included)
    folder = resolved.split(os.sep)[0]
    if os.sep not in resolved or folder not in RANK:
        return None
    return folder


def allowed(source, target):
    return source == target or RANK[target] < RANK[source]


def check_file(root, path):
    source = path.split(os.sep)[0]
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as text:
        lines = text.readlines()
    if len(lines) > LINES_MAX:
        yield f"{path}: {len(lines)} lines, at most {LINES_MAX} are allowed: split it"
    if not path.endswith(CPP):
        return
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        target = target_of(root, path, match[1]) if match else None
        if target and not allowed(source, target):
            yield f"{path}:{number}: {source}/ may not include {target}/: {line.strip()}"


def check(root):
    return [finding for path in files_of(root) for finding in check_file(root, path)]


def write(root, path, text):
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="utf-8") as out:
        out.write(text)


CLEAN = {
    "shm/segment.hpp": '#pragma once\n#include <linux/types.h>\n#include "shm/layout.hpp"\n#include "handle.hpp"\n',
    "shm/layout.hpp": "#pragma once\n",
    "shm/handle.hpp": "#pragma once\n",
    "ipc/lane.hpp": '#include "shm/segment.hpp"\n',
    "io/ingress.cpp": '#include "runtime/session.hpp"\n#include "ipc/lane.hpp"\n',
    "ublk/device.cpp": '#include "runtime/session.hpp"\n',
    "tools/sluice/main.cpp": '#include "io/ingress.hpp"\n#include "ublk/device.hpp"\n',
    "tests/unit/a.cpp": '#include "tools/common/a.hpp"\n#include "shm/layout.hpp"\n',
    "tests/unit/long_enough.cpp": "//\n" * LINES_MAX,
}

# name -> (path, text, a part of the finding)
FAULTS = {
    "upward": ("shm/up.cpp", '#include "ipc/lane.hpp"\n', "shm/ may not include ipc/"),
    "angle brackets": ("ipc/up.cpp", "  #  include <runtime/session.hpp>\n", "ipc/ may not include runtime/"),
    "relative path": ("shm/relative.cpp", '#include "../ipc/lane.hpp"\n', "shm/ may not include ipc/"),
    "io to ublk": ("io/side.cpp", '#include "ublk/device.hpp"\n', "io/ may not include ublk/"),
    "ublk to io": ("ublk/side.cpp", '#include "io/ingress.hpp"\n', "ublk/ may not include io/"),
    "tools to tests": ("tools/common/up.cpp", '#include "tests/support/temp.hpp"\n', "tools/ may not include tests/"),
    "too long": ("runtime/long.cpp", "//\n" * (LINES_MAX + 1), f"{LINES_MAX + 1} lines"),
}


def self_test_one(name, path, text, expected):
    with tempfile.TemporaryDirectory() as root:
        for clean_path, clean_text in CLEAN.items():
            write(root, clean_path, clean_text)
        if path:
            write(root, path, text)
        found = check(root)
    if path and len(found) == 1 and found[0].startswith(path) and expected in found[0]:
        return True
    if not path and not found:
        return True
    print(f"self-test: {name}: expected {expected or 'no finding'}, found {found}", file=sys.stderr)
    return False


def self_test():
    passed = [self_test_one("clean tree", None, None, None)]
    passed += [self_test_one(name, *fault) for name, fault in FAULTS.items()]
    print(f"self-test: {sum(passed)} of {len(passed)} passed")
    return 0 if all(passed) else 1


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 2
    root = arguments[0] if arguments else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    if not os.path.isdir(root):
        print(f"{root}: not a directory", file=sys.stderr)
        return 2
    findings = check(root)
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

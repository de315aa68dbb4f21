#!/bin/sh
# usage: case.sh FILE NAME   one case, with everything that cases share; its directory is $scratch
set -eu
file="$1" name="$2"
scratch="$KERNEL_WORK/$name"
readonly scratch
server="" id="" device=""
cd "$scratch"
set -x
# shellcheck source=/dev/null
. "$KERNEL_SUITE/lib.sh"
# shellcheck source=/dev/null
. "$file"
"case_$name"

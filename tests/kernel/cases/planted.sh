# Only with --self-test: the verdict must tell these apart.
# shellcheck shell=sh

case_planted_success() { true; }

case_planted_failure() {
  true
  false
  true
}

# shellcheck shell=bash
# The virtual machine that has a ublk driver: a Debian kernel, unpacked and never installed, an initramfs with our
# programs, QEMU. Sourced by what runs in it, with `who` set to the word that its messages begin with.

who="${who:-kernel}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
here="$root/tests/kernel"
readonly root here
readonly bin="${SLUICE_BIN_DIR:-$root/build/release/bin}"
readonly work="$root/build/kernel"
readonly initramfs="$work/initramfs"
# shellcheck disable=SC2034  # of whoever sources this
readonly exit_usage=2 exit_missing=3
boot_timeout_s=1500
shows_results=yes  # of the guest, as they come

fail() {  # fail CODE SENTENCE
  echo "$who: $2" >&2
  exit "$1"
}

need() {  # need COMMAND PACKAGE
  command -v "$1" >/dev/null || fail "$exit_missing" "$1 is not there: install the package $2."
}

need_programs() {  # those that are used in both kinds of machines
  local program
  need fio fio
  need mkfs.ext4 e2fsprogs
  need setpriv util-linux
  for program in sluice shm-dump kernel/ublk_probe; do
    [[ -x "$bin/$program" ]] || fail "$exit_missing" "$bin/$program is not there: tools/dev build release."
  done
}

take_the_machine() {  # one at a time: a boot wants all of it, and its logs have one place
  mkdir -p "$work"
  exec 9>"$work/lock"
  flock 9
  : >"$work/results.log"
}

prepare_machine() {
  need qemu-system-x86_64 qemu-system-x86
  need busybox busybox-static
  need cpio cpio
  need xz xz-utils
  unpack_kernel
}

unpack_kernel() {  # the newest 6.12 of this distribution into $work/linux
  local package version
  package="$(apt-cache search --names-only '^linux-image-6\.12.*-cloud-amd64-unsigned$' |
    cut -d' ' -f1 | sort -V | tail -n 1)"
  if [[ -z "$package" ]]; then
    compgen -G "$work/linux/boot/vmlinuz-*" >/dev/null && return 0
    fail "$exit_missing" "apt knows no linux-image-6.12*-cloud-amd64-unsigned: apt-get update, or another release."
  fi
  version="$(apt-cache policy "$package" | sed -n 's/^  Candidate: //p')"
  [[ "$(cat "$work/linux/version" 2>/dev/null)" != "$package=$version" ]] || return 0
  echo "$who: unpacking $package $version"
  rm -rf "$work/linux" "$work/package"
  mkdir -p "$work/linux" "$work/package"
  (cd "$work/package" && apt-get -qq download "$package=$version" 2>"$work/download.log") ||
    fail "$exit_missing" "$package could not be downloaded: $(tail -n 1 "$work/download.log")"
  dpkg -x "$work"/package/*.deb "$work/linux"
  rm -rf "$work/package"
  echo "$package=$version" >"$work/linux/version"
}

put() {  # put INITRAMFS PROGRAM…: each with the libraries that it needs, at their own paths
  local into="$1" program library
  shift
  for program in "$@"; do
    mkdir -p "$into/bin"
    cp -L "$program" "$into/bin/"
    while read -r library; do
      [[ -e "$into$library" ]] || install -D "$library" "$into$library"
    done < <(ldd "$program" 2>/dev/null | grep -o '/[^ ]*')
  done
}

put_module() {  # put_module NAME: into the initramfs; fails if the kernel package does not have it
  local module
  module="$(find "$work/linux/lib/modules" -name "$1.ko.xz")"
  [[ -n "$module" ]] && xz -dc "$module" >"$initramfs/modules/$1.ko"
}

begin_initramfs() {
  local name
  rm -rf "$initramfs"
  mkdir -p "$initramfs"/{bin,dev,proc,sys,tmp,mnt,etc,modules,kernel}
  put "$initramfs" "$(command -v busybox)" "$(command -v fio)" "$(command -v mkfs.ext4)" "$(command -v e2fsck)" \
    "$(command -v setpriv)" "$bin/sluice" "$bin/shm-dump" "$bin/kernel/ublk_probe"
  cp /etc/mke2fs.conf "$initramfs/etc/"
  cp -r "$here"/*.sh "$here/cases" "$initramfs/kernel/"
  for name in ublk_drv virtio_blk; do
    put_module "$name" || fail 1 "the kernel package has no $name.ko.xz."
  done
  for name in $(busybox --list); do
    [[ -e "$initramfs/bin/$name" ]] || ln -s busybox "$initramfs/bin/$name"
  done
  ln -s kernel/init.sh "$initramfs/init"
}

end_initramfs() {  # end_initramfs SCRIPT: what the guest runs, of its /kernel
  printf '%s\n' "$1" >"$initramfs/kernel/entry"
  (cd "$initramfs" && find . | cpio --quiet -o -H newc) >"$work/initramfs.cpio"
  rm -rf "$initramfs"
}

fresh_disk() {
  rm -f "$work"/disk.img "$work"/console*.log "$work"/results*.log
  truncate -s 2G "$work/disk.img"
  : >"$work/results.log"
}

boot() {  # boot first|second: the guest's exit code, as isa-debug-exit makes it: 33 is success
  local code=0 cpus half follower="" log="$work/results-$1.log"
  # Two memory nodes, so that it shows where a queue's memory comes from.
  cpus="$(nproc)"
  cpus="$(( cpus < 4 ? 2 : 4 ))"
  half="$(( cpus / 2 ))"
  : >"$log"
  if [[ "$shows_results" == yes ]]; then
    tail -n +1 -f "$log" --pid="$$" &
    follower=$!
  fi
  timeout -k 10 "$boot_timeout_s" qemu-system-x86_64 \
    -accel tcg,thread=multi -cpu max -smp "$cpus,sockets=2" -m 1536M -nographic -no-reboot \
    -object memory-backend-ram,id=near,size=768M -object memory-backend-ram,id=far,size=768M \
    -numa "node,nodeid=0,memdev=near,cpus=0-$((half - 1))" -numa "node,nodeid=1,memdev=far,cpus=$half-$((cpus - 1))" \
    -kernel "$work"/linux/boot/vmlinuz-* -initrd "$work/initramfs.cpio" \
    -append "console=ttyS0 loglevel=5 panic=-1 oops=panic sysctl.kernel.hung_task_panic=1 sluice.boot=$1" \
    -drive "file=$work/disk.img,if=virtio,format=raw,discard=unmap,cache=unsafe" \
    -serial "file:$work/console-$1.log" -serial "file:$log" \
    -device isa-debug-exit,iobase=0xf4,iosize=4 -monitor none -net none </dev/null >"$work/qemu.log" 2>&1 || code=$?
  if [[ -n "$follower" ]]; then
    sleep 0.5
    kill "$follower" 2>/dev/null || true
    wait "$follower" 2>/dev/null || true
  fi
  cat "$log" >>"$work/results.log"
  cat "$work/console-$1.log" >>"$work/console.log"
  return "$code"
}

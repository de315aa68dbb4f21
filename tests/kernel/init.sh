#!/bin/sh
# The first process of the guest: mounts, modules, a disk, the script that was asked for; then the verdict as the
# machine's exit code.
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
exec </dev/null >/dev/ttyS1 2>&1

# end VALUE: the machine ends with 2 * VALUE + 1; 16 is success.
end() {
  sync
  ublk_probe exit "$1"
  poweroff -f
}

insmod /modules/ublk_drv.ko || end 17
insmod /modules/virtio_blk.ko || end 18
KERNEL_SELF_TEST="$(cat /kernel/self_test 2>/dev/null)"
export KERNEL_SUITE=/kernel KERNEL_WORK=/mnt/work KERNEL_SELF_TEST
case "$(cat /proc/cmdline)" in *sluice.boot=second*) KERNEL_BOOT=second ;; *) KERNEL_BOOT=first ;; esac
export KERNEL_BOOT KERNEL_KEPT=/mnt/kept
if [ "$KERNEL_BOOT" = first ]; then mkfs.ext4 -q -F /dev/vda || end 19; fi
mount /dev/vda /mnt && mkdir -p /mnt/work /mnt/kept || end 19
if [ "$KERNEL_SELF_TEST" = yes ]; then echo "<3>planted: WARNING: not of the kernel" >/dev/kmsg; fi
# shellcheck disable=SC2046  # words are wanted
if sh "/kernel/$(cat /kernel/entry)" $(cat /kernel/chosen 2>/dev/null); then end 16; else end 20; fi

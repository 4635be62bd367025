#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# First process of the private pool: mounts its root and becomes condor_master. Run it only through
# `unshare --mount --pid --fork`: the mounts end with the namespace.
#   pool_init.sh ROOT STATE     both absolute; ROOT is shared and stays read-only, STATE belongs to this pool
set -eu
umask 022
root=$1
state=$2
# Accounts of the root, see pool_root.py.
pilot=59000
condor=59001

cd "$state"
install -d -o "$condor" -g "$condor" -m 755 log spool execute lock run
install -d -m 700 passwords.d tokens.d cred
install -d -o "$pilot" -g "$pilot" -m 700 pilot

# The starter's mount namespace needs a root that is a mount point.
mount --bind "$root" "$root"
mount -o remount,bind,ro,nosuid,nodev "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=1777 tmpfs "$root/var/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount --bind "$state" "$root/pool"
mount --bind "$state/pilot" "$root/home/pilot"
cd /
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root \
    CONDOR_CONFIG=/pool/condor_config condor_master -f

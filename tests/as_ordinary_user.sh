#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run a command as the account that ordinary_user.py describes. Only in a mount namespace of its own:
#   unshare --mount sh as_ordinary_user.sh ETC ID NAME HOME CACHE OPENED COMMAND...
# ETC     folder with passwd, group, subuid and subgid that have the account; the machine's own stay as they are
# CACHE   folder, of the account, that is its ~/.cache/glideflow
# OPENED  file with lines `closed folder:folder below it`: of the first, which is root's alone, the second is shown
set -eu
etc=$1 id=$2 name=$3 home=$4 cache=$5 opened=$6
shift 6

mount --make-rprivate /
mount --bind "$cache" "$home/.cache/glideflow"
for file in passwd group subuid subgid; do
    [ -e "/etc/$file" ] || touch "/etc/$file"
    mount --bind "$etc/$file" "/etc/$file"
done

# What is shown is put together elsewhere first: once a closed folder is covered, what is in it cannot be found.
stage=$etc/stage
mkdir -p "$stage"
mount -t tmpfs -o mode=755 tmpfs "$stage"
while IFS=: read -r closed folder; do
    mkdir -p "$stage$folder"
    mount --rbind "$folder" "$stage$folder"
done < "$opened"
cut -d: -f1 "$opened" | sort -u | while read -r closed; do
    mount --rbind "$stage$closed" "$closed"
done

cd "$home"
# As strict as people set it.
umask 077
exec setpriv --reuid "$id" --regid "$id" --clear-groups \
    env -i "PATH=$PATH" "HOME=$home" "USER=$name" "LOGNAME=$name" "GLIDEFLOW_HOME=$home/instance" LANG=C.UTF-8 "$@"

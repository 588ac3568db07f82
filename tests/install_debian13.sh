#!/usr/bin/env bash
# A Debian 13 with Slurm 24.11 in a folder, beside the Slurm of this machine: what tests/debian13.py enters. About a
# minute and 1 GB, once; later runs find it. Where it cannot be made for want of rights, it says so and ends well: the
# tests on that version are skipped then. Any other failure is a failure.
set -euo pipefail
ROOT=${TANDA_DEBIAN13:-/var/cache/tanda-tests/debian13}
# The last line is what this machine's Python and the packages of its environment load from the system.
PACKAGES="slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin mariadb-server munge procps
    libbz2-1.0 libcrypt1 libexpat1 libffi8 liblzma5 libncursesw6 libreadline8t64 libsqlite3-0 libssl3t64 libuuid1 zlib1g"
MADE_BY=$(sha256sum "$0" | cut -d' ' -f1)
[ "$(cat "$ROOT/etc/tanda-made-by" 2>/dev/null)" != "$MADE_BY" ] || exit 0
skip() {
    echo "no second Slurm: $1; the tests on version 24.11 will be skipped" >&2
    exit 0
}
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    skip "only root on Debian can make it"
fi
unshare --mount mount -t tmpfs none /mnt 2>/dev/null || skip "nothing may be mounted here"

mkdir -p "$(dirname "$ROOT")"
exec 9>"$ROOT.lock"
flock 9
[ "$(cat "$ROOT/etc/tanda-made-by" 2>/dev/null)" != "$MADE_BY" ] || exit 0
# The mirror that this system itself is installed from.
mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian|Debian|//p' | head -n 1
}
command -v debootstrap >/dev/null && [ -n "$(mirror)" ] || apt-get update -qq
command -v debootstrap >/dev/null ||
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
MIRROR=$(mirror)
[ -n "$MIRROR" ] || { echo "$0: apt names no mirror of Debian" >&2; exit 1; }

NEW=$ROOT.new
rm -rf --one-file-system "$NEW"
log=$(mktemp)
trap 'rm -rf --one-file-system "$NEW" "$log"' EXIT
# In a mount namespace of its own: whatever debootstrap mounts is gone with it, however it ends.
make_root() {
    debootstrap --variant=minbase trixie "$1" "$2"
    cp /etc/resolv.conf "$1/etc/resolv.conf"
    cp -r /etc/apt/apt.conf.d/. "$1/etc/apt/apt.conf.d/"
    # What cleans caches or is of programs that are not there; no daemon of the packages' own is to start.
    rm -f "$1"/etc/apt/apt.conf.d/{docker-*,20packagekit,50appstream}
    printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
    chmod +x "$1/usr/sbin/policy-rc.d"
    inside=(chroot "$1" env PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive)
    "${inside[@]}" apt-get update -qq
    "${inside[@]}" apt-get install -y -qq --no-install-recommends $3
    "${inside[@]}" apt-get clean
}
export -f make_root
if ! unshare --mount bash -euo pipefail -c 'make_root "$@"' make_root "$NEW" "$MIRROR" "$PACKAGES" \
    >"$log" 2>&1 </dev/null 9>&-; then
    tail -n 30 "$log" >&2
    echo "$0: Debian 13 could not be made in $ROOT" >&2
    exit 1
fi
echo "$MADE_BY" >"$NEW/etc/tanda-made-by"
rm -rf --one-file-system "$ROOT"
mv "$NEW" "$ROOT"

#!/usr/bin/env bash
# The Debian packages that the tests use: a real Slurm cluster, a real browser, and a LaTeX with booktabs. Does nothing
# where they are there.
set -euo pipefail
wanted=()
command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v sbatch >/dev/null ||
    wanted+=(slurmctld slurmd slurm-client)
command -v munged >/dev/null || wanted+=(munge)
command -v slurmdbd >/dev/null && command -v mariadbd >/dev/null ||
    wanted+=(slurmdbd slurm-wlm-mysql-plugin mariadb-server)
command -v chromium >/dev/null || wanted+=(chromium)
command -v pdflatex >/dev/null || wanted+=(texlive-latex-recommended)
[ ${#wanted[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${wanted[*]}; install them, or run as root on Debian; their tests will be skipped" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# No daemon of the packages' own is to start: the tests bring up and take down their own cluster.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null

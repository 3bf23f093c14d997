#!/usr/bin/env bash
# Train on several machines: start this script, with the same variables and arguments, once on each of them.
#
# Usage: NNODES=2 MASTER=node1:29500 launch/several_nodes.sh --config FILE.yaml [OPTION OF `hiso_pl fit` ...]
#
# Variables:
#   NNODES         how many machines take part. Required.
#   MASTER         HOST:PORT of the rendezvous. HOST is one of the machines, under a name by which it knows itself and the
#                  others reach it; PORT is free there. Required. No node rank is needed: the c10d rendezvous deals them.
#   NPROC          ranks on this machine (default: the GPUs that torch sees, at least 1).
#   RUN_ID         the rendezvous' name, the same everywhere (default: hiso_pl). Set it when launches share a MASTER.
#   MAX_RESTARTS   how often the ranks are started again when one dies (default 3). The run resumes from its folder, and
#                  another machine may then hold rank 0, so --trainer.default_root_dir has to be on a file system that
#                  all machines share.
#   LOCAL_ADDR     the address by which the other machines reach this one, for instance 10.0.0.2 (default: its full host
#                  name). Set it on all machines where one's host name cannot be resolved by the others, or is the loopback
#                  to itself, as on Debian; HOST is then the LOCAL_ADDR of one of them.
#   GLOO_SOCKET_IFNAME   the network interface of the exchange, for instance eth0 ("ip route get <HOST>" names it). Set it
#                  when the ranks lose one another at the start: gloo otherwise takes the interface that the machine's own
#                  host name resolves to, which is often the loopback. NCCL_SOCKET_IFNAME is the same for nccl. Where all
#                  machines name it alike, --trainer.strategy.init_args.interface eth0 says it to both, and checks it.
#   HISO_PL_PYTHON, HISO_PL_VENV   see launch/environment.sh.
#
# The rendezvous and gloo are not authenticated: use them on a network that you trust.
set -euo pipefail

here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"

if [[ ! "${NNODES:-}" =~ ^[1-9][0-9]*$ ]]; then
    echo "hiso_pl: NNODES='${NNODES:-}' must be the number of machines, for instance NNODES=2" >&2
    exit 2
fi
if [[ ! "${MASTER:-}" =~ ^.+:[0-9]+$ ]]; then
    echo "hiso_pl: MASTER='${MASTER:-}' must be HOST:PORT of the rendezvous, for instance MASTER=node1:29500" >&2
    exit 2
fi
source "$here/environment.sh"

meeting=(--nnodes "$NNODES" --rdzv-endpoint "$MASTER" --rdzv-id "${RUN_ID:-hiso_pl}")
[[ -z "${LOCAL_ADDR:-}" ]] || meeting+=(--local-addr "$LOCAL_ADDR")

# exec: a signal sent to this script has to reach the launcher, which hands it to the ranks.
exec "$python" -m hiso_pl launch "${meeting[@]}" --nproc "${NPROC:-auto}" --max-restarts "${MAX_RESTARTS:-3}" fit "$@"

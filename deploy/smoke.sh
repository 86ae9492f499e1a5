#!/usr/bin/env bash
# The containers, proved from nothing: engine, images, every promise of docker-compose.yml's cpu profile, and away again.
# It ends with another status than 0 on the first miss. About ten minutes on 2 cores, most of them building.
#
#   deploy/smoke.sh [--write-docs] [--keep-images]
#
# --write-docs   put the output into docs/deploy.md
# --keep-images  leave what was built in the engine; a private engine goes with all that it holds
#
# It uses a running Docker engine, or installs and starts a private one (Debian, as root; the packages stay). Public
# images that cannot be pulled are replaced by stand-ins (STANDIN_CACHE: a folder that keeps their root file system
# between runs). pip's own settings (PIP_FIND_LINKS, PIP_CERT) serve the builds too.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

write_docs="" keep_images="" checking="" client=""
home=$(mktemp -d "${TMPDIR:-/tmp}/omgsr-smoke.XXXXXX")
report="$home/report" log="$home/log"

source deploy/engine.sh

export COMPOSE_PROJECT_NAME=omgsr-smoke COMPOSE_PROFILES=cpu OMGSR_VERSION=smoke
export REST_PORT=${REST_PORT:-18000} GRPC_PORT=${GRPC_PORT:-15051}
# Two workers and their caller share a small machine; the lease is short so that a dead worker's job is soon taken back.
export OMGSR_MAX_DEVICE_BYTES=2000000000 OMGSR_THREADS=1 OMGSR_LEASE_S=6

# ---- Telling ---------------------------------------------------------------------------------------------------------

say() {
    printf '%s\n' "$*" | tee -a "$report" >&3
}

begin() {
    checking=$1 began=$SECONDS
    printf '\n==== %s\n' "$1"
}

# Ends what `begin` began, with a word about what was found.
ok() {
    say "ok    $checking${1:+: $1} ($((SECONDS - began)) s)"
    checking=""
}

give_up() {
    echo "$*"
    exit 1
}

# Tries a command again and again, for so many seconds.
within() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < until)) || return 1
        sleep 0.5
    done
}

# ---- Coming up -------------------------------------------------------------------------------------------------------

come_up() {
    begin "docker compose --profile cpu up -d --build --wait"
    if [[ -d ${PIP_FIND_LINKS:-} ]]; then
        export WHEELS_DIR=${WHEELS_DIR:-$PIP_FIND_LINKS} TORCH_CPU_INDEX=${TORCH_CPU_INDEX-}
    fi
    export CA_BUNDLE=${CA_BUNDLE:-${PIP_CERT:-/dev/null}}
    unset COMPOSE_PROFILES
    docker compose --profile cpu up -d --build --wait --wait-timeout 600
    export COMPOSE_PROFILES=cpu
    ok "$(docker compose ps --format '{{.Service}}' | sort | xargs)"
}

# A client on the host's network, so that the checks go through the published ports.
start_client() {
    client=$(docker run --detach --init --network host --volume "$PWD/deploy/smoke_checks.py:/smoke_checks.py:ro" \
        --entrypoint sleep omgsr-worker-cpu:smoke infinity)
}

ask() {
    docker exec "$client" python /smoke_checks.py --rest "http://127.0.0.1:$REST_PORT" --grpc "127.0.0.1:$GRPC_PORT" "$@"
}

# The only container of a service.
container() {
    docker compose ps --quiet "$1"
}

inspect() {
    docker inspect --format "$2" "$1"
}

# ---- Checks ----------------------------------------------------------------------------------------------------------

check_images() {
    begin "api image: at most 250 MB above its base, no torch"
    local above=$((($(inspect omgsr-api:smoke '{{.Size}}') - $(inspect "$PYTHON_IMAGE" '{{.Size}}')) / 1000000))
    ((above <= 250)) || give_up "$above MB"
    docker run --rm --entrypoint python omgsr-api:smoke -c \
        'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is not None)'
    ok "$above MB"

    begin "worker image: the mini model and the sample photo are inside, and sound"
    docker run --rm omgsr-worker-cpu:smoke models verify | grep sound
    docker run --rm --entrypoint python omgsr-worker-cpu:smoke -c \
        'from service.settings import BUNDLED_MODELS as m; (m / "sample.jpg").stat()'
    ok "$(($(inspect omgsr-worker-cpu:smoke '{{.Size}}') / 1000000)) MB in all"

    begin "no build secret in a layer"
    local image
    for image in omgsr-api:smoke omgsr-worker-cpu:smoke; do
        [[ -z $(docker run --rm --user 0 --entrypoint find "$image" /run/secrets /wheels -type f -size +0 || true) ]]
    done
    ok

    begin "the api listens in less than 2 s"
    local took="" fastest=99
    for _ in 1 2 3; do
        docker compose restart api
        took=$(within 10 api_start_seconds)
        fastest=$(printf '%s\n' "$took" "$fastest" | sort --numeric-sort | head -n 1)
    done
    awk -v took="$fastest" 'BEGIN {exit !(took < 2)}' || give_up "$fastest s"
    docker compose up -d --no-build --wait
    ok "$fastest s from the container's start, the best of three"
}

# From the container's start to the line in its log.
api_start_seconds() {
    local id started
    id=$(container api) && started=$(inspect "$id" '{{.State.StartedAt}}')
    docker logs --since "$started" "$id" 2>&1 | sed -n 's/.*"event": "listening".*"timestamp": "\([^"]*\)".*/\1/p' |
        { read -r heard && seconds_between "$started" "$heard"; }
}

seconds_between() {
    awk -v from="$(date -d "$1" +%s.%N)" -v to="$(date -d "$2" +%s.%N)" 'BEGIN {printf "%.2f\n", to - from}'
}

check_containers() {
    begin "containers run as users that are not root, without capabilities, on roots that cannot be written to"
    local each
    for each in $(docker compose ps --quiet); do
        [[ $(docker exec "$each" id -u) != 0 ]]
        docker exec "$each" grep '^CapEff:.0000000000000000$' /proc/1/status
        [[ $(inspect "$each" '{{.HostConfig.ReadonlyRootfs}}') == true ]]
        ! docker exec "$each" sh -c ': > /written' || give_up "$each wrote to its root"
    done
    ok "$(docker compose ps --format '{{.Service}}' | wc -l) containers"

    begin "nothing but REST and gRPC is published, on loopback"
    local published
    published=$(docker compose ps --format '{{.Ports}}' | tr ',' '\n' | grep -e '->' | sed 's/^ *//' | sort | xargs)
    [[ $published == "127.0.0.1:$GRPC_PORT->50051/tcp 127.0.0.1:$REST_PORT->8000/tcp" ]] || give_up "$published"
    ok
}

check_answers() {
    local found
    begin "a POST answers the image that the bare pipeline makes"
    found=$(ask rest)
    ok "$found"
    begin "gRPC streams"
    found=$(ask stream)
    ok "$found"
}

# The first value of an instant query, within the container that may ask.
measured() {
    docker compose exec -T prometheus promtool query instant http://127.0.0.1:9090 "$1" | sed -n 's/.*=> \([^ ]*\) @.*/\1/p'
}

measures() {
    [[ $(measured "$1") == "$2" ]]
}

check_prometheus() {
    begin "Prometheus sees both targets and the requests"
    within 60 measures 'sum(up{job="omgsr-api"})' 1
    within 60 measures 'sum(up{job="omgsr-worker"})' 1
    within 60 measures 'sum(omgsr_request_duration_seconds_count{code="200"}) > bool 0' 1
    ok "omgsr_request_duration_seconds_count $(measured 'sum(omgsr_request_duration_seconds_count)')"
}

# The process of a container that is the program itself: the engine's init is its parent.
program() {
    pgrep --parent "$(inspect "$(container "$1")" '{{.State.Pid}}')"
}

check_killed_worker() {
    begin "the worker's process is killed in mid-job: it is started again, the job finishes"
    local jobs
    jobs=$(ask submit --running)
    kill -KILL "$(program worker-cpu)"
    # shellcheck disable=SC2086
    ask collect $jobs
    (($(inspect "$(container worker-cpu)" '{{.RestartCount}}') == 1))
    docker compose up -d --no-build --wait
    ok
}

check_restarted_queue() {
    begin "the queue's server is restarted: accepted jobs survive"
    local jobs
    jobs=$(ask submit --count 4 --width 240 --running)
    docker compose restart redis
    # shellcheck disable=SC2086
    ask collect --width 240 $jobs
    ok "4 jobs"

    begin "the queue's server is killed: what is older than a second survives"
    jobs=$(ask submit --count 4 --width 240)
    sleep 2
    kill -KILL "$(program redis)"
    # shellcheck disable=SC2086
    ask collect --width 240 $jobs
    docker compose up -d --no-build --wait
    ok "4 jobs"
}

check_drain() {
    begin "stop drains: a worker ends its running job before it goes"
    local jobs status
    jobs=$(ask submit --running)
    docker compose stop worker-cpu
    [[ $(stopped_with worker-cpu) == 0 ]]
    status=$(ask state "$jobs")
    [[ $status == succeeded ]] || give_up "the job is $status"
    docker compose up -d --no-build --wait
    ok "exit status 0, the job has succeeded"

    begin "stop drains: an api answers its running request before it goes"
    ask answer &
    local waiting=$!
    within 20 a_job_runs
    docker compose stop api
    wait "$waiting"
    [[ $(stopped_with api) == 0 ]]
    docker compose up -d --no-build --wait
    ok "exit status 0, the answer was 200"
}

stopped_with() {
    inspect "$(docker compose ps --all --quiet "$1")" '{{.State.ExitCode}}'
}

a_job_runs() {
    docker compose exec -T api omgsr jobs list | grep running
}

check_two_workers() {
    begin "two workers by --scale"
    docker compose up -d --no-build --no-recreate --wait --scale worker-cpu=2
    within 60 measures 'sum(up{job="omgsr-worker"})' 2
    within 60 measures 'max(omgsr_workers_alive)' 2
    local jobs
    jobs=$(ask submit --count 6 --width 240)
    # shellcheck disable=SC2086
    ask collect --width 240 $jobs
    within 60 measures 'count(sum by (instance) (omgsr_batch_size_count) > 0)' 2
    ok "6 jobs, both worked"
}

# Two projects on one engine stand for two nodes: the second has the first one's queue and blob store, and nothing else.
check_two_nodes() {
    begin "a second node's worker, with only the queue and the blob store of the first"
    local address jobs
    address=$(docker network inspect bridge --format '{{(index .IPAM.Config 0).Gateway}}')
    export REDIS_PASSWORD=Between2Nodes NODE_ADDRESS=$address REDIS_PORT=16379
    docker compose -f docker-compose.yml -f deploy/first-node.yml up -d --no-build --wait
    on_second_node up -d --no-build --no-deps --wait worker-cpu
    docker compose stop worker-cpu
    jobs=$(ask submit --count 2 --width 240)
    # shellcheck disable=SC2086
    ask collect --width 240 $jobs
    on_second_node down --volumes
    ok "2 jobs"
}

on_second_node() {
    COMPOSE_PROJECT_NAME=omgsr-smoke-2 REDIS_URL="redis://:$REDIS_PASSWORD@$NODE_ADDRESS:$REDIS_PORT/0" \
        STATE=$(docker volume inspect omgsr-smoke_state --format '{{.Mountpoint}}') docker compose "$@"
}

check_gpu_profile() {
    begin "the gpu profile is the default, and reserves one device"
    local services
    services=$(env -u COMPOSE_PROFILES docker compose config --services | sort | xargs)
    [[ $services == "api prometheus redis worker" ]] || give_up "$services"
    env -u COMPOSE_PROFILES docker compose config worker | grep -A 5 'devices:' | tr -d ' \n' |
        grep -F -e '-capabilities:-gpudriver:nvidiadevice_ids:-"0"'
    ok "not run: there is no GPU"
}

# ---- Going away ------------------------------------------------------------------------------------------------------

finish() {
    local status=$?
    trap - EXIT
    set +Ee
    if ((status)); then
        say "MISS  $checking"
        docker compose logs --tail 20
        cp "$log" "${TMPDIR:-/tmp}/omgsr-smoke.log"
        tail -n 60 "$log" >&3
        say "All of it is in ${TMPDIR:-/tmp}/omgsr-smoke.log"
    fi
    take_down || status=1
    stop_private_engine || status=1
    ((status)) || say "ok    all of it holds ($SECONDS s)"
    ((status)) || [[ -z $write_docs ]] || put_into_docs
    rm -rf "$home"
    exit "$status"
}

take_down() {
    engine_answers || return 0
    begin "everything is removed"
    [[ -z $client ]] || docker rm --force "$client"
    local images
    for COMPOSE_PROJECT_NAME in omgsr-smoke-2 omgsr-smoke; do
        COMPOSE_PROFILES=gpu,two-gpus,cpu,dashboards docker compose down --volumes --remove-orphans
    done
    if [[ -z $keep_images ]]; then
        images=$(docker image ls --quiet --filter reference='omgsr-*:smoke' --filter reference='omgsr-standin/*')
        # shellcheck disable=SC2086
        [[ -z $images ]] || docker image rm --force $images
    fi
    local left
    left=$(docker ps --all --quiet --filter name=omgsr-smoke && docker volume ls --quiet --filter name=omgsr-smoke &&
        docker network ls --quiet --filter name=omgsr-smoke)
    [[ -z $left ]] || { say "MISS  left behind: $left"; return 1; }
    ok "containers, volumes, networks${keep_images:-, images}"
}

put_into_docs() {
    {
        sed '/<!-- smoke -->/q' docs/deploy.md
        printf '```text\n# deploy/smoke.sh, %s, %s cores\n' "$(date -u +%F)" "$(nproc)"
        cat "$report"
        printf '```\n'
        sed -n '/<!-- \/smoke -->/,$p' docs/deploy.md
    } > "$home/deploy.md"
    cp "$home/deploy.md" docs/deploy.md
}

main() {
    local option
    for option in "$@"; do
        case $option in
            --write-docs) write_docs=yes ;;
            --keep-images) keep_images=" but not the images" ;;
            *)
                sed -n '2,/^set/p' deploy/smoke.sh | sed '$d; s/^# \{0,1\}//'
                rm -r "$home"
                exit 2
                ;;
        esac
    done
    exec 3>&1 >> "$log" 2>&1
    trap finish EXIT
    trap 'exit 130' INT TERM
    find_engine
    find_bases
    come_up
    start_client
    check_images
    check_containers
    check_answers
    check_prometheus
    check_killed_worker
    check_restarted_queue
    check_drain
    check_two_workers
    check_two_nodes
    check_gpu_profile
}

main "$@"

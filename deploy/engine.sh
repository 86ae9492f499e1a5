# shellcheck shell=bash
# For smoke.sh: a Docker engine, and the images that others publish. Needs $home (a folder of this run's own) and `ok`.

: "${home:?}"
private_engine_pid=""

# A running engine with compose, or a private one in $home, on Debian as root.
find_engine() {
    begin "a Docker engine with compose"
    if engine_answers; then
        ok "the running engine $(docker version --format '{{.Server.Version}}'), compose $(docker compose version --short)"
        return
    fi
    [[ $EUID == 0 && -f /etc/debian_version ]] || give_up "No engine answers. As root on Debian a private one is made."
    install_engine
    engine_answers || start_private_engine
    ok "a private engine $(docker version --format '{{.Server.Version}}'), compose $(docker compose version --short)"
}

engine_answers() {
    docker info && docker compose version
}

# Debian 12's own engine is too old for compose 2: these few packages come from Debian 13, on Debian 12's runc.
install_engine() {
    command -v dockerd && command -v debootstrap && docker compose version && return
    local list=/etc/apt/sources.list.d/omgsr-smoke.list pins=/etc/apt/preferences.d/omgsr-smoke
    if grep -q '^12' /etc/debian_version; then
        echo 'deb http://deb.debian.org/debian trixie main' > "$list"
        printf '%s\n' 'Package: *' 'Pin: release n=trixie' 'Pin-Priority: -1' '' \
            'Package: docker.io docker-compose docker-buildx docker-cli' 'Pin: release n=trixie' 'Pin-Priority: 700' > "$pins"
    fi
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        docker.io docker-cli docker-compose docker-buildx iptables debootstrap
    rm -f "$list" "$pins"
}

start_private_engine() {
    keep_network_settings
    mkdir -p "$home/engine"
    export DOCKER_HOST="unix://$home/engine/docker.sock"
    setsid dockerd --host "$DOCKER_HOST" --data-root "$home/engine/data" --exec-root "$home/engine/exec" \
        --pidfile "$home/engine/pid" > "$home/engine/log" 2>&1 &
    private_engine_pid=$!
    within 60 docker info || give_up "The engine does not start: $(tail -n 5 "$home/engine/log")"
}

stop_private_engine() {
    [[ -n $private_engine_pid ]] || return 0
    begin "the private engine is gone, the firewall is as it was"
    kill "$private_engine_pid"
    within 60 process_gone "$private_engine_pid"
    awk -v under="$home/" 'index($2, under) == 1 {print $2}' /proc/mounts | sort -r | xargs --no-run-if-empty umount
    restore_network_settings
    ok
}

process_gone() {
    ! kill -0 "$1" 2> /dev/null
}

# An engine opens forwarding, closes its policy, and leaves both so.
keep_network_settings() {
    cat /proc/sys/net/ipv4/ip_forward > "$home/ip_forward"
    iptables-save > "$home/iptables"
}

restore_network_settings() {
    local table chain
    for table in nat filter; do
        iptables --table "$table" --flush
        iptables --table "$table" --delete-chain
    done
    for chain in INPUT FORWARD OUTPUT; do
        iptables --policy "$chain" ACCEPT
    done
    iptables-restore < "$home/iptables"
    ip link delete docker0 || true
    cat "$home/ip_forward" > /proc/sys/net/ipv4/ip_forward
}

# The public images if they are here or can be pulled, else stand-ins of Debian's packages.
find_bases() {
    begin "base images"
    export PYTHON_IMAGE=${PYTHON_IMAGE:-python:3.11-slim-bookworm}
    if have_image "$PYTHON_IMAGE"; then
        ok "$PYTHON_IMAGE, and those that docker-compose.yml names"
        return
    fi
    have_image omgsr-standin/debian:bookworm || import_debian
    local name
    for name in python redis prometheus; do
        docker build --quiet --target "$name" --tag "omgsr-standin/$name" deploy/standin
    done
    export PYTHON_IMAGE=omgsr-standin/python REDIS_IMAGE=omgsr-standin/redis PROMETHEUS_IMAGE=omgsr-standin/prometheus
    ok "none can be pulled: stand-ins of Debian's packages"
}

have_image() {
    docker image inspect "$1" > /dev/null || timeout 120 docker pull --quiet "$1"
}

# Kept as a file between runs where $STANDIN_CACHE names a folder.
import_debian() {
    local tree="${STANDIN_CACHE:-$home}/debian-bookworm.tar"
    if [[ ! -f $tree ]]; then
        debootstrap --variant=minbase bookworm "$home/debian" http://deb.debian.org/debian
        tar --directory "$home/debian" --create --file "$tree" .
        rm -rf "$home/debian"
    fi
    docker import "$tree" omgsr-standin/debian:bookworm
}

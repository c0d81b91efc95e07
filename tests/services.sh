#!/bin/sh
# Makes sure that the servers which the tests start by themselves are installed: RabbitMQ, PostgreSQL and tinyproxy.
# As root it installs what is missing (Debian, Ubuntu) without starting anything; otherwise it says what to do.
set -eu

policy=/usr/sbin/policy-rc.d

has_rabbitmq() {
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null
}

has_postgresql() {
    for program in /usr/lib/postgresql/*/bin/initdb; do
        [ ! -x "$program" ] || return 0
    done
    command -v initdb >/dev/null
}

has_tinyproxy() {
    [ -x /usr/bin/tinyproxy ] || [ -x /usr/sbin/tinyproxy ] || command -v tinyproxy >/dev/null
}

missing() {
    has_rabbitmq || echo rabbitmq-server
    has_postgresql || echo postgresql
    has_tinyproxy || echo tinyproxy-bin # without Debian's service
}

fail() { # sentence
    echo "$1" >&2
    exit 69
}

# Debian starts every service it installs, unless this program forbids it.
forbid_starting() {
    trap allow_starting EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ -e "$policy" ] || [ -L "$policy" ]; then
        mv "$policy" "$policy.before-tests"
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

allow_starting() {
    rm -f "$policy"
    if [ -e "$policy.before-tests" ] || [ -L "$policy.before-tests" ]; then
        mv "$policy.before-tests" "$policy"
    fi
}

install_without_starting() { # packages
    echo "tests: installing $*" >&2
    forbid_starting
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends "$@"; } >&2
}

packages=$(missing | tr '\n' ' ')
packages=${packages% }
[ -n "$packages" ] || exit 0

[ "$(id -u)" = 0 ] || fail "The tests need these packages, please install them: $packages."
command -v apt-get >/dev/null || fail "The tests need these packages, and there is no apt-get to install them: $packages."

# shellcheck disable=SC2086 # one word for each package
install_without_starting $packages || fail "Could not install the packages that the tests need: $packages."
[ -z "$(missing)" ] || fail "These packages were installed, but their servers are not found: $packages."

#!/bin/sh
# wrk as a client: many connections, kept alive and short. Prints a line per check, as TAP does, and
# exits 1 if one failed.
#
#   BATON_URL=http://127.0.0.1:8000 tests/clients/wrk.sh
set -u

: "${BATON_URL:?}"
number=0
failed=0

# check NAME [ARGUMENT...]
check() {
    name=$1
    shift
    number=$((number + 1))
    output=$(wrk --threads 2 --timeout 20s "$@" 2>&1)
    # wrk counts these only if there were some.
    if echo "$output" | grep -q 'Socket errors\|Non-2xx' || ! echo "$output" | grep -q '^Requests/sec: *[1-9]'; then
        failed=$((failed + 1))
        echo "not ok $number - $name"
        echo "$output" | sed 's/^/  # /'
    else
        echo "ok $number - $name ($(echo "$output" | sed -n 's/^Requests\/sec: *\(.*\)/\1/p') requests a second)"
    fi
}

check '500 connections are kept alive' --connections 500 --duration 3s "$BATON_URL/whoami"
check 'a connection for each request' --connections 64 --duration 3s --header 'Connection: close' "$BATON_URL/whoami"

echo "1..$number"
[ "$failed" -eq 0 ]

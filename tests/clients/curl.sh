#!/bin/sh
# curl as a client. Prints a line per check, as TAP does, and exits 1 if one failed.
#
#   BATON_URL=http://127.0.0.1:8000 tests/clients/curl.sh
set -u

: "${BATON_URL:?}"
number=0
failed=0
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT

curl() {
    command curl --silent --show-error --noproxy '*' --max-time 30 "$@"
}

# check NAME EXPECTED ACTUAL
check() {
    number=$((number + 1))
    if [ "$2" = "$3" ]; then
        echo "ok $number - $1"
    else
        failed=$((failed + 1))
        printf 'not ok %s - %s\n  # expected: %s\n  # actual:   %s\n' "$number" "$1" "$2" "$3"
    fi
}

code() {
    curl --output /dev/null --write-out '%{http_code}' "$@"
}

head -c 1000000 /dev/urandom >"$dir/body"

check 'GET /whoami names a worker' 1 \
    "$(curl "$BATON_URL/whoami" | grep -c '^handled by worker [0-9]* (pid [0-9]*)$')"
check 'GET /healthz' 200 "$(code "$BATON_URL/healthz")"
check 'GET / is a page' 'text/html; charset=utf-8' \
    "$(curl --output /dev/null --write-out '%{content_type}' "$BATON_URL/")"
check 'HEAD / has no body' 0 "$(curl --head --output /dev/null --write-out '%{size_download}' "$BATON_URL/")"
check '404' 404 "$(code "$BATON_URL/nowhere")"
check '405' 405 "$(code --request DELETE "$BATON_URL/whoami")"
check '405 names what is allowed' 1 \
    "$(curl --dump-header - --output /dev/null --request DELETE "$BATON_URL/whoami" | grep -ci '^allow: .*GET')"
# curl sends Expect: 100-continue with a body of this size.
check 'POST /echo, sized, gives back a body of a million bytes' '' \
    "$(curl --data-binary "@$dir/body" --header 'Expect: 100-continue' "$BATON_URL/echo" | cmp - "$dir/body" 2>&1)"
check 'POST /echo, chunked' '' \
    "$(curl --data-binary @- --header 'Transfer-Encoding: chunked' "$BATON_URL/echo" <"$dir/body" | cmp - "$dir/body" 2>&1)"
check 'HTTP/1.0' 200 "$(code --http1.0 "$BATON_URL/whoami")"
check 'three requests over one connection' '1 0 0' \
    "$(curl --write-out '%{num_connects} ' --output /dev/null "$BATON_URL/whoami" --output /dev/null "$BATON_URL/whoami" \
        --output /dev/null "$BATON_URL/whoami" | sed 's/ $//')"
head -c 1100000 /dev/zero >"$dir/large"
check 'a body above the limit' 413 "$(code --data-binary "@$dir/large" "$BATON_URL/echo")"

echo "1..$number"
[ "$failed" -eq 0 ]

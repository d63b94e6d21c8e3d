#!/bin/sh
# What the API's own document says is what the API does: schemathesis makes requests of all kinds from it,
# good ones and bad ones, and finds nothing. (Not for what replaces workers: that takes its time.)
#
#   with-baton --api FILE sh openapi.sh SCHEMATHESIS
set -e
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT
"$1" run "$BATON_ADMIN_URL/api/v1/openapi.json" --no-color --workers 1 --generation-deterministic \
    --max-examples 25 --request-timeout 20 --exclude-path-regex '/(reload|scale)$' \
    --header "Authorization: Bearer $BATON_API_TOKEN"
echo 'ok 1 - schemathesis finds nothing'

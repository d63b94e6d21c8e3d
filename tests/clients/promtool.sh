#!/bin/sh
# Prometheus' own checker finds nothing in /metrics, before and after something was said.
#
#   with-baton sh promtool.sh PROMTOOL
set -e
check() {
    page=$(curl --silent --show-error --fail --noproxy '*' "$BATON_ADMIN_URL/metrics")
    said=$(printf '%s\n' "$page" | "$1" check metrics 2>&1) || {
        printf '%s\n%s\n' "$page" "$said"
        echo 'not ok 1 - promtool check metrics'
        exit 1
    }
    [ -z "$said" ] || {
        printf '%s\n' "$said"
        echo 'not ok 1 - promtool check metrics'
        exit 1
    }
}
check "$1"
curl --silent --noproxy '*' "$BATON_URL/healthz" "$BATON_URL/nowhere" >/dev/null
"$BATON_MASTER" reload --run-dir "$BATON_RUN_DIR" >/dev/null
check "$1"
echo 'ok 1 - promtool check metrics'

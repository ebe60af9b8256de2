#!/usr/bin/env bash
# The images of this example: busybox for application and backends, and HAProxy.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

"$here/../image.sh" busybox:example busybox-static
"$here/../image.sh" haproxy:example haproxy

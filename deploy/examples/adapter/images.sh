#!/usr/bin/env bash
# The images of this example: busybox for the application, and Python for the adapter.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

"$here/../image.sh" busybox:example busybox-static
"$here/../image.sh" python:example python3

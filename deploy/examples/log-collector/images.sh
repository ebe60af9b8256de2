#!/usr/bin/env bash
# The images of this example: an application that writes a log file, and rsyslog.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

"$here/../image.sh" logging-app:example busybox-static
"$here/../image.sh" rsyslog:example rsyslog

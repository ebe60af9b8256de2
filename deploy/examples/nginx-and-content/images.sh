#!/usr/bin/env bash
# The images of this example: nginx, and git with a loop around it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

RUN='["nginx", "-g", "daemon off;"]' "$here/../image.sh" nginx:example nginx '
    rm -f "$ROOT"/etc/nginx/sites-enabled/*
    mkdir -p "$ROOT/etc/nginx/conf.d" "$ROOT/var/log/nginx" "$ROOT/var/lib/nginx"
    echo "server { listen 80; root /usr/share/nginx/current; access_log off; }" \
        >"$ROOT/etc/nginx/conf.d/site.conf"'

RUN='["git-sync"]' "$here/../image.sh" git-sync:example git,ca-certificates "
    cat >\"\$ROOT/usr/bin/git-sync\" <<'SCRIPT'
$(cat "$here/git-sync.sh")
SCRIPT
    chmod +x \"\$ROOT/usr/bin/git-sync\"
    printf '[safe]\n\tdirectory = *\n' >\"\$ROOT/etc/gitconfig\""

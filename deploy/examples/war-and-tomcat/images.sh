#!/usr/bin/env bash
# The images of this example: an application as a WAR file, and Tomcat to run it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# geektime/sample:v2: nothing but the application, and busybox to copy it with.
war=$(mktemp --suffix .war) && trap 'rm -f "$war"' EXIT
python3 - "$here/sample" "$war" <<'PYTHON'
import pathlib, sys, zipfile
source = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(sys.argv[2], "w", zipfile.ZIP_DEFLATED) as war:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            # Always the same time, so that the same application is the same file.
            entry = zipfile.ZipInfo(str(path.relative_to(source)))
            war.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
PYTHON
"$here/../image.sh" geektime/sample:v2 busybox-static "
    base64 -d >\"\$ROOT/sample.war\" <<WAR
$(base64 "$war")
WAR"

# geektime/tomcat:7.0: Debian's Tomcat, laid out as the manifest expects it.
"$here/../image.sh" geektime/tomcat:7.0 tomcat10-common,tomcat10,openjdk-17-jre-headless '
    base="$ROOT/root/apache-tomcat-7.0.42-v2"
    mkdir -p "$base/bin" "$base/webapps" "$base/logs" "$base/temp" "$base/work"
    cp -r "$ROOT/usr/share/tomcat10/etc" "$base/conf"
    cat >"$base/bin/start.sh" <<"START"
#!/bin/sh
export CATALINA_HOME=/usr/share/tomcat10 CATALINA_BASE=/root/apache-tomcat-7.0.42-v2
JAVA_HOME=$(echo /usr/lib/jvm/java-17-openjdk-*) exec sh $CATALINA_HOME/bin/catalina.sh run
START
    chmod +x "$base/bin/start.sh"'

# Takes a mesh off a host: exactly what its manifest names and what its daemon left. Arguments: NAME INIT
#
# Files that another mesh on this host names stay. Running it where nothing is left does nothing and says nothing.
# Prints `changed PATH`, `changed WORD` or, when it fails, `error CODE TEXT`.
# shellcheck shell=sh
set -u
name=$1 init=$2
manifest=/etc/meshd/$name.manifest.json
log=/dev/null

changed() { echo "changed $1"; }

meshd_remove() {
    why=$(meshd remove "$name" 2>&1) || { echo "error service $why"; exit 1; }
}

if is_active; then
    # Before the service goes: the daemon takes its interface, routes and names back itself.
    meshd_remove
    service stop || { echo "error service mesh $name does not stop"; exit 1; }
    changed stopped
else
    # One that fails over and over is not active either, and its manager holds the interface for it.
    service stop
    [ ! -x /usr/local/bin/meshd ] || [ ! -e "/etc/meshd/$name.conf" ] || meshd_remove
fi
if [ "$init" != none ]; then
    # In part it may be so too: an older one without its guard.
    is_enabled && changed disabled
    service disable
fi

if [ -r "$manifest" ]; then
    tr '{' '\n' < "$manifest" | sed -n 's/.*"path": *"\(\/[^"]*\)".*/\1/p' | while read -r path; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            named_elsewhere "$path" || { rm -f "$path" && changed "$path"; }
        fi
    done
    changed "$manifest"
fi
sweep

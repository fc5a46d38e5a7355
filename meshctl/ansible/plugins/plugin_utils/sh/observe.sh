# What a host looks like to a mesh, one item a line (docs/reference/contracts.md §6). Argument: NAME.
#
# It only reads, needs no more than a POSIX shell and the usual small tools, and goes to `sh -s -- NAME` on stdin. A
# question this host cannot answer is left out or answered with "none"; judging the answers is not done here.
# shellcheck shell=sh
LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
name=$1
manifest=/etc/meshd/$name.manifest.json

say() { printf '%s\n' "$*"; }

init_system() {
    if [ -d /run/systemd/system ]; then
        say systemd
    elif [ -e /run/openrc/softlevel ] && command -v openrc-run > /dev/null; then
        say openrc
    else
        say none
    fi
}

# Whether a service that isn't root gets what it needs. systemd hands it files (LoadCredential=) since 247, and only where
# mounts are shared, as every systemd makes them but one in a container: there the file gets lost on its way. And udev
# opens /dev/net/tun to everybody (50-udev-default.rules); where there is no udev it may be root's alone.
credentials() { # VERSION
    case $(stat -Lc %a /dev/net/tun 2> /dev/null) in '' | *[67]) ;; *) return 1 ;; esac
    [ "${1:-0}" -ge 247 ] && sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \/ \(.*\) - .*/\1/p' /proc/1/mountinfo | grep -q shared:
}

# A link's digest is that of its target's text and its mode is "link"; neither follows the link.
file_state() {
    if [ -L "$1" ]; then
        say "file $(printf '%s' "$(readlink "$1")" | sha256sum | cut -c 1-64) link $1"
    elif [ -f "$1" ]; then
        say "file $(sha256sum < "$1" | cut -c 1-64) $(printf '%04d' "$(stat -c %a "$1")") $1"
    else
        say "file missing 0000 $1"
    fi
}

# The paths our manifest names; before there is one, those of the host's other meshes, since shared files may be there.
known_paths() {
    { if [ -r "$manifest" ]; then cat "$manifest"; else cat /etc/meshd/*.manifest.json 2> /dev/null; fi; } |
        tr '{' '\n' | sed -n 's/.*"path": *"\(\/[^"]*\)".*/\1/p' | sort -u
}

service_state() {
    case $init in
    systemd)
        active=$(systemctl is-active "meshd@$name" 2> /dev/null)
        enabled=$(systemctl is-enabled "meshd@$name" "meshd-guard@$name" 2> /dev/null | sort -u)
        ;;
    openrc)
        rc-service "meshd.$name" status > /dev/null 2>&1 && active=active
        rc-update show default 2> /dev/null | grep -q "^ *meshd\.$name " &&
            rc-update show boot 2> /dev/null | grep -q "^ *meshd-guard\.$name " && enabled=enabled
        ;;
    none)
        read -r pid 2> /dev/null < "/run/meshd/$name.pid" && kill -0 "$pid" 2> /dev/null && active=active
        enabled=enabled # there is nothing that could enable it
        ;;
    esac
    [ "$active" = active ] || active=inactive
    [ "$enabled" = enabled ] || enabled=disabled
    say "service $active $enabled"
}

link_state() {
    link=/sys/class/net/$name
    if [ ! -e "$link" ]; then
        say "link none"
    elif [ -e "$link/tun_flags" ] && [ -S "/run/meshd/$name.sock" ]; then
        say "link ours"
    else
        say "link foreign"
    fi
}

# Local UDP ports in use, this mesh's own left out. Field 2 of /proc/net/udp is ADDRESS:PORT in hex.
ports_of_others() {
    own=$(printf '%s' "$report" | sed -n 's/.*"listen_port": *\([0-9]*\).*/\1/p')
    list=
    for hex in $(sed -n 's/^ *[0-9]*: [0-9A-F]*:\([0-9A-F]*\) .*/\1/p' /proc/net/udp /proc/net/udp6 2> /dev/null | sort -u); do
        port=$(printf '%d' "0x$hex")
        [ "$port" = "$own" ] || list=${list:+$list,}$port
    done
    say "ports $list"
}

# The client's address and the server's port of the SSH connection that this came by. sudo keeps the variable from us, but
# not from root who can read it of the processes above.
ssh_connection() {
    connection=${SSH_CONNECTION:-} pid=$$
    while [ -z "$connection" ] && [ "${pid:-0}" -gt 1 ]; do
        pid=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$pid/status" 2> /dev/null)
        connection=$(tr '\0' '\n' 2> /dev/null < "/proc/$pid/environ" | sed -n 's/^SSH_CONNECTION=//p')
    done
    # shellcheck disable=SC2086  # CLIENT PORT SERVER PORT, sshd(8)
    set -- $connection
    [ $# -ne 4 ] || say "ssh $1 $4"
}

say "meshctl-observe 1"
say "uid $(id -u)"
say "arch $(uname -m)"
say "kernel $(uname -r)"
init=$(init_system)
say "init $init"
if [ "$init" = systemd ]; then
    version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    say "systemd $version"
    if credentials "$version"; then say "credentials yes"; else say "credentials no"; fi
fi
# The test for a device comes first: <> would make a file where there is nothing.
if [ -c /dev/net/tun ] && (: <> /dev/net/tun) 2> /dev/null; then say "tun yes"; else say "tun no"; fi
say "binary $(readlink /usr/local/lib/meshd/current || say none)"
if [ -r "$manifest" ]; then
    say "manifest $(tr -d '\n' < "$manifest")"
else
    say "manifest none"
fi
known_paths | while read -r path; do file_state "$path"; done
service_state
link_state
report=
for meshd in /usr/local/bin/meshd /usr/local/lib/meshd/current/meshd; do # a link that somebody deleted is no reason not to ask
    [ -z "$report" ] && [ -x "$meshd" ] && report=$("$meshd" report "$name" --json 2> /dev/null < /dev/null)
done
ports_of_others
ssh_connection
say "report ${report:-none}"
say "end"

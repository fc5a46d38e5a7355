# What place.sh and remove.sh have in common; sent in front of them. They set: name, init, log (a file for the last
# words).
# shellcheck shell=sh
umask 022
LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH

# True when the manifest of another mesh on this host names that path.
named_elsewhere() { # PATH
    for other in /etc/meshd/*.manifest.json; do
        [ "$other" = "/etc/meshd/$name.manifest.json" ] && continue
        grep -qF "\"$1\"" "$other" 2> /dev/null && return 0
    done
    return 1
}

is_active() {
    case $init in
    systemd) systemctl is-active --quiet "meshd@$name" ;;
    openrc) rc-service "meshd.$name" status > /dev/null 2>&1 ;;
    none) read -r pid 2> /dev/null < "/run/meshd/$name.pid" && kill -0 "$pid" 2> /dev/null ;;
    esac
}

is_enabled() {
    case $init in
    systemd)
        systemctl is-enabled --quiet "meshd@$name" 2> /dev/null &&
            systemctl is-enabled --quiet "meshd-guard@$name" 2> /dev/null
        ;;
    openrc)
        rc-update show default 2> /dev/null | grep -q "^ *meshd\.$name " &&
            rc-update show boot 2> /dev/null | grep -q "^ *meshd-guard\.$name "
        ;;
    none) true ;; # there is nothing that could enable it
    esac
}

# A daemon in the background must not hold this script's stdout: the SSH session would wait for it.
service() { # start|stop|restart|upgrade|enable|disable
    case $init-$1 in
    *-upgrade) meshd upgrade "$name" ;;
    systemd-disable)
        # The guard has done its part at boot, and has nothing to take back.
        systemctl disable "meshd@$name"
        systemctl stop "meshd-guard@$name"
        ;;
    systemd-*) systemctl "$1" "meshd@$name" ;;
    openrc-enable) rc-update --quiet add "meshd.$name" default && rc-update --quiet add "meshd-guard.$name" boot ;;
    openrc-disable)
        rc-update --quiet delete "meshd.$name" default
        rc-update --quiet delete "meshd-guard.$name" boot
        rc-service "meshd-guard.$name" stop
        ;;
    openrc-*) rc-service "meshd.$name" "$1" ;;
    none-start | none-stop) meshd "$1" "$name" ;;
    none-restart) meshd stop "$name" && meshd start "$name" ;;
    esac > "$log" 2>&1 < /dev/null
}

# Why the service failed, in one line: its own words before its manager's.
last_words() {
    {
        [ "$init" = systemd ] &&
            journalctl --quiet --no-pager --output=cat --lines=20 --unit="meshd@$name" 2> /dev/null |
            grep '^meshd: ' | tail -n 1
        grep -v '^Job for\|^See \|\[ ok \]' "$log" | tail -n 1
    } | head -n 1 | grep . || echo "the service of mesh $name does not start"
}

# What the service itself leaves behind once no file of mesh $name is there: its state, its sockets, and the folders
# when they are empty, which is when this was the last mesh of the host. Folders of others stay, since rmdir takes
# empty ones only.
sweep() {
    rm -f "/etc/meshd/$name.conf" "/etc/meshd/$name.next" "/etc/meshd/$name.manifest.json" "/var/log/meshd-$name.log"
    rm -f "/run/meshd/$name.sock" "/run/meshd/$name.pid" "/run/meshd/$name.keeper" "/run/wireguard/$name.sock"
    rm -f "/var/lib/meshd/$name.tai64n" "/var/lib/meshd/$name.tai64n.new" "/var/lib/meshd/$name.forward"
    rmdir /etc/meshd /usr/local/lib/meshd/*/ /usr/local/lib/meshd 2> /dev/null
    for folder in /var/lib/meshd /run/meshd /run/wireguard; do
        if [ -L "$folder" ]; then # a dynamic user's folder is a link into a private one
            rmdir "${folder%/*}/private/${folder##*/}" 2> /dev/null && rm -f "$folder"
        else
            rmdir "$folder" 2> /dev/null
        fi
    done
    rmdir /run/private 2> /dev/null
    if [ "$init" = systemd ]; then
        systemctl daemon-reload
        systemctl reset-failed "meshd@$name" 2> /dev/null
    fi
    true
}

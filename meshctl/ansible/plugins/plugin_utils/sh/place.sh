# Puts files on a host and brings its service up, all or nothing. Arguments: FOLDER NAME INIT
#
# FOLDER holds what came along in the same tar stream: `list` (one entry a line, see below) and the files it names.
# Strategy: first every new file beside its destination and onto the disk, which is where a full or a broken one shows; then
# one rename each; then the service. What was there before is kept until the service is up, and a failure or a signal at any
# point takes everything back, folders included. Paths hold no spaces: they are ours.
#
#   file MODE SOURCE PATH      SOURCE, a file in FOLDER, becomes PATH
#   link TARGET PATH           PATH becomes a symbolic link
#   retire PATH                taken away at the end, unless the manifest of another mesh names it
#   service reload|restart|upgrade    what the service needs once the files are there
#
# Prints `changed PATH`, `changed WORD` or, when it fails, `error CODE TEXT`.
# shellcheck shell=sh
set -u
folder=$1 name=$2 init=$3
log=$folder/service.log
conf=/etc/meshd/$name.conf
undo='' changes='' written='' folders='' reload=no restart=no upgrade=no was_active=no was_enabled=no

changed() { changes="$changes$1
"; }

# Later steps are taken back first.
to_undo() { undo="$1
$undo"; }

fail() { # CODE TEXT
    trap - EXIT
    trap '' HUP INT TERM
    printf '%s' "$undo" | while read -r verb one two; do
        case $verb in
        remove) rm -f "$one" ;;
        rmdir) rmdir "$one" ;;
        restore) mv -f "$one" "$two" ;;
        relink) rm -f "$two" && ln -s "$one" "$two" ;;
        service)
            [ "$was_enabled" = yes ] || service disable
            [ "$was_active" = yes ] || service stop
            ;;
        esac
    done 2> /dev/null
    service_again
    echo "error $1 $2"
    exit 1
}

# After the files are back: what ran before runs again, and what never ran leaves nothing.
service_again() {
    [ "$init" = systemd ] && [ "$reload" = yes ] && systemctl daemon-reload
    case $was_active-$restart-$upgrade in
    yes-yes-* | yes-*-yes) service restart ;;
    no-*) [ -e "$conf" ] || sweep ;;
    esac
}

# ---- files ----------------------------------------------------------------------------------------------------------

make_folder() { # PATH MODE
    [ -d "$1" ] && return
    make_folder "$(dirname "$1")" 0755
    why=$(mkdir -m "$2" "$1" 2>&1) || case $why in
    *"No space left"* | *"quota exceeded"*) fail disk-full "no space left for $1" ;;
    *) fail other "cannot make $1: ${why##*: }" ;;
    esac
    to_undo "rmdir $1"
}

write_beside() { # MODE SOURCE PATH
    make_folder "$(dirname "$3")" 0755
    to_undo "remove $3.meshctl-new"
    why=$({ cp "$folder/$2" "$3.meshctl-new" && chmod "$1" "$3.meshctl-new"; } 2>&1) || case $why in
    *"No space left"* | *"quota exceeded"*) fail disk-full "no space left for $3" ;;
    *) fail other "cannot write $3: $why" ;;
    esac
    written="$written $3.meshctl-new"
}

link_beside() { # TARGET PATH
    make_folder "$(dirname "$2")" 0755
    to_undo "remove $2.meshctl-new"
    rm -f "$2.meshctl-new"
    ln -s "$1" "$2.meshctl-new" || fail other "cannot make the link $2"
}

keep_old() { # PATH
    if [ -L "$1" ]; then
        to_undo "relink $(readlink "$1") $1"
    elif [ -e "$1" ]; then
        ln -f "$1" "$1.meshctl-old" 2> /dev/null || cp -p "$1" "$1.meshctl-old" || fail other "cannot keep $1"
        to_undo "restore $1.meshctl-old $1"
    else
        to_undo "remove $1"
    fi
}

take_place() { # PATH
    keep_old "$1"
    # -T: a link to a folder is to be replaced, not to be moved into.
    mv -fT "$1.meshctl-new" "$1" || fail other "cannot replace $1"
    folders="$folders $(dirname "$1")"
    changed "$1"
}

retire() { # PATH
    named_elsewhere "$1" && return
    rm -f "$1"
    case $1 in /usr/local/lib/meshd/*) rmdir "$(dirname "$1")" 2> /dev/null ;; esac
    changed "$1"
}

# A name may reach the disk before what it names: after a power failure there would be an empty unit, or an empty program.
# A sync that takes no paths, an old one's, writes everything.
on_disk() { # PATH...
    [ $# = 0 ] && return
    why=$(sync "$@" 2>&1) || fail other "cannot write to the disk: $why"
}

# ---- service --------------------------------------------------------------------------------------------------------

service_up() {
    to_undo service
    if [ "$init" = systemd ] && [ "$reload" = yes ]; then
        systemctl daemon-reload || fail service "systemctl daemon-reload failed"
    fi
    if [ "$was_enabled" = no ]; then
        service enable || fail service "$(last_words)"
        changed enabled
    fi
    if [ "$was_active" = no ]; then
        service start || fail service "$(last_words)"
        changed started
    elif [ "$restart" = yes ]; then
        service restart || fail service "$(last_words)"
        changed restarted
    elif [ "$upgrade" = yes ]; then
        # A daemon that cannot make way, being too old for it, is restarted.
        if service upgrade; then
            changed upgraded
        else
            service restart || fail service "$(last_words)"
            changed restarted
        fi
    fi
    is_active || fail service "$(last_words)"
}

# ---- the order of things --------------------------------------------------------------------------------------------

trap 'fail other "interrupted"' HUP INT TERM
trap 'fail other "stopped half-way"' EXIT
is_active && was_active=yes
is_enabled && was_enabled=yes

make_folder /etc/meshd 0700
while read -r verb one two three; do
    case $verb in
    file) write_beside "$one" "$two" "$three" ;;
    link) link_beside "$one" "$two" ;;
    service)
        case $one in
        reload) reload=yes ;;
        restart) restart=yes ;;
        upgrade) upgrade=yes ;;
        esac
        ;;
    esac
done < "$folder/list"
# shellcheck disable=SC2086 # paths without spaces
on_disk $written

while read -r verb one two three; do
    case $verb in
    file) take_place "$three" ;;
    link) take_place "$two" ;;
    esac
done < "$folder/list"
# shellcheck disable=SC2086
on_disk $folders

# Absent until `meshd confirm` fills it.
if [ ! -e "$conf" ]; then
    to_undo "remove $conf"
    (umask 077 && : > "$conf") || fail other "cannot make $conf"
    changed "$conf"
fi

service_up

trap - EXIT HUP INT TERM
while read -r verb one two three; do
    case $verb in
    file) rm -f "$three.meshctl-old" ;;
    retire) retire "$one" ;;
    esac
done < "$folder/list"
printf '%s' "$changes" | sed 's/^/changed /'

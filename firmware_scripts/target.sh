# What happens on the target. POSIX sh with tar, sha256sum, stat, readlink, mv -T (coreutils or
# busybox). plan.py appends the lines that call these functions; "root" is set before: the folder
# that holds the target's root file system, empty for the machine itself.
#
# First everything that needs space is brought in beside its place; then come renames only. So a
# full disk, a lost connection or a power cut leaves "current" on a whole release.

set -eu
umask 022
opt=/opt/fedbus

die() {
    echo "$*" >&2
    exit 1
}

# inside PATH: set $place to where PATH lies when $root is the root. Links on the way are followed
# as the target would follow them, so that none leads out of $root.
inside() {
    rest=$1 seen='' hops=0
    while [ -n "$rest" ]; do
        rest=${rest#/}
        name=${rest%%/*}
        case $rest in
            */*) rest=/${rest#*/} ;;
            *) rest='' ;;
        esac
        case $name in
            '' | .) continue ;;
            ..) seen=${seen%/*} && continue ;;
        esac
        if [ -L "$root$seen/$name" ]; then
            hops=$((hops + 1))
            [ "$hops" -le 40 ] || die "$1: too many links"
            to=$(readlink "$root$seen/$name")
            case $to in /*) seen='' ;; esac
            rest=$to$rest
        else
            seen=$seen/$name
        fi
    done
    place=$root$seen
}

# at PATH: set $place to PATH's folder resolved, and its own name unresolved (renames replace it).
at() {
    if [ "${1%/*}" != "${last_folder-none}" ]; then
        inside "${1%/*}"
        last_folder=${1%/*} last_place=$place
    fi
    place=$last_place/${1##*/}
}

# --- looking: one line a fact, changes nothing ------------------------------------------------

# look PATH...: "path<TAB>kind<TAB>value<TAB>mode"
look() {
    for path in "$@"; do
        at "$path"
        if [ -L "$place" ]; then
            printf '%s\tlink\t%s\t-\n' "$path" "$(readlink "$place")"
        elif [ -f "$place" ]; then
            sum=$(sha256sum <"$place")
            printf '%s\tfile\t%s\t%s\n' "$path" "${sum%% *}" "$(stat -c %a "$place")"
        elif [ -e "$place" ]; then
            printf '%s\tother\t-\t-\n' "$path"
        fi
    done
}

facts() {
    inside /etc
    [ -d "$place" ] && printf 'etc\n'
    [ -d /run/systemd/system ] && [ -z "$root" ] && printf 'systemd\n'
    inside "$opt/.incoming"
    [ -d "$place" ] && printf 'unfinished\n'
    inside "$opt/releases"
    [ -d "$place" ] || return 0
    # newest first
    ls -1t "$place" | while read -r name; do printf 'release\t%s\n' "$name"; done
}

# interpreter PATH CHECK: whether it exists and, on the machine itself, what CHECK finds missing
interpreter() {
    inside "$1"
    [ -x "$place" ] || return 0
    if [ -n "$root" ]; then
        printf 'interpreter\tunchecked\n'
    elif "$1" -c "$2" >&2; then
        printf 'interpreter\tchecked\n'
    else
        printf 'interpreter\tlacking\n'
    fi
}

# --- bringing in: needs space -----------------------------------------------------------------

# a flash that failed before its renames leaves nothing behind, on a full disk above all
clean() {
    [ ! -f "$incoming/sums" ] || while read -r _ name; do
        at "/$name"
        rm -f "$place.fedbus-new"
    done <"$incoming/sums"
    inside "$opt/releases"
    rm -rf "$place"/.*.partial "$incoming"
}

# folder PATH: make it if it is missing
folder() {
    inside "$1"
    [ -d "$place" ] || mkdir -p "$place" || die "$1: cannot be made"
}

receive() {
    folder "$opt/releases"
    inside "$opt/.incoming"
    incoming=$place
    rm -rf "$incoming"
    mkdir -m 700 "$incoming"
    inside "$opt/releases"
    rm -rf "$place"/.*.partial
    trap clean EXIT
    tar -xf - -C "$incoming"
    # where only links differ, no file comes, and the list of their sums is empty
    (cd "$incoming" && [ -f sums ] && { [ ! -s sums ] || sha256sum -c sums >/dev/null; }) ||
        die "what arrived is damaged"
}

# bring NAME: the release, whole, beside its place
bring() {
    inside "$opt/releases"
    mv -T "$incoming/release" "$place/.$1.partial"
    touch "$place/.$1.partial" # its time says which release is older
}

# stage MODE PATH: the new file, beside its place
stage() {
    folder "${2%/*}"
    at "$2"
    [ ! -d "$place" ] || [ -L "$place" ] || die "$2: is a folder"
    rm -f "$place.fedbus-new"
    mv "$incoming$2" "$place.fedbus-new"
    touch "$place.fedbus-new"
    chmod "$1" "$place.fedbus-new"
}

# --- switching: renames only ------------------------------------------------------------------

# commit: from here on there are renames only. The folder stays, empty, until "finish": a flash that
# was interrupted is finished by the next.
commit() {
    durable
    rm -rf "$incoming"
    mkdir -m 700 "$incoming"
    trap - EXIT
}

finish() {
    durable
    inside "$opt/.incoming"
    rm -rf "$place"
}

durable() {
    inside "$opt"
    sync -f "$place" 2>/dev/null || sync
}

# keep PATH SUFFIX: what is there stays as PATH.SUFFIX (a second name for the same file)
keep() {
    at "$1"
    ln -f "$place" "$place.$2" 2>/dev/null || cp -p "$place" "$place.$2"
}

put() {
    at "$1"
    mv -fT "$place.fedbus-new" "$place"
}

# release NAME: a new one in one rename; a damaged one is mended file by file
release() {
    inside "$opt/releases"
    if [ ! -d "$place/$1" ]; then
        mv -T "$place/.$1.partial" "$place/$1"
        return
    fi
    for file in "$place/.$1.partial"/*; do
        mv -fT "$file" "$place/$1/${file##*/}"
    done
    rmdir "$place/.$1.partial"
}

# link TO PATH
link() {
    folder "${2%/*}"
    at "$2"
    [ ! -d "$place" ] || [ -L "$place" ] || die "$2: is a folder, should be a link"
    ln -sfn "$1" "$place.fedbus-new"
    mv -fT "$place.fedbus-new" "$place"
}

remove() {
    at "$1"
    rm -f "$place"
}

# prune NAME: forget an old release
prune() {
    inside "$opt/releases"
    rm -rf "${place:?}/$1"
}

# libraries: the virtual environment, made by the target's own Python
libraries() {
    inside "$opt"
    "$place/setup" >&2
}

restart() {
    systemctl daemon-reload
    systemctl restart fedbus-device.service
}

# A command that fills a directory, of which a tar is then the backup. Comes after wrapper.sh.

if ! command -v tar >/dev/null 2>&1; then ubo_end tar-missing 1; fi
UBO_BACKUP_DIR=$ubo_d; export UBO_BACKUP_DIR

# Empties the directory, but for what was never ours.
ubo_empty() {
  for ubo_p in "$ubo_d"/* "$ubo_d"/.[!.]* "$ubo_d"/..?*; do
    case $ubo_p in */lost+found | "$ubo_mark") continue ;; esac
    [ -e "$ubo_p" ] || [ -L "$ubo_p" ] || continue
    rm -rf -- "$ubo_p" || return 1
  done
}

# Removes what the run has made. The marker goes last: whoever comes after a kill in between still knows whose it is.
ubo_clean() {
  [ -n "$ubo_own" ] || return 0
  if [ -n "$ubo_made" ]; then rm -rf -- "$ubo_d"; else ubo_empty; fi && rm -f -- "$ubo_mark" && ubo_own=
}

# What is wrong with the room for the directory, in ubo_v: `disk`, `full` or nothing. Less than a ninth free, as `df` counts
# it, is a little more than the tenth of everything below which a kubelet evicts. A volume has no limit but its own size,
# unless somebody has set one.
ubo_room() {
  ubo_v=$(df -Pk "$ubo_d" 2>/dev/null | { read -r ubo_p; read -r ubo_p a b c d e; echo "${b:-0} ${c:-0} ${e:-/}"; })
  set -- $ubo_v
  ubo_v=
  [ $# -ge 3 ] && [ $(($1 + $2)) -gt 0 ] || return 0
  if [ $(($2 * 9)) -lt $(($1 + $2)) ]; then ubo_v=disk; return 0; fi
  case $ubo_m in *v) ;; *) [ "$3" = / ] || return 0 ;; esac
  ubo_p=$(du -sk "$ubo_d" 2>/dev/null | { read -r a b; echo "${a:-0}"; })
  [ "${ubo_p:-0}" -le "${ubo_m%v}" ] || ubo_v=full
}

# The directory without what is not the command's. Some busybox cannot exclude: it is given the names, and where there are
# none (an empty directory, which is judged elsewhere) two empty blocks are the archive.
ubo_tar() (
  exec 3<&- 4>&-
  cd -- "$ubo_d" || exit 125
  if [ -z "$ubo_i" ]; then exec tar $ubo_e -cf - .; fi
  set --
  for ubo_p in ./* ./.[!.]* ./..?*; do
    case $ubo_p in ./lost+found | ./.ubo-run) continue ;; esac
    [ -e "$ubo_p" ] || [ -L "$ubo_p" ] || continue
    set -- "$@" "$ubo_p"
  done
  if [ $# = 0 ]; then exec dd if=/dev/zero bs=512 count=2 2>/dev/null; fi
  exec tar -cf - "$@"
)

# The marker lies beside a directory that we make, so that tools which insist on an empty one are content, and inside one
# that we find, since a mounted volume outlives the container.
ubo_take() {
  if [ -f "$ubo_d.ubo-run" ]; then
    ubo_mark=$ubo_d.ubo-run
    ubo_dead
    rm -rf -- "$ubo_d" && rm -f -- "$ubo_mark" || ubo_end unavailable 1
  fi
  if [ ! -e "$ubo_d" ] && [ ! -L "$ubo_d" ]; then
    mkdir -m 700 -- "$ubo_d" 2>/dev/null || ubo_end unavailable 1
    ubo_made=1 ubo_mark=$ubo_d.ubo-run
  elif [ ! -d "$ubo_d" ]; then
    ubo_say "lies a file of that name"
    ubo_end not-empty 1
  else
    ubo_mark=$ubo_d/.ubo-run
    if [ -f "$ubo_mark" ]; then
      ubo_dead
      ubo_empty && rm -f -- "$ubo_mark" || ubo_end unavailable 1
    fi
    ubo_look
  fi
  ubo_since $$
  # Created or refused, never overwritten: of two runs that come at once one is told.
  (set -C; echo "$ubo_u $$ $ubo_v" >"$ubo_mark") 2>/dev/null || {
    if [ -e "$ubo_mark" ]; then ubo_end busy 1; fi
    [ -z "$ubo_made" ] || rmdir -- "$ubo_d"
    ubo_end unavailable 1
  }
  ubo_own=1
}

# Refuses a directory that holds anything, naming up to five entries.
ubo_look() {
  ubo_k=0
  for ubo_p in "$ubo_d"/* "$ubo_d"/.[!.]* "$ubo_d"/..?*; do
    case $ubo_p in */lost+found) ubo_e="$ubo_e --exclude=./lost+found"; continue ;; esac
    [ -e "$ubo_p" ] || [ -L "$ubo_p" ] || continue
    ubo_k=$((ubo_k + 1))
    [ $ubo_k -gt 5 ] || ubo_say "lies ${ubo_p#"$ubo_d"/}"
  done
  [ $ubo_k = 0 ] || ubo_end not-empty 1
}

# Leavings: an attempt of this run that still lives was cut off and is ended; another run that lives keeps the directory.
ubo_dead() {
  read -r a b c <"$ubo_mark"
  ubo_say "clearing $a"
  if ubo_since "${b:-0}" && [ "$ubo_v" = "$c" ]; then
    [ "$a" = "$ubo_u" ] || ubo_end busy 1
    kill -s TERM "$b" 2>/dev/null
    ubo_k=0
    while ubo_since "$b" && [ "$ubo_v" = "$c" ]; do
      [ $ubo_k -lt 100 ] || ubo_end busy 1
      ubo_nap
    done
  fi
}

ubo_take
ubo_room
[ -z "$ubo_v" ] || ubo_end "$ubo_v" 1
if [ -z "$ubo_made" ]; then ubo_e="$ubo_e --exclude=./.ubo-run"; fi
if [ -n "$ubo_e" ] && ! tar -C "$ubo_d" $ubo_e -cf - . >/dev/null 2>&1; then ubo_i=1; fi
ubo_rest
ubo_beats staged
ubo_begun=1
ubo_watched
ubo_before

ubo_log() { ubo_command >&2; }
ubo_x_kept=$ubo_x ubo_x=
ubo_do ubo_log
[ "$ubo_v" = 0 ] || ubo_end command "$ubo_v"
ubo_rest
ubo_beats plain
ubo_x=$ubo_x_kept
ubo_do ubo_tar
ubo_end tar "$ubo_v"

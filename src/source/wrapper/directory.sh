# A command that fills a directory, of which a tar is then the backup. Comes after wrapper.sh.

if ! command -v tar >/dev/null 2>&1; then ubo_end tar-missing 1; fi
UBO_BACKUP_DIR=$ubo_d; export UBO_BACKUP_DIR
# What a pattern begins with that means one name at the top: without it libarchive's tar leaves out its namesakes at any
# depth. A tar that nobody knows is not asked to leave out anything.
case $(ubo_bare; tar --version 2>&1) in
  *"(GNU tar)"* | *[Bb]usy[Bb]ox*) ubo_f=./ ;;
  *bsdtar*) ubo_f=^./ ;;
  *) ubo_f= ;;
esac

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
  # What has become another's is not touched. Where the marker is only gone it is made again first.
  if ! ubo_mine && { [ -e "$ubo_mark" ] || ! ubo_sign; }; then ubo_own=; return 0; fi
  if [ -n "$ubo_made" ]; then rm -rf -- "$ubo_d"; else ubo_empty; fi && rm -f -- "$ubo_mark" "$ubo_mark.old" && ubo_own=
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
  ubo_bare
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

# The line of the marker in $1, in ubo_l.
ubo_read() { ubo_l=; { read -r ubo_l <"$1"; } 2>/dev/null; }

ubo_mine() { ubo_read "$ubo_mark"; [ "$ubo_l" = "$ubo_id" ]; }

# What another has emptied in the meantime, or filled, is not our backup.
ubo_hold() { ubo_mine || ubo_end shared 1; }

# Created or refused (1), never overwritten: of two runs that come at once one is told. On a full disk it is created and
# cannot be written (2).
ubo_sign() {
  (set -C; : >"$ubo_mark") 2>/dev/null || return 1
  { echo "$ubo_id" >"$ubo_mark"; } 2>/dev/null || { rm -f -- "$ubo_mark"; return 2; }
  ubo_own=1
}

# The marker lies beside a directory that we make, so that tools which insist on an empty one are content, and inside one
# that we find, since a mounted volume outlives the container. It holds the run, a process, where that is one (the name of
# the host, and when the first process that is seen there began, by which containers of one pod are told apart), and the
# run's name, for those who wait for it. It is written before the directory is made: of two runs that come at once, one
# finds a directory that the other has just made, and then the marker beside it as well.
ubo_take() {
  ubo_p=$HOSTNAME
  { read -r ubo_p </proc/sys/kernel/hostname; } 2>/dev/null
  ubo_since 1 || ubo_v=0
  ubo_here=${ubo_p:--}:$ubo_v
  ubo_since $$
  ubo_id="$ubo_u $$ $ubo_v $ubo_here $UBO_RUN"
  ubo_mark=$ubo_d.ubo-run
  ubo_seize
  if [ -n "$ubo_own" ]; then
    ubo_made=1
    rm -rf -- "$ubo_d" && rm -f -- "$ubo_mark.old" || ubo_end unavailable 1
  fi
  if [ ! -e "$ubo_d" ] && [ ! -L "$ubo_d" ]; then
    ubo_claim
    mkdir -m 700 -- "$ubo_d" 2>/dev/null || {
      # Should somebody have made it meanwhile, then it is not ours to be emptied.
      rm -f -- "$ubo_mark"
      ubo_own=
      ubo_end unavailable 1
    }
    ubo_made=1
  elif [ ! -d "$ubo_d" ]; then
    ubo_say "lies a file of that name"
    ubo_end not-empty 1
  else
    ubo_mark=$ubo_d/.ubo-run
    ubo_seize
    [ -z "$ubo_own" ] || ubo_empty || ubo_end unavailable 1
    ubo_look
    ubo_claim
    ubo_beside
  fi
}

# Gives up a directory that another run has made since we looked for its marker.
ubo_beside() {
  [ -e "$ubo_d.ubo-run" ] || return 0
  [ -z "$ubo_own" ] || rm -f -- "$ubo_mark"
  ubo_own= ubo_mark=$ubo_d.ubo-run
  ubo_taken
}

# Makes the directory ours, unless it is.
ubo_claim() {
  [ -z "$ubo_own" ] || return 0
  ubo_sign
  case $? in
    0) return 0 ;;
    2) ubo_end disk 1 ;;
  esac
  if [ -e "$ubo_mark" ]; then ubo_taken; fi
  ubo_end unavailable 1
}

# Another run that lives has the directory, and says its name in the marker.
ubo_taken() {
  ubo_read "$ubo_mark"
  set -- $ubo_l
  ubo_say "lies ${5:-unknown}"
  ubo_end taken 1
}

# Refuses a directory that holds anything, naming up to five entries.
ubo_look() {
  ubo_k=0
  for ubo_p in "$ubo_d"/* "$ubo_d"/.[!.]* "$ubo_d"/..?*; do
    case $ubo_p in
      */lost+found) ubo_e="$ubo_e --exclude=${ubo_f}lost+found"; continue ;;
      "$ubo_mark") continue ;;
    esac
    [ -e "$ubo_p" ] || [ -L "$ubo_p" ] || continue
    ubo_k=$((ubo_k + 1))
    [ $ubo_k -gt 1 ] || ubo_beside
    [ $ubo_k -gt 5 ] || ubo_say "lies ${ubo_p#"$ubo_d"/}"
  done
  [ $ubo_k = 0 ] || ubo_end not-empty 1
}

# When the marker was last written, in seconds; where nothing tells them, in minutes.
ubo_times() { stat -c '%Y %Z' "$ubo_mark" 2>/dev/null || { echo minutes; ls -ln "$ubo_mark" 2>/dev/null; }; }

# Whether it stays as it is for half a minute, or longer where only minutes are told. Times are compared with each other and
# never with a clock: that of another machine may be wrong.
ubo_quiet() {
  ubo_v=$(ubo_times) ubo_k=0
  case $ubo_v in minutes*) set -- 450 ;; *) set -- 150 ;; esac
  while [ $ubo_k -lt "$1" ]; do
    ubo_nap
    [ "$ubo_v" = "$(ubo_times)" ] || return 1
  done
}

# Leavings: an attempt of this run that still lives was cut off and is ended; another run that lives keeps the directory. In
# another container process ids mean nothing to us, and whoever lives there touches its marker. That of a dead one is moved
# away, which one of several can do, and ours is made, before anything is removed: somebody who was taken for dead by
# mistake finds by it that the directory is lost.
ubo_seize() {
  # Whoever was about to do that was killed.
  if [ -f "$ubo_mark.old" ] && [ ! -f "$ubo_mark" ]; then mv -- "$ubo_mark.old" "$ubo_mark"; fi
  [ -f "$ubo_mark" ] || return 0
  ubo_read "$ubo_mark"
  ubo_was=$ubo_l
  set -- $ubo_l
  if [ "$4" != "$ubo_here" ]; then
    ubo_quiet || ubo_taken
  elif ubo_since "${2:-0}" && [ "$ubo_v" = "$3" ]; then
    [ "$1" = "$ubo_u" ] || ubo_taken
    kill -s TERM "$2" 2>/dev/null
    ubo_k=0
    while ubo_since "$2" && [ "$ubo_v" = "$3" ]; do
      [ $ubo_k -lt 100 ] || ubo_end busy 1
      ubo_nap
    done
  fi
  ubo_say "clearing ${1:-unknown}"
  [ -f "$ubo_mark" ] || return 0
  # That one may have ended in the meantime, and the marker be the next one's.
  ubo_read "$ubo_mark"
  [ "$ubo_l" = "$ubo_was" ] || ubo_taken
  mv -f -- "$ubo_mark" "$ubo_mark.old" 2>/dev/null || {
    if [ -f "$ubo_mark" ]; then ubo_end unavailable 1; else ubo_taken; fi
  }
  ubo_read "$ubo_mark.old"
  [ "$ubo_l" = "$ubo_was" ] || ubo_taken
  ubo_claim
}

ubo_take
ubo_room
[ -z "$ubo_v" ] || ubo_end "$ubo_v" 1
if [ -z "$ubo_made" ]; then ubo_e="$ubo_e --exclude=$ubo_f.ubo-run"; fi
if [ -n "$ubo_e" ] && { [ -z "$ubo_f" ] || ! (ubo_bare; exec tar -C "$ubo_d" $ubo_e -cf - .) >/dev/null 2>&1; }; then ubo_i=1; fi
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
ubo_hold
ubo_do ubo_tar
ubo_code=$ubo_v
ubo_hold
ubo_end tar "$ubo_code"

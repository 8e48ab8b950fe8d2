# Runs one dump command inside somebody else's container and proves on standard output how it ended.
# What goes over which stream, and why, is told in ../wrapper.rs. Comment lines are cut before it is sent.
#
# $1 nonce  $2 command  $3 stdout|directory  $4 directory  $5 UID of the run  $6 plain|piped|allowed
# $7 limit of the directory in KiB, with a v behind it for volumes too  $8 seconds between heartbeats  $9 name of the run  ${10} target path or nothing

ubo_n=$1 ubo_c=$2 ubo_f=$3 ubo_d=$4 ubo_u=$5 ubo_q=$6 ubo_m=$7 ubo_t=$8
UBO_RUN=$9; export UBO_RUN
if [ -n "${10}" ]; then UBO_TARGET_PATH=${10}; export UBO_TARGET_PATH; fi
if [ "$ubo_f" = directory ]; then UBO_BACKUP_DIR=$ubo_d; export UBO_BACKUP_DIR; fi
# 3: the control line, 4: the backup. Everything else that anybody prints is log.
exec 3<&0 4>&1 </dev/null >&2
ubo_w= ubo_h= ubo_b= ubo_own= ubo_made= ubo_mark= ubo_full= ubo_e= ubo_i= ubo_me= ubo_s= ubo_r=

ubo_say() { printf '\n%s %s\n' "$ubo_n" "$1" >&2; }

# Fields of /proc/$1/stat from the state on, in ubo_l: the name before them may hold anything.
ubo_stat() {
  ubo_l=
  { read -r ubo_l <"/proc/$1/stat"; } 2>/dev/null
  ubo_l=${ubo_l##*) }
  [ -n "$ubo_l" ]
}

# The start time of a living process, in ubo_v: with the pid it names a process for as long as the machine is up.
ubo_since() {
  ubo_stat "$1" || return 1
  set -- $ubo_l
  [ "$1" != Z ] && [ $# -ge 20 ] || return 1
  shift 19
  ubo_v=$1
}

# Whether $1 was started by the command: alive, none of our own, and of the session that runtimes make for an exec. Should
# one make only a process group, or nothing, then of that group, or our child.
ubo_ours() {
  case " $$ $ubo_w $ubo_h $ubo_me " in *" $1 "*) return 1 ;; esac
  ubo_stat "$1" || return 1
  set -- $ubo_l
  [ "$1" != Z ] || return 1
  case " $2 $3 $4 " in *" $$ "*) ;; *) return 1 ;; esac
  case " $ubo_w $ubo_h " in *" $2 "*) return 1 ;; esac
  ubo_y=$2
}

# Looks for what the command has started, and fails if there is nothing. `TERM` sends that signal to each that has not had
# it, `leaf` KILL to those without children, `KILL` KILL to all.
ubo_signal() {
  ubo_g=1 ubo_j=' '
  if [ "$1" = leaf ]; then
    for ubo_p in /proc/[0-9]*; do ubo_ours "${ubo_p#/proc/}" && ubo_j="$ubo_j$ubo_y "; done
  fi
  for ubo_p in /proc/[0-9]*; do
    ubo_p=${ubo_p#/proc/}
    ubo_ours "$ubo_p" || continue
    ubo_g=0
    case $1 in
      TERM)
        case $ubo_r in *" $ubo_p "*) continue ;; esac
        ubo_r="$ubo_r$ubo_p "
        kill -s TERM "$ubo_p" 2>/dev/null
        ;;
      leaf) case $ubo_j in *" $ubo_p "*) ;; *) kill -s KILL "$ubo_p" 2>/dev/null ;; esac ;;
      KILL) kill -s KILL "$ubo_p" 2>/dev/null ;;
    esac
  done
  return $ubo_g
}

# A fifth of a second where `sleep` knows fractions, else a second; ubo_k counts fifths.
ubo_nap() {
  if sleep 0.2 2>/dev/null; then ubo_k=$((ubo_k + 1)); else sleep 1; ubo_k=$((ubo_k + 5)); fi
}

# Ends the command and all that it started: five seconds in which each is sent TERM once, also those that come late (a
# shell that forks while it is told to stop waits for its child first). Then KILL, from the leaves, so that shells still
# wait for their children and leave no zombie to a first process that never waits; at last KILL to whatever there is.
ubo_stop() {
  ubo_k=0 ubo_r=' '
  while ubo_signal TERM && [ $ubo_k -lt 25 ]; do ubo_nap; done
  while ubo_signal leaf && [ $ubo_k -lt 40 ]; do ubo_nap; done
  while ubo_signal KILL && [ $ubo_k -lt 90 ]; do ubo_nap; done
}

# Ends a background shell of our own. A signal that comes right after its fork, before it has set its trap, is lost in
# some shells: so it is sent until it has ended. Most are gone within a millisecond, for which nobody sleeps.
ubo_reap() {
  [ -n "$1" ] || return 0
  ubo_k=0
  kill -s TERM "$1" 2>/dev/null
  while ubo_since "$1"; do
    ubo_k=$((ubo_k + 1))
    [ $ubo_k -lt 100 ] || { ubo_nap; kill -s TERM "$1" 2>/dev/null; }
  done
  wait "$1"
}

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

# The stream was cut, or somebody ended us: nothing stays.
ubo_cut() {
  trap '' TERM HUP INT PIPE USR1 USR2
  trap - EXIT
  ubo_say cut
  ubo_reap "$ubo_h"
  ubo_reap "$ubo_w"
  ubo_w= ubo_h=
  ubo_stop
  wait
  ubo_clean
  exit 143
}

# Waits for the control line. An end of file instead of it means that nobody reads any more.
ubo_watch() {
  read -r ubo_p <&3 && exit 0
  exec 3<&-
  trap 'trap "" TERM PIPE; kill "$ubo_s" 2>/dev/null; wait; exit 0' TERM
  kill -s TERM $$ 2>/dev/null
  ubo_k=0
  while ubo_since $$ && [ $ubo_k -lt 20 ]; do
    sleep 1 & ubo_s=$!
    wait "$ubo_s"
    ubo_k=$((ubo_k + 1))
  done
  # The main shell was killed, or hangs. Its work is left to us.
  trap '' TERM HUP INT PIPE
  { read -r ubo_me ubo_p </proc/self/stat; } 2>/dev/null
  ubo_h= ubo_w=
  ubo_stop
  ubo_clean
  exit 0
}

ubo_watched() { ubo_watch 4>&- & ubo_w=$!; }

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

ubo_beat() {
  trap 'trap "" TERM PIPE; kill "$ubo_s" 2>/dev/null; wait; exit 0' TERM PIPE
  while :; do
    sleep "$ubo_t" >/dev/null 2>&1 & ubo_s=$!
    wait "$ubo_s"
    # 126 and 127: there is no `sleep` here, and a loop without one would burn a core
    case $? in 126 | 127) exit 0 ;; esac
    ubo_say .
    [ "$1" = staged ] || continue
    ubo_room
    case $ubo_v in
      full) set -- told; kill -s USR1 $$ ;;
      disk) set -- told; kill -s USR2 $$ ;;
    esac
  done
}

ubo_beats() { ubo_beat "$1" 3<&- 4>&- & ubo_h=$!; }
ubo_rest() { ubo_reap "$ubo_h"; ubo_h=; }

# The last thing on the stream: the word that says how it ended, and an exit code.
ubo_end() {
  ubo_clean || ubo_say left
  [ -n "$ubo_w" ] || ubo_watched
  ubo_rest
  printf '\n%s %s %s\n' "$ubo_n" "$1" "$2" >&4
  wait "$ubo_w"
  trap - EXIT
  exit "$2"
}

# The text that bash is given where `sh` has no pipefail: the command's own positional parameters are empty.
ubo_z='trap "trap \"\" TERM; wait; exit 143" TERM
eval "shift
$1"'

# Told to end, it waits for what it has put into the background: its children would be zombies of a first process that
# never waits.
ubo_command() (
  exec 3<&- 4>&-
  trap 'trap "" TERM; wait; exit 143' TERM
  if [ "$ubo_q" = bash ]; then exec bash -o pipefail -c "$ubo_z" bash "$ubo_c"; fi
  if [ "$ubo_q" = pipefail ]; then set -o pipefail; fi
  set --
  eval "$ubo_c"
)

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

# Runs $1 with its output in large pieces: the path from here to the operator costs per write, not per byte.
# The exit code is that of $1, or 125 when the pieces could not be written. The traps keep each shell until its
# children have ended, so that none is left to a first process that never waits.
ubo_blocks() {
  trap : TERM
  if [ -z "$ubo_x" ]; then "$1" >&4; exit $?; fi
  ubo_v=$(
    trap : TERM
    {
      { trap : TERM; "$1" 5>&-; echo "$?" >&5; } |
        { trap : TERM; $ubo_x >&4 3<&- 4>&- 5>&- 2>/dev/null; echo "$?" >&5; }
    } 5>&1
  )
  set -- $ubo_v
  [ "${2:-1}" = 0 ] || [ "${1:-125}" != 0 ] || exit 125
  exit "${1:-125}"
}

ubo_do() {
  ubo_blocks "$1" & ubo_b=$!
  wait "$ubo_b"
  ubo_v=$?
  # What the command left in the background may still write to the directory: it is waited for. Through a pipe we have seen
  # its end already, and what still runs has nothing to do with the backup.
  if [ -z "$ubo_x" ]; then while ubo_signal ''; do ubo_nap; done; else ubo_stop; fi
  [ -z "$ubo_full" ] || ubo_end "$ubo_full" 1
}

trap ubo_cut TERM HUP INT PIPE
trap 'ubo_full=full; ubo_stop; wait "$ubo_b"' USR1
trap 'ubo_full=disk; ubo_stop; wait "$ubo_b"' USR2
trap ubo_clean EXIT
ubo_say start
ubo_beats plain

if [ "$ubo_f" = directory ] && ! command -v tar >/dev/null 2>&1; then ubo_end tar-missing 1; fi

if (set -o pipefail) 2>/dev/null; then ubo_q=pipefail
elif [ "$ubo_q" = piped ] && command -v bash >/dev/null 2>&1; then ubo_q=bash
elif [ "$ubo_q" = piped ]; then ubo_end pipeline 1
fi

if dd ibs=65536 obs=1048576 </dev/null >/dev/null 2>&1; then ubo_x='dd ibs=65536 obs=1048576'
elif command -v cat >/dev/null 2>&1; then ubo_x=cat
else ubo_x=
fi

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

if [ "$ubo_f" = directory ]; then
  ubo_take
  ubo_room
  [ -z "$ubo_v" ] || ubo_end "$ubo_v" 1
  if [ -z "$ubo_made" ]; then ubo_e="$ubo_e --exclude=./.ubo-run"; fi
  if [ -n "$ubo_e" ] && ! tar -C "$ubo_d" $ubo_e -cf - . >/dev/null 2>&1; then ubo_i=1; fi
  ubo_rest
  ubo_beats staged
fi
ubo_watched

if [ "$ubo_f" = stdout ]; then
  ubo_do ubo_command
  ubo_end command "$ubo_v"
fi
ubo_log() { ubo_command >&2; }
ubo_x_kept=$ubo_x ubo_x=
ubo_do ubo_log
[ "$ubo_v" = 0 ] || ubo_end command "$ubo_v"
ubo_rest
ubo_beats plain
ubo_x=$ubo_x_kept
ubo_do ubo_tar
ubo_end tar "$ubo_v"

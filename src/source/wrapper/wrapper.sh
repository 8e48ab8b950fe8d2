# Runs one piece of work inside somebody else's container and proves on standard output how it ended.
# What goes over which stream, and why, is told in ../wrapper.rs. Comment lines are cut before it is sent; this part comes
# first, then hooks.sh where there are hooks, then one of stdout.sh, directory.sh and copy.sh.
#
# $1 nonce  $2 command  $3 directory, or path to copy  $4 UID of the run  $5 plain|piped|allowed
# $6 limit of the directory in KiB, with a v behind it for volumes too  $7 seconds between heartbeats  $8 name of the run
# $9 target path or nothing
# ${10} hook before  ${11} its limit in seconds  ${12} hook after  ${13} its limit  ${14} folders not to enter, one a line
# ${15} not empty where this run has had an attempt before

ubo_n=$1 ubo_c=$2 ubo_d=$3 ubo_u=$4 ubo_q=$5 ubo_m=$6 ubo_t=$7
UBO_RUN=$8; export UBO_RUN
if [ -n "$9" ]; then UBO_TARGET_PATH=$9; export UBO_TARGET_PATH; fi
# 3: the control line, 4: the backup. Everything else that anybody prints is log.
exec 3<&0 4>&1 </dev/null >&2
ubo_w= ubo_h= ubo_b= ubo_own= ubo_made= ubo_mark= ubo_full= ubo_e= ubo_i= ubo_me= ubo_s= ubo_r=
ubo_begun= ubo_late= ubo_failed= ubo_keep= ubo_far= ubo_0=0
ubo_strict=-e

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
# one make only a process group, or nothing, then of that group, or our child. With ubo_far also one that has left the
# session (`setsid`, a daemon), but not our environment.
ubo_ours() {
  case " $$ $ubo_w $ubo_h $ubo_me $ubo_keep " in *" $1 "*) return 1 ;; esac
  ubo_stat "$1" || return 1
  ubo_y=$1
  set -- $ubo_l
  [ "$1" != Z ] || return 1
  case " $2 $3 $4 " in
    *" $$ "*) ;;
    # What is older than we are costs no look.
    *) [ -n "$ubo_far" ] && [ "${20}" -ge "$ubo_0" ] && ubo_marked "$ubo_y" || return 1 ;;
  esac
  case " $ubo_w $ubo_h $ubo_keep " in *" $2 "*) return 1 ;; esac
  ubo_y=$2
}

# Whether the environment of $1 is one that we made. Shells read over the zeros in it.
ubo_marked() {
  { while read -r ubo_l || [ -n "$ubo_l" ]; do
    case $ubo_l in *"UBO_ATTEMPT=$UBO_ATTEMPT"*) return 0 ;; esac
  done <"/proc/$1/environ"; } 2>/dev/null
  return 1
}

# Looks for what the command has started, and fails if there is nothing. `TERM` sends that signal to each that has not had
# it, `leaf` KILL to those without children, `KILL` KILL to all.
ubo_signal() {
  ubo_g=1 ubo_j=' ' ubo_far=$1
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

# Before a tar of ours: variables by which a container's environment could make it leave out files and say nothing.
ubo_bare() { unset TAR_OPTIONS TAR_READER_OPTIONS TAR_WRITER_OPTIONS; }

# What the form of the work removes when it is over, and what hooks do, where there are any.
ubo_clean() { :; }
ubo_before() { :; }
ubo_after() { :; }

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
  ubo_after cut
  ubo_clean
  exit 143
}

# Waits for the control line. `stop`, or an end of file instead of it, means that nobody reads any more.
ubo_watch() {
  read -r ubo_p <&3 && [ "$ubo_p" != stop ] && exit 0
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
  ubo_after cut
  ubo_clean
  exit 0
}

ubo_watched() { ubo_watch 4>&- & ubo_w=$!; }

ubo_beat() {
  trap 'trap "" TERM PIPE; kill "$ubo_s" 2>/dev/null; wait; exit 0' TERM PIPE
  while :; do
    sleep "$ubo_t" >/dev/null 2>&1 & ubo_s=$!
    wait "$ubo_s"
    # 126 and 127: there is no `sleep` here, and a loop without one would burn a core
    case $? in 126 | 127) exit 0 ;; esac
    ubo_say .
    # Whoever shares a volume with us sees by this that we live. What is gone must not come back.
    [ -z "$ubo_own" ] || touch -c "$ubo_mark" 2>/dev/null
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
  ubo_after "$1" "$2"
  case $ubo_failed in '') ;; late) set -- after-late 1 ;; *) set -- after "$ubo_failed" ;; esac
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

# A part that fails ends it with that part's exit code (`set -e`, but for the hook after): of `pg_dump a; pg_dump b` a shell
# would tell the last one's alone. Told to end, it waits for what it has put into the background: its children would be
# zombies of a first process that never waits.
ubo_command() (
  exec 3<&- 4>&-
  trap - HUP INT PIPE USR1 USR2 EXIT
  trap 'trap "" TERM; wait; exit 143' TERM
  if [ "$ubo_q" = bash ]; then exec bash $ubo_strict -o pipefail -c "$ubo_z" bash "$ubo_c"; fi
  if [ "$ubo_q" = pipefail ]; then set -o pipefail; fi
  set --
  set $ubo_strict
  eval "$ubo_c"
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
ubo_since $$ && ubo_0=$ubo_v
UBO_ATTEMPT=$ubo_u.$$.$ubo_0; export UBO_ATTEMPT
ubo_say start
ubo_beats plain

# An earlier attempt of this run may live, unheard: its connection was cut, and nobody has told it yet, or its hook takes
# long. It is ended, its `after` included, before this one begins. It is known by its first argument (see `script`).
ubo_older() {
  for ubo_p in /proc/[0-9]*; do
    ubo_p=${ubo_p#/proc/}
    [ "$ubo_p" != $$ ] || continue
    ubo_l=
    { read -r ubo_l <"/proc/$ubo_p/cmdline"; } 2>/dev/null
    case $ubo_l in "sh-c# $ubo_u"*) ;; *) continue ;; esac
    ubo_stat "$ubo_p" || continue
    set -- "$ubo_p" $ubo_l
    # A leader of a session, in this container: with the host's process ids others of its kind are seen too.
    [ "$1" = "$5" ] && [ "/proc/$1/root" -ef / ] && ubo_since "$1" || continue
    set -- "$1" "$ubo_v"
    kill -s TERM "$1" 2>/dev/null
    ubo_k=0
    while ubo_since "$1" && [ "$ubo_v" = "$2" ]; do
      [ $ubo_k -lt 500 ] || ubo_end busy 1
      ubo_nap
    done
  done
}
if [ -n "${15}" ]; then ubo_older; fi

if (set -o pipefail) 2>/dev/null; then ubo_q=pipefail
elif [ "$ubo_q" = piped ] && command -v bash >/dev/null 2>&1; then ubo_q=bash
elif [ "$ubo_q" = piped ]; then ubo_end pipeline 1
fi

# Whole blocks: the dd of uutils 0.8 (Ubuntu 26.04) reads on at the next block after a short read, fills the gap with what
# lay there, and drops as much at the end (uutils/coreutils 13458). A dd that knows no whole blocks is not used.
if dd iflag=fullblock ibs=65536 obs=1048576 </dev/null >/dev/null 2>&1; then
  ubo_x='dd iflag=fullblock ibs=65536 obs=1048576'
elif command -v cat >/dev/null 2>&1; then ubo_x=cat
else ubo_x=
fi

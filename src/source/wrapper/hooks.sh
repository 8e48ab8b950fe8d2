# The commands before and after. Comes after wrapper.sh, whose empty ubo_before and ubo_after it replaces.

ubo_work=$ubo_c ubo_a=${12} ubo_a_limit=${13}
ubo_first=${10} ubo_first_limit=${11}

# Seconds since the machine is up, in ubo_v.
ubo_clock() { read -r ubo_v ubo_p </proc/uptime; ubo_v=${ubo_v%%.*}; }

# Runs $1 for at most $2 seconds; its exit code is in ubo_v, and ubo_late is set if it had to be ended. It is looked at
# rather than waited for: this also runs inside a trap, where no signal of a clock would be heard.
ubo_hook() {
  ubo_c=$1 ubo_late=
  ubo_command >&2 & ubo_b=$!
  ubo_clock
  set -- $(($2 + ubo_v)) 0
  while ubo_since "$ubo_b"; do
    # Most hooks are through within milliseconds, for which nobody sleeps.
    if [ "$2" -lt 100 ]; then set -- "$1" $(($2 + 1)); continue; fi
    ubo_nap
    ubo_clock
    [ "$ubo_v" -lt "$1" ] || { ubo_late=1; ubo_stop; break; }
  done
  wait "$ubo_b"
  ubo_v=$?
}

# What it has left running (a session that holds a lock) is kept until the end, with the children that it has.
ubo_before() {
  if [ -n "$ubo_first" ]; then
    ubo_hook "$ubo_first" "$ubo_first_limit"
    [ -z "$ubo_full" ] || ubo_end "$ubo_full" 1
    [ -z "$ubo_late" ] || ubo_end before-late 1
    [ "$ubo_v" = 0 ] || ubo_end before "$ubo_v"
    ubo_far=1
    for ubo_p in /proc/[0-9]*; do
      ubo_p=${ubo_p#/proc/}
      if ubo_ours "$ubo_p"; then ubo_keep="$ubo_keep $ubo_p"; fi
    done
  fi
  ubo_c=$ubo_work
}

# Once, however it ends; but what was cut off in the middle of it is done again. Then nobody reads what is printed any
# more, and a write to a broken pipe must not end it. A failure here is one of the run, unless the work has failed before.
ubo_after() {
  [ -n "$ubo_begun" ] || return 0
  trap : USR1 USR2
  if [ "$1" = cut ]; then exec >/dev/null 2>&1; fi
  if [ -n "$ubo_a" ]; then
    # It sets things right again: what comes after a part that fails is not left out.
    ubo_strict=+e
    ubo_hook "$ubo_a" "$ubo_a_limit"
    [ -z "$ubo_late" ] || ubo_v=late
    if [ "$ubo_v" != 0 ]; then
      ubo_say "after $ubo_v"
      case $1:$2 in
        command:0 | tar:*) ubo_failed=$ubo_v ;;
      esac
    fi
  fi
  ubo_begun= ubo_keep=
  ubo_stop
}

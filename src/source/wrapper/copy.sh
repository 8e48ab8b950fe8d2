# A tar of a directory or file that is there. Comes after wrapper.sh.

if ! command -v tar >/dev/null 2>&1; then ubo_end tar-missing 1; fi

# Which tar it is, in ubo_o. GNU's says by 1 that something changed and by 2 that something could not be read, the others
# by 1 that anything was wrong; it writes in pieces of any size, and leaves out the holes of sparse files. The format is one
# that every tar reads: long names, large files, any bytes in names.
ubo_e= ubo_skip=${14}
case $(ubo_bare; tar --version 2>&1) in
  *"(GNU tar)"*) ubo_o=gnu ubo_try='--format=gnu --numeric-owner --blocking-factor=2048' ;;
  *bsdtar*) ubo_o=bsd ubo_try='--format=gnutar --numeric-owner' ;;
  *[Bb]usy[Bb]ox*) ubo_o=busybox ubo_try= ;;
  *) ubo_o=other ubo_try= ;;
esac
if [ -n "$ubo_try" ] && (ubo_bare; exec tar $ubo_try -cf - /dev/null) >/dev/null 2>&1; then ubo_e=$ubo_try
elif [ -n "$ubo_try" ]; then ubo_o=other
fi
if [ $ubo_o = gnu ]; then ubo_x=; fi
# What a pattern begins with that means one folder: without it libarchive's tar leaves out its namesakes at any depth. Of a
# tar that nobody knows nothing is asked.
case $ubo_o in bsd) ubo_f=^./ ;; other) ubo_skip= ;; *) ubo_f=./ ;; esac

# A path that is a link is followed: what it leads to is meant.
if [ -d "$ubo_d" ]; then ubo_at=$ubo_d ubo_name=.
elif [ -e "$ubo_d" ]; then ubo_at=${ubo_d%/*} ubo_name=./${ubo_d##*/} ubo_e="$ubo_e -h"
else ubo_end no-path 1
fi
ubo_at=${ubo_at:-/}
cd -- "$ubo_at" 2>/dev/null || ubo_end no-path 1
cd /

# What could have changed, as one number (of nothing at all it is d41d8cd9…): only GNU's
# tar tells of a file that did.
ubo_print() {
  [ $ubo_o = gnu ] ||
    (cd -- "$ubo_at" && find "$ubo_name" -exec stat -c '%n %i %s %y %z' {} + | md5sum) 2>/dev/null 3<&- 4>&-
}

# Whether each file that is not empty has blocks on its disk, as far as it is not left out. GNU's tar takes one without for
# a single hole, unread; but there are file systems (of FUSE, of networks) on which no file has any.
ubo_solid() (
  exec 3<&- 4>&-
  case $(find --version 2>&1) in *"GNU findutils"*) ;; *) exit 1 ;; esac
  cd -- "$ubo_at" || exit 1
  set -f
  set --
  IFS='
'
  for ubo_p in $ubo_skip; do set -- "$@" -type d -path "./$ubo_p" -prune -o; done
  unset IFS
  ubo_v=$({ find -H "$ubo_name" "$@" -type f -size +0c -printf '%b\n' 2>/dev/null && echo all; } |
    while read -r ubo_p; do
      case $ubo_p in (0) break ;; (all) echo all ;; esac
    done)
  [ "$ubo_v" = all ]
)

ubo_copy() (
  exec 3<&- 4>&-
  ubo_bare
  cd -- "$ubo_at" || exit 125
  LC_ALL=C; export LC_ALL
  set --
  # Folders that are left out whole need not be read, where tar can be told so and they are folders.
  if [ -n "$ubo_skip" ] && tar --exclude=./ubo -cf - /dev/null >/dev/null 2>&1; then
    set -f
    IFS='
'
    for ubo_p in $ubo_skip; do
      if [ -d "./$ubo_p" ] && [ ! -L "./$ubo_p" ]; then set -- "$@" "--exclude=$ubo_f$ubo_p"; fi
    done
    unset IFS
  fi
  exec tar $ubo_e "$@" -cf - "$ubo_name"
)

ubo_begun=1
ubo_watched
ubo_before
ubo_was=$(ubo_print)
# After the hook, which may make the files; without it the zeros of a hole are read, and hardly take room when compressed.
if [ $ubo_o = gnu ] && ubo_solid; then ubo_e="$ubo_e --sparse"; fi
case $ubo_o:$ubo_was in gnu:) ;; *: | *:d41d8cd98f00b204*) ubo_say blind ;; esac
ubo_say "tar-begin $ubo_o"
ubo_do ubo_copy
ubo_code=$ubo_v
[ "$ubo_was" = "$(ubo_print)" ] || ubo_say changed
ubo_say tar-end
ubo_end tar "$ubo_code"

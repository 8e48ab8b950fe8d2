#!/bin/sh
# Runs PostgreSQL as user postgres, and makes its database first where there is none. Started as another user than root
# (a pod's runAsUser), it runs the server as that one.
set -eu
as_postgres=
if [ "$(id -u)" = 0 ]; then
    as_postgres="setpriv --reuid=postgres --regid=postgres --init-groups"
    mkdir -p "$PGDATA"
    chown postgres:postgres "$PGDATA"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # Beside it first: an unfinished database must not be taken for one.
    rm -rf "${PGDATA:?}"/* "${PGDATA:?}"/.[!.]*
    $as_postgres initdb --pgdata="$PGDATA" --auth=trust --username=postgres --encoding=UTF8 --no-sync
    echo "host all all all trust" >> "$PGDATA/pg_hba.conf"
fi
exec $as_postgres postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql -c jit=off

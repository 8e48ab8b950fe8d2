# Fills /data for the benchmark of copies: the same bytes each time, out of the image's own files and of a cipher's stream.
set -e
rm -rf /data/tree /data/block
mkdir -p /data/tree/random
cd /data/tree

# $1 bytes that nothing can compress, another stream for each $2.
random() { head -c "$1" /dev/zero | openssl enc -aes-128-ctr -K "$(printf %032d "$2")" -iv "$(printf %032d 0)"; }

# Programs, libraries, scripts and texts; twice more the libraries; and a third of it all that cannot be compressed.
cp -a /usr usr
for n in 1 2; do cp -a "/usr/lib/$(uname -m)-linux-gnu" "libraries-$n"; done
for n in $(seq 250); do random 1048576 "$n" >"random/$n"; done

# For the streams: 64 MiB, of which each second half of a MiB can be compressed.
tar -c -f /data/files -C /usr lib share bin
for n in $(seq 64); do
  random 524288 "$((1000 + n))"
  dd if=/data/files bs=524288 skip="$n" count=1 status=none
done >/data/block
rm /data/files
echo "$(find . -type f | wc -l) $(du -s --apparent-size -B 1 . | cut -f 1)"

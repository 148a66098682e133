#!/bin/sh
# Counts the instructions of one call of the hot path, and of the bare lookup beside
# it, with callgrind: the difference between two runs of different length.
set -eu
cd "$(dirname "$0")/../.."
bench=$(cargo bench -p shared --bench hot_path --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*hot_path-[^"]*\)".*/\1/p')
out=$(mktemp)
trap 'rm -f "$out" "$out.log"' EXIT
run() {
    valgrind --tool=callgrind --callgrind-out-file="$out" --log-file="$out.log" \
        "$bench" count "$1" "$2"
    sed -n 's/^summary: //p' "$out"
}
for subject in floor own adopted; do
    short=$(run "$subject" 10000)
    long=$(run "$subject" 30000)
    echo "$subject: $(((long - short) / 20000)) instructions per call"
done

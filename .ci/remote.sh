#!/usr/bin/env bash
# Remote runs against a real sshd on loopback: the library's tests, then the program from one end to the other.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v /usr/sbin/sshd >/dev/null || ! command -v flock >/dev/null; then
  apt-get update -qq && apt-get install -y -qq openssh-server openssh-client util-linux procps
fi
# Its separation of privileges wants this folder; without the system's own service nobody has made it.
mkdir -p /run/sshd
cargo test -q -p driftprobe-remote -- --include-ignored

work=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT
port=$((20000 + RANDOM % 20000))
for key in host user; do ssh-keygen -q -t ed25519 -N '' -f "$work/$key"; done
cp "$work/user.pub" "$work/authorized"
chmod 600 "$work/authorized"
echo "[127.0.0.1]:$port $(cat "$work/host.pub")" >"$work/known"
cat >"$work/sshd_config" <<CONFIG
Port $port
ListenAddress 127.0.0.1
HostKey $work/host
AuthorizedKeysFile $work/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
CONFIG
cat >"$work/ssh_config" <<CONFIG
Host probe
  HostName 127.0.0.1
  Port $port
  IdentityFile $work/user
  IdentitiesOnly yes
  UserKnownHostsFile $work/known
CONFIG
/usr/sbin/sshd -D -e -f "$work/sshd_config" 2>"$work/sshd.log" &
server=$!
for _ in $(seq 50); do (: </dev/tcp/127.0.0.1/$port) 2>/dev/null && break || sleep 0.1; done

# expect STATUS COMMAND…: runs the command and insists on its exit status.
expect() {
  local status=0 expected=$1
  shift
  "$@" >"$work/report" 2>"$work/error" || status=$?
  if [ "$status" != "$expected" ]; then
    cat "$work/report" "$work/error"
    echo "$*: exit status $status, expected $expected" >&2
    exit 1
  fi
}
cargo build --release --quiet -p driftprobe-cli
driftprobe=${CARGO_TARGET_DIR:-target}/release/driftprobe
remote=(--remote probe --remote-config "$work/ssh_config" --remote-folder "$work/there")
echo 'It was the best of times; "quoted" $(and) all' >"$work/prompt.txt"

# This binary goes there, runs the embedded model, and what it wrote is judged here.
expect 0 "$driftprobe" run "${remote[@]}" --layers 0,2 --prompts "$work/prompt.txt" 'A text; with $(signs)' --out "$work/run"
grep -q '^PASS (STRUCTURAL_DRIFT)' "$work/report"
grep -q '"AMD_SERIALIZE_KERNEL": "3"' "$work/run/manifest.json"
grep -q '"exit_status": 0' "$work/run/remote.json"

# A fault there is found here.
expect 1 "$driftprobe" run "${remote[@]}" --layers 0,2 --mode as_designed --fault ROPE_POSITION_OFFSET:+1@decode:layer2 --out "$work/faulty"
grep -q 'Cause: ROPE_POSITION_OFFSET (offset +1) in decode' "$work/report"

# A command of one's own that writes a run; a binary that lies there.
traces=$PWD/crates/driftprobe-trace/tests/fixtures/greta/drift
expect 3 "$driftprobe" run "${remote[@]}" --remote-command "cp -r $traces \"\$DRIFTPROBE_RUN\"" --out "$work/own"
grep -q '^INCONCLUSIVE' "$work/report"
expect 0 "$driftprobe" run "${remote[@]}" --remote-binary "$(realpath "$driftprobe")" --layers 0 --prompts hello --out "$work/lies"

# Sources that lie there (here: these, in this target folder, which the server tells its sessions) are built there; the
# compiler's words come here.
expect 0 "$driftprobe" run "${remote[@]}" --remote-build "$PWD" --layers 0,2 --prompts hello --out "$work/built"
grep -q '^PASS (STRUCTURAL_DRIFT)' "$work/report"
grep -q 'Finished `release` profile' "$work/error"
expect 2 "$driftprobe" run "${remote[@]}" --remote-build "$PWD" --remote-features nosuch --out "$work/unbuilt"
grep -q "does not contain this feature: nosuch" "$work/error"
expect 2 "$driftprobe" run "${remote[@]}" --remote-build no/such/sources --out "$work/unbuilt"
grep -q 'no/such/sources' "$work/error"
test ! -e "$work/unbuilt"

# What cannot be done is said, with a hint; nothing is left behind here.
expect 2 "$driftprobe" run "${remote[@]}" --model /no/such/model --out "$work/none"
grep -q 'exit status 2' "$work/error"
grep -q 'hint:' "$work/error"
test ! -e "$work/none"
expect 2 "$driftprobe" run "${remote[@]}" --out "$work/run"

# A run that lies here is replaced by one that came whole, and by nothing less; what else lies beside it stays.
echo mine >"$work/run/notes.txt"
before=$(sha256sum <"$work/run/manifest.json")
expect 2 "$driftprobe" run "${remote[@]}" --model /no/such/model --out "$work/run" --overwrite
test "$before" = "$(sha256sum <"$work/run/manifest.json")"
expect 0 "$driftprobe" analyze "$work/run" --out "$work/report-before"
expect 0 "$driftprobe" run "${remote[@]}" --layers 0 --prompts 'another text' --out "$work/run" --overwrite
grep -q '^PASS' "$work/report"
test "$before" != "$(sha256sum <"$work/run/manifest.json")"
test "$(cat "$work/run/notes.txt")" = mine
expect 0 "$driftprobe" analyze "$work/run" --out "$work/report-after"
expect 2 "$driftprobe" run "${remote[@]}" --layers 0 --out "$work" --overwrite
test -e "$work/user"
echo "remote runs: ok"

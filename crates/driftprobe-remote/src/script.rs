//! The scripts that run there, each by `sh -c`, with its arguments as `$1`, `$2` …

/// `$1`: folder, or nothing for `~/.driftprobe`. Prints its real path, then system and machine.
pub const PREPARE: &str = r#"
set -eu
umask 077
base=${1:-$HOME/.driftprobe}
mkdir -p "$base/bin" "$base/jobs"
cd "$base"
pwd -P
uname -sm
for tool in flock setsid tar gzip sha256sum; do
  command -v "$tool" >/dev/null || { echo "$tool is not there" >&2; exit 1; }
done
"#;

/// `$1`: file. Prints its SHA-256, or nothing if it is not there.
pub const HASH: &str = r#"
set -eu
if [ -f "$1" ]; then sha256sum <"$1"; fi
"#;

/// `$1`: file to be written from standard input; `$2`: its mode. Prints its SHA-256.
pub const RECEIVE: &str = r#"
set -eu
umask 077
mkdir -p "$(dirname "$1")"
cat >"$1.part"
chmod "$2" "$1.part"
mv "$1.part" "$1"
sha256sum <"$1"
"#;

/// `$1`: folder; `$2`: job; `$3`: who asks; then `NAME=VALUE` …, program and arguments. Starts the job by itself, so that it
/// outlives the connection, and prints `started`, or `locked` and the owner.
pub const START: &str = r#"
set -eu
umask 077
base=$1 job=$2
mkdir -p "$base/jobs/$job"
cd "$base/jobs/$job"
inner='
base=$1 job=$2 who=$3
shift 3
exec 9>>"$base/lock"
if ! flock -n 9; then echo locked >status.part; mv status.part status; exit; fi
echo "$who, job $job" >"$base/owner"
echo $$ >pid
env "$@" 9>&-
echo $? >status.part
mv status.part status
'
setsid sh -c "$inner" driftprobe "$@" >log 2>&1 </dev/null &
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  if [ -f status ] && [ "$(cat status)" = locked ]; then
    echo locked
    cat "$base/owner" 2>/dev/null || true
    rm -rf "$base/jobs/$job"
    exit
  fi
  if [ -f pid ]; then echo started; exit; fi
  sleep 0.25
done
echo "the job does not start" >&2
exit 1
"#;

/// `$1`: job's folder; `$2`: where in the log to go on, from 1. Prints what follows of the log to standard output, and to standard
/// error `exit N` once the job has ended, `gone` if it is neither running nor ended.
pub const FOLLOW: &str = r#"
cd "$1" || exit 1
if [ -f status ]; then echo "exit $(cat status)" >&2
elif [ -f pid ] && kill -0 "$(cat pid)" 2>/dev/null; then :
elif [ -f status ]; then echo "exit $(cat status)" >&2
else echo gone >&2
fi
tail -c "+$2" log 2>/dev/null | head -c 1000000
"#;

/// `$1`: job's folder. Prints the SHA-256 and name of each file under `run`.
pub const LIST: &str = r#"
set -eu
cd "$1"
[ -d run ] || { echo "the job wrote no run" >&2; exit 1; }
find run -type f -exec sha256sum {} +
"#;

/// `$1`: job's folder. Packs `run`.
pub const PACK: &str = r#"
cd "$1" && tar -cf - run | gzip -1
"#;

/// `$1`: folder; `$2`: job. Deletes the job's folder.
pub const DELETE: &str = r#"
set -eu
cd "$1/jobs"
rm -rf -- "./$2"
"#;

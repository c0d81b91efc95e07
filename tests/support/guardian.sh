# Runs a server for a test process, which gives its orders through a pipe: `start`, or the name of a
# signal. However that process ends, the pipe closes, and the server and its folder go.
#
# $1 = the server's folder, the rest = its command. The test process makes $1/running before it
# orders a start; it is removed here once the server has ended.

folder=$1
shift

run() {
    setsid "$@" </dev/null >>"$folder/output" 2>&1 &
    echo $! >"$folder/pid"
    : >"$folder/started"
    wait $!
    kill -s KILL -- "-$!" # what the server left behind in its process group
    rm "$folder/pid" "$folder/running"
}

start() {
    rm -f "$folder/started"
    run "$@" &
    until [ -e "$folder/started" ]; do sleep 0.01; done # so that the next order finds $folder/pid
}

send() { # signal
    server=$(cat "$folder/pid") || return 0
    [ "$1" = KILL ] && kill_children "$server"
    # Right after its start it does not lead a process group yet.
    kill -s "$1" -- "-$server" || kill -s "$1" "$server"
}

# PostgreSQL's children lead groups of their own, and outlive their parent while they are busy.
kill_children() { # parent
    kill -s STOP "$1" # so that it makes no more of them
    for child in $(grep -lx "PPid:[[:space:]]*$1" /proc/[0-9]*/status | cut -d / -f 3); do
        kill -s KILL "$child"
    done
}

while read -r order; do
    case $order in
    start) start "$@" ;;
    *) send "$order" ;;
    esac
done

send KILL
wait
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$folder" && break
    sleep 0.1 # a killed process may still be writing
done

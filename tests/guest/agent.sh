#!/bin/dash
# The first and last process of a guest. It mounts the folder that the host shares (/host) and takes orders, a line each,
# on the second serial port; guest.py is the other end.
#
#   start ID        runs /host/ID.sh in a session of its own; output to /host/ID.out. Answers "done ID STATUS" at its end
#   signal ID NAME  sends a signal to ID and what it started
#   off             ends
#
# dash and not busybox's shell: there, a child that ends while a line is half read makes `read` forget that half.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
/usr/bin/busybox --install -s /usr/bin 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /sys/kernel/debug
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o size=80% tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir -p /run/agent
while read -r module; do
    insmod "$module" || echo "agent: $module does not load"
done </base-modules
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none host /host || echo "agent: no /host"
ip link set lo up 2>/dev/null || ifconfig lo 127.0.0.1 up
hostname guest

begin() {
    # dash's child becomes the leader of its session without another fork, and `exec PROGRAM` in the script makes its
    # number the program's.
    # The path keeps busybox from taking its own shell, which takes its own applets before our programs.
    setsid /usr/bin/sh "/host/$1.sh" </dev/null >"/host/$1.out" 2>&1 &
    echo $! >"/run/agent/$1.new"
    mv "/run/agent/$1.new" "/run/agent/$1"
    wait $!
    echo "done $1 $?" >&3
}

tell() {
    read -r number <"/run/agent/$1"
    # It may not have its session yet.
    kill -s "$2" -- -"$number" 2>/dev/null || kill -s "$2" "$number" 2>/dev/null
}

stty -F /dev/ttyS1 raw -echo 2>/dev/null
exec 3>/dev/ttyS1
echo "ready $(uname -r)" >&3
while read -r verb id rest; do
    case $verb in
    start)
        begin "$id" &
        # A signal may be the next order.
        until [ -e "/run/agent/$id" ]; do sleep 0.01; done
        ;;
    signal) tell "$id" "$rest" ;;
    off) break ;;
    esac
done </dev/ttyS1
sync
poweroff -f

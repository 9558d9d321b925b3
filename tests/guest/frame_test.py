#!/usr/bin/env python3
"""Goal: the frame itself: statuses, time limits, signals, devices, processes of the host, a guest that dies. And what later
tests of front-ends need of Debian's kernel is there: virtio_blk, nbd, NVMe/TCP.

Method: two guests; the second one panics."""
import os
import sys
import tempfile
import time

from guest import Failure, Guest, Image, expect, main

DISK_MIB = 8
NQN = "nqn.2026-01.test:one"
MODULES = ["nbd", "nvme_tcp", "nvmet_tcp"]


def fails(function, *words):
    """The text of the failure that must come."""
    try:
        function()
    except Failure as failure:
        for word in words:
            expect(word in str(failure), f"not '{word}' but: {failure}")
        return
    raise Failure(f"no failure with {words}")


def check_status(guest):
    guest.run("true")
    guest.run("exit 7", status=7)
    fails(lambda: guest.run("echo here; exit 3"), "ended with 3", "here")
    expect(guest.run("printf 'a b\\n\\nc'") == "a b\n\nc", "output is not what was written")
    fails(lambda: guest.run("no-such-program"), "127")


def check_programs_before_applets(guest):
    """ip and the shell are the image's, not busybox's of the same names."""
    expect("iproute2" in guest.run("ip -V"), "busybox's ip")
    guest.run("cmp /proc/$$/exe /bin/dash")


def check_many_at_once(guest):
    """Answers come while orders go out; each finds its command."""
    processes = [guest.start(f"n{number}", f"echo {number}; exit {number}") for number in range(40)]
    for number, process in enumerate(processes):
        expect(process.wait() == number and process.text() == f"{number}\n", f"{number}: {process.status} {process.text()}")


def check_large_output(guest):
    expect(len(guest.run("seq 200000")) == len("".join(f"{n}\n" for n in range(1, 200001))), "output is cut")


def check_time_limit(guest):
    began = time.monotonic()
    fails(lambda: guest.run("echo begun; sleep 1000 | sleep 1000", limit_s=1), "not done within", "begun")
    expect(time.monotonic() - began < 100, "the limit was not kept")
    expect("sleep 1000" not in guest.run("ps"), "something of it runs on")


def check_signals(guest):
    process = guest.start("trap", "trap 'echo caught; exit 5' USR1; echo set; while :; do sleep 0.1; done")
    process.wait_for("set")
    process.signal("USR1")
    expect(process.wait() == 5 and "caught" in process.text(), process.text())
    process = guest.start("stopped", "exec sleep 1000")
    process.signal("STOP")
    process.kill()
    expect(process.status == 137, f"{process.status}")
    fails(lambda: process.wait_for("never", limit_s=1), "ended with 137")


def check_files(guest):
    data = os.urandom(300000)
    with open(f"{guest.share}/in", "wb") as file:
        file.write(data)
    guest.run("cp /host/in /tmp/in && cmp /tmp/in /host/in && cat /tmp/in /tmp/in >/host/out")
    with open(f"{guest.share}/out", "rb") as file:
        expect(file.read() == data + data, "the file came back otherwise")


def check_virtio_blk(guest):
    size = guest.run("cat /sys/block/vda/size").strip()
    expect(size == str(DISK_MIB * 2048), f"/dev/vda has {size} sectors")
    guest.run("echo from the guest | dd of=/dev/vda bs=4096 seek=3 conv=sync,fsync && "
              "dd if=/dev/vda bs=4096 skip=2 count=1 | grep -q 'from the host'")
    with open(guest.drives[0], "rb") as file:
        file.seek(3 * 4096)
        expect(file.read(14) == b"from the guest", "the host's file does not hold what the guest wrote")


def check_host_process(guest):
    """A server of the host, reached through QEMU's user network."""
    with open(f"{guest.directory}/page", "w") as file:
        file.write("served by the host\n")
    guest.host("server", [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", guest.directory, "0"])
    deadline = time.monotonic() + 20
    while "port " not in guest.read_log("server.log"):
        expect(time.monotonic() < deadline, "the server does not start")
        time.sleep(0.05)
    port = guest.read_log("server.log").split("port ")[1].split()[0]
    expect("served by the host" in guest.run(f"wget -q -O - http://10.0.2.2:{port}/page"), "not its page")


def check_nbd(guest):
    guest.load("nbd")
    guest.run("test -b /dev/nbd0")


def check_nvme_tcp(guest):
    """The kernel's own target on /dev/vda, the kernel's own client, over TCP."""
    guest.load("nvmet_tcp", "nvme_tcp")
    guest.run(f"""set -e
        mount -t configfs configfs /sys/kernel/config
        cd /sys/kernel/config/nvmet
        mkdir -p subsystems/{NQN}/namespaces/1 ports/1
        echo 1 >subsystems/{NQN}/attr_allow_any_host
        echo -n /dev/vda >subsystems/{NQN}/namespaces/1/device_path
        echo 1 >subsystems/{NQN}/namespaces/1/enable
        cd ports/1
        echo 127.0.0.1 >addr_traddr; echo tcp >addr_trtype; echo 4420 >addr_trsvcid; echo ipv4 >addr_adrfam
        ln -s ../../subsystems/{NQN} subsystems/
        echo transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn={NQN} >/dev/nvme-fabrics""", name="connect")
    guest.run("for i in $(seq 100); do [ -b /dev/nvme0n1 ] && break; sleep 0.1; done; "
              "dd if=/dev/nvme0n1 bs=4096 skip=2 count=1 | grep -q 'from the host'", name="nvme-read")
    guest.run("echo 1 >/sys/class/nvme/nvme0/delete_controller", name="disconnect")


def check_panic_is_told(guest):
    """A second guest dies; the failure shows its console, and nothing runs on."""
    def die():
        with Guest(Image(), quiet=True) as other:
            other.run("echo c >/proc/sysrq-trigger; sleep 100")
    fails(die, "ended", "sysrq")


CHECKS = [check_status, check_programs_before_applets, check_many_at_once, check_large_output, check_time_limit, check_signals, check_files,
          check_virtio_blk, check_host_process, check_nbd, check_nvme_tcp, check_panic_is_told]

if __name__ == "__main__":
    with tempfile.NamedTemporaryFile(dir=".") as disk:
        os.truncate(disk.fileno(), DISK_MIB << 20)
        os.pwrite(disk.fileno(), b"from the host", 2 * 4096)
        main(lambda: Image().program("ip").modules(*MODULES), CHECKS, arguments=sys.argv[1:], drives=[disk.name], network=True)

#!/usr/bin/env python3
"""Goal: the ofi link keeps its promises on real queue pairs: data is right at every size and depth, and whoever dies, lies
or falls silent, nothing hangs and the others go on.

Method: verbs over Soft-RoCE in a guest, which is one host (rxe loops back); for a link that goes down silently two guests
with a wire between them. The fabric's conformance suite holds the link to each of its rules, keys that are wrong or
revoked among them."""
import re
import sys
import time

import roce
import rxe
from guest import EXT4, Guest, Image, disk, expect, finish, run_checks, together, wire
from trio import Trio, add_programs

DEVICE = "ofi+verbs:rxe0"
KEY = "00112233445566778899aabbccddeeff" * 2
OTHER_KEY = "ff112233445566778899aabbccddeeff" * 2
# Both ends of the wire.
HERE, THERE = "10.9.1.1", "10.9.1.2"


def trio_on(guest, address=rxe.ADDRESS):
    return Trio(guest, DEVICE, f"{address}:0", key=KEY)


def conformance(form):
    def run(guest):
        guest.run(f"export SLUICE_TEST_VERBS=rxe0 SLUICE_TEST_ABSENT={rxe.ABSENT}:7600; exec conformance_test ofi+verbs 'ofi+verbs/{form}/*'", limit_s=240,
                  name=f"conformance-{form}")
    return f"conformance_{form}", run


# Size, depths, length: few operations where each is slow. The link's queue takes 512 operations: 600 are more than that.
# Of the large sizes so many would be gigabytes.
SIZES = [("4K", [(1, "256K"), (32, "1M"), (600, "4M")]), ("64K", [(1, "1M"), (32, "4M"), (600, "44M")]),
         ("1M", [(1, "4M"), (32, "40M")]), ("8196K", [(1, "17M"), (32, "48M")])]
FEWER = [("4K", [(1, "128K"), (32, "512K"), (600, "3M")]), ("64K", [(1, "256K"), (32, "4M")]),
         ("1M", [(1, "2M"), (32, "12M")]), ("8196K", [(1, "9M"), (32, "17M")])]


def validity(size, cases):
    def run(guest):
        with trio_on(guest) as trio:
            trio.gateway([trio.target("mem:48M")])
            for depth, length in cases:
                trio.validity(size, depth, "--length", length, "--pattern", "rand" if depth == 32 else "seq", limit_s=120)
    return f"validity_{size}", run


def check_two_reactors(guest):
    """And no payload byte is copied but for the memory backend."""
    with trio_on(guest) as trio:
        trio.gateway([trio.target("mem:16M", "--reactors", 2)], "--reactors", 2)
        trio.validity("64K", 8, "--length", "4M", "--cpu", 0, "--cpu", 1)
        result = trio.run("--operation", "write", "--io-size", "64K", "--run-limit-operation-count", 50, "--json")
        expect(not any(result["copied_bytes"]["gateway"].values()), result)


def check_connections(guest):
    """32 connections on one completion queue: a target with one reactor, two gateways with 16 each."""
    with trio_on(guest) as trio:
        target = trio.target("mem:16M", "--reactors", 1)
        for number in range(2):
            trio.gateway([target], "--reactors", 16, "--command-channel-name", f"many{number}", "--memory", "16M")
        for number in range(2):
            trio.validity("4K", 32, "--length", "512K", "--cpu", 0, "--cpu", 1, "--command-channel-name", f"many{number}")
        said = guest.run("rdma res show qp | grep -c 'type RC state RTS'", status=None).strip()
        return f"{said} queue pairs"


def under_load(guest, disturb, *arguments, status=0, load=None, then=None):
    """A load in whose midst disturb() does its worst; answers what the initiator said. `then`: before the servers stop."""
    with trio_on(guest) as trio:
        # With O_DIRECT, and an identity that outlives the target.
        target = trio.target("file:/disk/volume")
        gateway = trio.gateway([target], *arguments)
        process = trio.start(*(load or ["--execution-strategy", "read_write_data_validity_test", "--length", "8M"]),
                             "--transaction-count", 16)
        gateway.wait_for("started volume")
        time.sleep(0.5)
        disturb(trio, target, gateway)
        said = trio.finish(process, status, limit_s=120)
        if status == 0:
            expect("data is valid" in said, said)
        if then is not None:
            then(trio)
        return said


def check_killed_target(guest):
    """It comes back at the same address, with its disk; the gateway retries."""
    def disturb(trio, target, gateway):
        address = target.address
        trio.kill(target)
        time.sleep(0.5)
        trio.target("file:/disk/volume", listen=address)
    under_load(guest, disturb)


def check_lost_target(guest):
    """It does not come back: I/O ends with a clear word."""
    said = under_load(guest, lambda trio, target, gateway: trio.kill(target), "--io-timeout", "3s", status=1,
                      load=["--operation", "write", "--run-time", "60s"])
    expect("unreachable" in said or "timed out" in said.lower(), said)


def check_stopped_target(guest):
    """It polls no more, and its queue pair goes on taking what comes: heartbeats tell. When it wakes it serves the next one."""
    def disturb(trio, target, gateway):
        target.signal("STOP")
        gateway.wait_for("silent for longer|ended: ", limit_s=20)
        trio.stopped = target
    said = under_load(guest, disturb, "--io-timeout", "3s", status=1, load=["--operation", "write", "--run-time", "60s"],
                      then=lambda trio: trio.stopped.signal("CONT"))
    expect("unreachable" in said or "timed out" in said.lower(), said)


def check_killed_gateway(guest):
    """The initiator is told, the target lives on and serves the next gateway."""
    def disturb(trio, target, gateway):
        trio.kill(gateway)
        target.wait_for("left reactor", limit_s=20)
        trio.gateway([target])
        trio.validity("4K", 8, "--length", "256K")
    said = under_load(guest, disturb, status=1, load=["--operation", "write", "--run-time", "60s"])
    expect("FAILED" in said or "reset" in said.lower(), said)


def check_killed_initiator(guest):
    """The gateway lets go of its memory, registration and all, and serves the next one. Nothing else may be reached by keys:
    targets expose no memory, and gateways only that of initiators."""
    with trio_on(guest) as trio:
        gateway = trio.gateway([trio.target("mem:16M")])
        for number in range(1, 4):
            process = trio.start("--operation", "write", "--run-time", "60s", "--io-size", "64K")
            gateway.wait_for(f"session {number}: started volume")
            time.sleep(0.5)
            exposed = exposed_to_peers(guest)
            expect(exposed == ["sluice-gateway"], f"regions with a remote key, of: {exposed}")
            process.kill()
            gateway.wait_for(f"session {number} ended")
            expect(exposed_to_peers(guest) == [], f"still reached by key: {exposed_to_peers(guest)}")
        trio.validity("4K", 8, "--length", "256K")


def exposed_to_peers(guest):
    """Whose memory a remote key reaches: Soft-RoCE gives none to a region without remote rights."""
    said = guest.run("rdma res show mr", name="regions")
    return re.findall(r"rkey 0x(?!0 ).* comm (\S+)", said)


def check_wrong_cluster_key(guest):
    """Refused at the handshake, on both sides, in words; nobody waits for ever."""
    with trio_on(guest) as trio:
        target = trio.target("mem:16M")
        gateway = trio.serve("gateway", "sluice-gateway", "-d", DEVICE, "--storage-server", target.address,
                             "--cluster-key-file", trio.key_file("other", OTHER_KEY), ready="key")
        target.wait_for("key")
        trio.kill(gateway)
        trio.gateway([target])
        trio.validity("4K", 8, "--length", "256K")


def check_wrong_device(guest):
    """No device of that name, or down: what there is is listed."""
    said = guest.run("exec sluice-target -d ofi:mlx5_7 --storage mem:8M", status=2, name="target")
    expect("rxe0" in said, said)


def check_wrong_gid(guest):
    """An address that is none of the device's GIDs, to listen at or to connect to: an error in words, on either side."""
    with trio_on(guest) as trio:
        key = " ".join(trio.key)
        target = f"exec timeout 20 sluice-target -d {DEVICE} {key} --storage mem:8M --listen"
        for address in ("127.0.0.1", "10.9.0.77", "[::1]"):
            said = guest.run(f"{target} {address}:0", status=1, name="target")
            expect("cannot listen" in said and f"ofi+verbs:rxe0 ({rxe.ADDRESS}" in said, said)
            said = guest.run(f"exec timeout 20 sluice fabric ping -d {DEVICE} {key} {address}:4420", status=1, name="ping")
            expect("connecting: " in said, said)
        guest.run(f"ip addr del {rxe.ADDRESS}/24 dev d0", name="del")
        said = guest.run(f"{target} {rxe.ADDRESS}:0", status=2, name="target")
        expect("no such device" in said, said)
        guest.run(f"ip addr add {rxe.ADDRESS}/24 dev d0", name="add")
        trio.gateway([trio.target("mem:16M")])
        trio.validity("4K", 8, "--length", "256K")


def check_tools(guest):
    """sluice fabric: the device is listed and chosen by what it is called; ping and bench over verbs."""
    said = guest.run("exec sluice fabric list", name="list")
    expect("rxe0" in said and "verbs" in said, said)
    with trio_on(guest) as trio:
        server = trio.serve("serve", "sluice", "fabric", "serve", "-d", DEVICE, "--listen", f"{rxe.ADDRESS}:0", *trio.key,
                            ready=f"{rxe.ADDRESS}:[0-9]+")
        address = server.wait_for(f"{rxe.ADDRESS}:[0-9]+").group(0)
        for command in ("ping --count 50", "bench --run-time 1s"):
            said = guest.run(f"exec sluice fabric {command} -d {DEVICE} {' '.join(trio.key)} {address}", name="tools")
            expect("READ" in said.upper(), said)


def check_memlock(guest):
    """A limit too low for our memory: said before anything hangs, with what to do."""
    guest.run("mkdir -p /tmp/nobody; chmod 777 /tmp/nobody; umask 077; "
              f"echo {KEY} >/tmp/nobody/key; chown nobody /tmp/nobody/key")
    said = guest.run("ulimit -l 1024; exec setpriv --nnp su nobody -c 'SLUICE_RUNTIME_DIR=/tmp/nobody exec timeout 20 sluice-target "
                     f"-d {DEVICE} --listen {rxe.ADDRESS}:0 --storage mem:8M --cluster-key-file /tmp/nobody/key'", status=None)
    expect("memlock" in said and "ulimit -l" in said, said)


def check_device_down(guest):
    """The interface goes down for good: I/O ends in words within its time. (Soft-RoCE's own management queue pair does not
    survive it: the device is made anew.)"""
    said = under_load(guest, lambda trio, target, gateway: guest.run("ip link set d0 down", name="down"), "--io-timeout", "8s",
                      status=1, load=["--operation", "write", "--run-time", "60s"])
    expect("unreachable" in said or "timed out" in said.lower(), said)
    said = guest.run(f"exec sluice-target -d {DEVICE} --storage mem:8M", status=2, name="target")
    expect("down" in said or "no such device" in said, said)
    guest.run("rdma link delete rxe0 && ip link set d0 up && rdma link add rxe0 type rxe netdev d0", name="again")


# ---- two hosts ----

def check_pair(hosts):
    """Data between two hosts; and the initiator's memory is written and read across the wire."""
    near, far = hosts
    with trio_on(far, THERE) as there, trio_on(near, HERE) as here:
        here.gateway([there.target("mem:16M")])
        here.validity("4K", 32, "--length", "512K")
        here.validity("1M", 4, "--length", "4M")


TRACED_BYTES = 32 << 10


def traced(near, trio, operation):
    """One I/O of an initiator, as it passed over the wire: (packets of the request, all of them up to its answer)."""
    capture = near.start("tcpdump", "exec tcpdump -Z root -i eth0 --immediate-mode -U -B 4096 -w /host/trace udp port 4791")
    capture.wait_for("listening on")
    trio.run("--operation", operation, "--io-size", TRACED_BYTES, "--transaction-count", 1, "--run-limit-operation-count", 1)
    time.sleep(0.5)
    capture.stop()
    packets = roce.read(f"{near.share}/trace")
    one_sided = [number for number, packet in enumerate(packets) if packet.name.startswith(("READ", "WRITE"))]
    expect(one_sided, f"no READ and no WRITE among {len(packets)} packets")
    sends = [number for number, packet in enumerate(packets) if packet.name.startswith("SEND")]
    begin = max(number for number in sends if number < one_sided[0])
    end = min(number for number in sends if number > one_sided[-1])
    return packets[begin:end + 2]


def check_trace(hosts):
    """The five steps of each, packet by packet: who asks sends a capsule and no payload; the target fetches a write's payload
    with one READ, and lays a read's into place with one WRITE, under the key and at the address of the capsule's owner."""
    near, far = hosts
    names = {HERE: "gateway", THERE: "target"}
    with trio_on(far, THERE) as there, trio_on(near, HERE) as here:
        here.gateway([there.target("mem:16M")])
        here.validity("32K", 1, "--length", "64K")  # connections, arenas
        for operation, kind in (("write", "READ"), ("read", "WRITE")):
            packets = traced(near, here, operation)
            print(f"---- {operation} of {TRACED_BYTES} bytes\n{roce.table(packets, names)}", flush=True)
            one_sided = [packet for packet in packets if packet.name.startswith(kind)]
            asked = [packet for packet in one_sided if packet.remote is not None]
            expect(asked and all(packet.source == THERE for packet in asked), "it is the target that reads and writes")
            expect(sum(packet.remote[2] for packet in asked) == TRACED_BYTES, f"asked for: {asked}")
            expect(sum(packet.payload_bytes for packet in one_sided) == TRACED_BYTES, "payload by READ and WRITE alone")
            sent = [packet for packet in packets if packet.name.startswith("SEND")]
            expect(sent[0].source == HERE and sent[-1].source == THERE, "a request and its answer")
            expect(sum(packet.payload_bytes for packet in sent) < 4096, "no payload in messages")


def silent(host, on):
    """From now on nothing that this host sends arrives anywhere, and no carrier is lost; or again it does."""
    host.run(f"tc qdisc {'add' if on else 'del'} dev eth0 root netem loss 100%", name="netem")


def check_silent_link(hosts):
    """No event tells of it: heartbeats do, on both sides. Then the link is back, and the gateway goes on."""
    near, far = hosts
    with trio_on(far, THERE) as there, trio_on(near, HERE) as here:
        target = there.target("mem:16M")
        gateway = here.gateway([target], "--io-timeout", "60s")
        process = here.start("--execution-strategy", "read_write_data_validity_test", "--length", "8M", "--transaction-count", 8)
        gateway.wait_for("started volume")
        time.sleep(0.5)
        began = time.monotonic()
        for host in hosts:
            silent(host, True)
        gateway.wait_for("silent for longer|ended: ", limit_s=30)
        noticed = time.monotonic() - began
        target.wait_for("left reactor", limit_s=30)
        for host in hosts:
            silent(host, False)
        said = here.finish(process, limit_s=120)
        expect("data is valid" in said, said)
        return f"noticed after {noticed:.1f} s"


def one_host(sizes):
    return [*[validity(size, cases) for size, cases in sizes], check_two_reactors, check_connections, check_killed_target,
            check_lost_target, check_stopped_target, check_killed_gateway, check_killed_initiator, check_wrong_cluster_key, check_wrong_device,
            check_wrong_gid, check_tools, check_memlock, check_device_down]


SHORT = [conformance("one_reactor"), *one_host(FEWER)]
LONG = [conformance("one_reactor"), conformance("two_reactors"), conformance("two_threads"), *one_host(SIZES)]
# What make soak does after each of many boots.
ROUND = [conformance("one_reactor"), validity(*FEWER[0]), check_two_reactors, check_killed_gateway]
TWO_HOSTS = [check_pair, check_trace, check_silent_link]


def on_one_host(image, checks, word):
    with disk(32, "ext4") as path, Guest(image(), drives=[path]) as guest:
        print(f"ok      boot  {guest.boot_s:.1f} s  Linux {guest.ready}", flush=True)
        rxe.up(guest)
        guest.load(*EXT4)
        guest.run("mkdir /disk && mount -t ext4 /dev/vda /disk && fallocate -l 16M /disk/volume", name="mount")
        failed = run_checks(guest, checks, [guest], word)
    print(f"{'FAILED' if failed else 'ok':<7} guest  {guest.total_s:.1f} s from the start of QEMU to its end", flush=True)
    return failed


def on_two_hosts(image, checks, word):
    near, far = (Guest(image(), wires=[end], memory_mib=512) for end in wire())
    with together(near, far):
        print(f"ok      boot of two  {max(near.boot_s, far.boot_s):.1f} s", flush=True)
        rxe.up_on(near, "eth0", HERE)
        rxe.up_on(far, "eth0", THERE)
        for guest in (near, far):
            guest.load("sch_netem", "af_packet")
        return run_checks((near, far), checks, [near, far], word)


def body(programs, mode="", word=""):
    """`mode`: short, long or round; behind it a word that chooses among the checks."""
    def image():
        return rxe.add(add_programs(Image(), programs)).program("tc", "tcpdump").modules("sch_netem", "af_packet", *EXT4)
    failed = on_one_host(image, {"long": LONG, "round": ROUND}.get(mode, SHORT), word)
    if mode != "round":
        failed += on_two_hosts(image, TWO_HOSTS, word)
    return failed


if __name__ == "__main__":
    finish(lambda: body(sys.argv[1:6], *sys.argv[6:8]))

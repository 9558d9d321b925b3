#!/usr/bin/env python3
"""Goal: payload is copied only where the counters say so. What they say is what a memcpy counts that was put under the
programs, per process; and it is nothing at all but for the `mem` backend, whose medium is reached by a copy.

On a disk of the store payload is not copied either, log and data; what a memcpy sees there is header blocks and metadata, a few
percent at most, and nothing when reading.

Method: LD_PRELOAD of bench/count_copies.c (copies above 1 KiB) under target and gateway; every fabric, backend, direction
and several sizes; the difference of both counts over each run. A payload that is copied by a loop of its own is not seen:
`make bench` counts instructions for that."""
import os
import struct
import subprocess
import sys

from harness import MIB, World, expect, main

SIZES = [("4K", 32), ("64K", 8), ("1M", 4), ("1028K", 2)]
OPERATIONS = 100


class Counted:
    """Servers under the counting memcpy."""

    def __init__(self, world, fabric, storage, one_process):
        self.world, self.fabric = world, fabric
        environment = {"LD_PRELOAD": os.environ["SLUICE_COUNT_COPIES"], "SLUICE_COPIES_DIR": world.directory}
        os.environ.update(environment)
        try:
            if one_process:
                server = world.target("tcp", storage, "--gateway")
                server.wait_for("ready: command channel")
                self.servers = {"server": server}
            else:
                target = world.target(fabric, storage)
                self.servers = {"target": target, "gateway": world.gateway(fabric, [target.address()])}
        finally:
            for name in environment:
                del os.environ[name]
        self.before = self.outside()

    def outside(self):
        """{process: bytes} as memcpy saw it."""
        seen = {}
        for name, server in self.servers.items():
            with open(f"{self.world.directory}/{server.pid}", "rb") as file:
                seen[name] = struct.unpack("<QQ", file.read())[1]
        return seen

    def run(self, operation, size, depth):
        """What one run copied: by our counters and from outside, and the bytes it moved."""
        result = self.world.run("--operation", operation, "--io-size", size, "--transaction-count", depth, "--pattern", "rand",
                                "--run-limit-operation-count", OPERATIONS, "--json", fabric=self.fabric)
        now = self.outside()
        outside = {name: now[name] - self.before[name] for name in now}
        self.before = now
        ours = {"target": sum(result["copied_bytes"]["targets"].values()),
                "gateway": sum(result["copied_bytes"]["gateway"].values())}
        if "server" in outside:
            ours = {"server": sum(ours.values())}
        return ours, outside, result


def compare(programs, fabric, backend, one_process=False):
    with World(programs) as world:
        storage = f"file:{world.file('disk', 32 * MIB)}" if backend == "file" else "mem:32M"
        counted = Counted(world, fabric, storage, one_process)
        for size, depth in SIZES:
            for operation in ("write", "read"):
                ours, outside, result = counted.run(operation, size, depth)
                what = f"{fabric} {backend} {operation} {size}"
                expect(ours == outside, f"{what}: our counters say {ours}, memcpy {outside}")
                for who in ("targets", "gateway"):
                    for reason, count in result["copied_bytes"][who].items():
                        expect(count == 0 or (reason == "mem-backend" and backend == "mem"),
                               f"{what}: {who} copied {count} bytes for '{reason}'")
        if backend == "mem":
            expect(counted.run("write", "4K", 4)[1] != {name: 0 for name in counted.servers},
                   "the counting memcpy counts nothing: was it loaded?")


def test_tcp_store(programs):
    with World(programs) as world:
        path = world.file("disk", 160 * MIB)
        sluice = os.path.join(os.path.dirname(programs[0]), "../cli/sluice/sluice")
        subprocess.run([sluice, "disk", "format", path, "--log", "16M"], check=True, stdout=subprocess.DEVNULL, timeout=60)
        counted = Counted(world, "tcp", f"store:{path}", False)
        for size, depth in SIZES:
            for operation in ("write", "read"):
                ours, outside, result = counted.run(operation, size, depth)
                what = f"store {operation} {size}"
                expect(ours == {"target": 0, "gateway": 0}, f"{what}: copied {result['copied_bytes']}")
                # A header block for each entry at most, two for 1028K, and metadata of the checkpoints.
                most = 3 * OPERATIONS * 4096 + 2 * MIB if operation == "write" else 64 * 1024
                expect(outside["target"] <= most and outside["gateway"] == 0, f"{what}: memcpy saw {outside}, at most {most}")


def test_shm_file(programs):
    compare(programs, "shm", "file")


def test_shm_mem(programs):
    compare(programs, "shm", "mem")


def test_tcp_file(programs):
    compare(programs, "tcp", "file")


def test_tcp_mem(programs):
    compare(programs, "tcp", "mem")


def test_one_process(programs):
    compare(programs, "tcp", "file", one_process=True)
    compare(programs, "tcp", "mem", one_process=True)


if __name__ == "__main__":
    main([test_tcp_store, test_shm_file, test_shm_mem, test_tcp_file, test_tcp_mem, test_one_process], sys.argv[1:])

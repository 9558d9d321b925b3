#!/usr/bin/env python3
"""Goal: a peer or client that breaks every rule harms nobody but itself: the real target and gateway stay up, serve an
honest client at the same time without a wrong byte, say what was wrong, and give everything back.

Method: hostile_gateway.c against a target, hostile_target.c against a gateway, hostile_initiator.c against a gateway, each
beside a journal client; what the servers hold at rest is compared with what they held before. And servers whose memlock
limit is too low.

    hostile_test.py TARGET GATEWAY INITIATOR JOURNAL HOSTILE_GATEWAY HOSTILE_TARGET HOSTILE_INITIATOR [WORD]"""
import os
import subprocess
import sys
import time

from harness import MIB, SLOW, Failure, Journal, World, expect, main

HEAP_GROWTH_MAX = 12 * MIB
SEED = os.environ.get("SEED") or "7"


class Stage:
    """Servers at rest, then a journal client on volume "good", or on what is behind 16 MiB."""

    def __init__(self, world, programs, servers, volume="", offset=0):
        self.world, self.servers = world, servers
        self.program, self.volume, self.offset = programs[3], volume, offset
        self.journal("load").loading().finish()
        self.before = [server.rest() for server in servers]
        self.client = self.journal("load").loading()

    def journal(self, mode):
        return Journal(self.world, self.program, 5, mode, self.offset, 16 * MIB, self.volume)

    def honest_goes_on(self):
        self.client.progress(50)

    def close(self):
        """The honest client is served; then nothing is left."""
        self.honest_goes_on()
        self.client.finish()
        self.journal("verify").finish()
        for server, before in zip(self.servers, self.before):
            after = server.wait_for_rest(before.counts)
            grown = after.anonymous_bytes - before.anonymous_bytes
            expect(SLOW > 1 or grown < HEAP_GROWTH_MAX, f"{server.name}'s heap grew by {grown >> 10} KiB")


def hostile(command, world, limit=120):
    """Runs one to its end."""
    try:
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", env=world.environment, timeout=limit * SLOW)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"{command[0]} hangs:\n{late.stdout}") from None
    expect(done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def said(server, *words):
    for word in words:
        expect(word in server.text(), f"{server.name} does not say '{word}':\n{server.text()}")


def wire_to_target(programs, fabric):
    with World(programs[:3]) as world:
        target = world.target(fabric, f"file:{world.file('disk', 64 * MIB)}")
        gateway = world.gateway(fabric, [target.address()])
        stage = Stage(world, programs, [target, gateway], offset=16 * MIB)
        hostile([programs[4], fabric, target.address(), SEED], world)
        said(target, "a capsule is missing or came twice", "a capsule of its failed the checksum", "malformed capsule",
             "unknown type", "answered what was not asked", "more credits than it has", "does not hold our cluster's key")
        stage.close()


def test_wire_to_target_tcp(programs):
    wire_to_target(programs, "tcp")


def test_wire_to_target_shm(programs):
    wire_to_target(programs, "shm")


def wire_to_gateway(programs, fabric):
    with World(programs[:3]) as world:
        good = world.target(fabric, f"file:{world.file('disk', 32 * MIB)}")
        listen = "127.0.0.1:0" if fabric == "tcp" else f"unix:{world.directory}/hostile.target"
        bad = world.serve("hostile", [programs[5], fabric, listen, 16 * MIB, SEED])
        address = bad.wait_for(r"ready: at (\S+)").group(1)
        gateway = world.gateway(fabric, [good.address(), address], "--io-timeout", "2s", "--volume", "good:24M:0",
                                "--volume", "bad:12M:1")
        stage = Stage(world, programs, [good, gateway], volume="good")
        # So many does it answer; the key of this memory is used again when it is long gone.
        world.run("--volume", "bad", "--operation", "read", "--run-limit-operation-count", 64, "--transaction-count", 4,
                  fabric=fabric)
        deadline = time.monotonic() + 120 * SLOW
        number = 0
        while "done\n" not in bad.text():
            expect(time.monotonic() < deadline and bad.process.poll() is None, f"hostile target:\n{bad.text()}")
            number += 1
            process = world.initiator("--volume", "bad", "--operation", ("read", "write")[number % 2], "--run-time", "100s",
                                      "--transaction-count", 4, fabric=fabric)
            while process.poll() is None and "done\n" not in bad.text():
                expect(time.monotonic() < deadline, f"hostile target:\n{bad.text()}")
                time.sleep(0.05)
            process.kill()
            process.communicate()
        # The log leaves out what is more than ten lines a second of a kind.
        said(gateway, "reactors must be 1 to 64", "shards must be a power of two", "blocks are of 4096 bytes",
             "came back with other storage", "did not answer within the time-out", "does not hold our cluster's key",
             "a capsule is missing or came twice", "its handshake is out of order", "a version that we do not speak")
        stage.close()
        bad.stop()
        world.forget(bad)


def test_wire_to_gateway_tcp(programs):
    wire_to_gateway(programs, "tcp")


def test_wire_to_gateway_shm(programs):
    wire_to_gateway(programs, "shm")


def local_channel(programs, fabric, one_process=False, reactors=1):
    with World(programs[:3]) as world:
        storage = f"file:{world.file('disk', 48 * MIB)}"
        more = ["--reactors", reactors, "--volume", "good:24M", "--volume", "bad:16M"]
        if one_process:
            servers = [world.target(fabric, storage, "--gateway", *more)]
            servers[0].wait_for("ready: command channel")
        else:
            target = world.target(fabric, storage, "--reactors", reactors)
            servers = [target, world.gateway(fabric, [target.address()], *more)]
        stage = Stage(world, programs, servers, volume="good")
        hostile([programs[6], "sluice", "bad", SEED], world)
        said(servers[-1], "it is not sealed against shrinking (F_SEAL_SHRINK)", "it is not a memfd", "within the 4096 that it",
             "it has 128 memories (limit)", "it has 64 queues (limit)", "rings of depth 16 are a memfd of ordinary pages")
        stage.close()


def test_local_channel_tcp(programs):
    local_channel(programs, "tcp")


def test_local_channel_shm(programs):
    local_channel(programs, "shm", reactors=2)


def test_local_channel_one_process(programs):
    local_channel(programs, "tcp", one_process=True)


def test_memlock(programs):
    """Too low a limit: smaller rings, no fixed buffers, and the log says what to raise; or a start that says so."""
    # Root with CAP_IPC_LOCK has no limit.
    drop = ["setpriv", "--bounding-set=-ipc_lock"] if os.geteuid() == 0 else []
    confined = [*drop, "prlimit", "--memlock=65536:65536"]
    with World(programs[:3]) as world:
        path = world.file("disk", 32 * MIB)
        start = ["-d", "tcp", "--storage", f"file:{path}", "--listen", "127.0.0.1:0"]
        target = world.serve("target", [*confined, programs[0], *start])
        gateway = world.serve("gateway", [*confined, programs[1], "-d", "tcp", "--storage-server", target.address()])
        gateway.wait_for("ready: command channel")
        output = hostile([*confined, programs[2], "-d", "tcp", "--execution-strategy", "read_write_data_validity_test",
                          "--io-size", "64K", "--transaction-count", 64], world)
        expect("data is valid" in output, output)
        target.wait_for(r"memlock limit( of this user's processes together)? is 65536 bytes: raise it \(ulimit -l")
        target.stop()
        world.forget(target)
        # Before Linux 6.14 rings are charged to nobody: then it starts.
        done = subprocess.run([*drop, "prlimit", "--memlock=0:0", "timeout", "3", programs[0], *start],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60 * SLOW)
        expect("ready:" in done.stdout or done.returncode == 1 and "is 0 bytes: raise it (ulimit -l" in done.stdout,
               f"{done.returncode}: {done.stdout}")


TESTS = [test_wire_to_target_tcp, test_wire_to_target_shm, test_wire_to_gateway_tcp, test_wire_to_gateway_shm,
         test_local_channel_tcp, test_local_channel_shm, test_local_channel_one_process, test_memlock]

if __name__ == "__main__":
    main(TESTS, [os.path.abspath(program) for program in sys.argv[1:8]] + sys.argv[8:], 7)

#!/usr/bin/env python3
"""Goal: under faults of disks and links (--inject) a client gets right data or a clear error, everybody else goes on, and
what was done is said: at the start, in the statistics, at the end.

Method: the trio with rules at target, gateway or both; validity tests, and errors looked for by name and place."""
import os
import re
import signal
import sys

from harness import MIB, World, expect, main

VALIDITY = ["--execution-strategy", "read_write_data_validity_test", "--cpu", 0, "--cpu", 1]


def rules(*specs):
    return [part for spec in specs for part in ("--inject", spec)]


def struck(server, spec):
    """How often the rule of a server that has ended struck."""
    found = re.search(re.escape(f"'{spec}' struck ") + r"(\d+) of (\d+) operations", server.text())
    expect(found, f"{server.name} does not count '{spec}':\n{server.text()}")
    return int(found.group(1))


def one_bad_disk(programs, fabric, spec, words, arguments):
    """Two targets, a volume on each; the first one's disk fails. Its client hears it, the other one notices nothing."""
    with World(programs) as world:
        bad = world.target(fabric, f"file:{world.file('bad', 64 * MIB)}", *rules(spec))
        good = world.target(fabric, f"file:{world.file('good', 64 * MIB)}")
        bad.wait_for(re.escape(f"FAULTS ARE INJECTED: '{spec}'; to repeat it add seed=") + r"\d+")
        expect("INJECTED" not in good.text(), good.text())
        world.gateway(fabric, [bad.address(), good.address()], "--volume", "a::0", "--volume", "b::1")
        other = world.initiator(*VALIDITY, "--volume", "b", "--length", "32M", fabric=fabric)
        output = world.run("--volume", "a", *arguments, status=1, fabric=fabric)
        for word in words:
            expect(word in output, f"no '{word}' in:\n{output}")
        said = world.finish(other)
        expect("data is valid" in said, said)
        # What is not struck goes on, on that disk too, and the injected faults are counted.
        report = world.run("--volume", "a", "--operation", "read", "--length", "1M", "--run-limit-operation-count", 256, "--json",
                           fabric=fabric)
        expect(report["errors"] == 0, report)
        expect(report["injected"]["targets"] > 0 and report["injected"]["gateway"] == 0, report)
        bad.stop()
        expect(struck(bad, spec) > 0, bad.text())


def test_disk_error(programs):
    for fabric in ("tcp", "shm"):
        one_bad_disk(programs, fabric, "disk:error=EIO,op=write,offset=2M,length=8K",
                     ["FAILED", "Input/output error (EIO)", "at byte 2097152", "faults injected", "targets"],
                     ["--operation", "write", "--io-size", "4K", "--offset", "1M", "--length", "4M",
                      "--run-limit-operation-count", 1024])


def test_disk_full_injected(programs):
    one_bad_disk(programs, "tcp", "disk:error=ENOSPC,op=write,after=100",
                 ["FAILED", "No space left on device (ENOSPC)"],
                 ["--operation", "write", "--run-limit-operation-count", 500])


def test_disk_error_in_the_log(programs):
    with World(programs) as world:
        target = world.target("tcp", f"file:{world.file('disk', 16 * MIB)}", *rules("disk:error=EIO,op=read|flush,seed=3"))
        target.wait_for("FAULTS ARE INJECTED: .*, seed 3")
        world.gateway("tcp", [target.address()])
        output = world.run("--operation", "read", "--run-limit-operation-count", 10, status=1)
        expect("EIO" in output, output)
        target.wait_for(r"storage '.*disk': read of \d+ bytes at byte \d+ failed: Input/output error \(EIO\)")
        world.run("--operation", "write", "--run-limit-operation-count", 10)


def test_disk_in_one_process(programs):
    """Gateway and target in one process, several reactors: the same layer, reached without a link."""
    with World(programs) as world:
        target = world.target("tcp", f"file:{world.file('disk', 64 * MIB)}", "--gateway", "--reactors", "2",
                              *rules("disk:error=EIO,op=write,offset=17M,length=4K", "disk:delay=1ms,p=0.1"))
        target.wait_for("ready: command channel")
        output = world.run("--operation", "write", "--offset", "17M", "--length", "4K", status=1)
        expect("(EIO)" in output, output)
        output = world.run(*VALIDITY, "--offset", "20M", "--length", "16M")
        expect("data is valid" in output, output)


def test_disk_delay(programs):
    with World(programs) as world:
        spec = "disk:delay=5ms,p=0.05"
        target = world.target("tcp", f"file:{world.file('disk', 64 * MIB)}", *rules(spec))
        world.gateway("tcp", [target.address()])
        output = world.run(*VALIDITY, "--length", "16M")
        expect("data is valid" in output, output)
        os.kill(target.pid, signal.SIGUSR1)
        target.wait_for(f"reactor 0: '{spec}' struck ")
        target.stop()
        expect(struck(target, spec) > 10, target.text())


def under_link_faults(programs, fabric, at_target, at_gateway, *arguments, length="32M"):
    """The validity test; answers what the servers had said when they had ended."""
    with World(programs) as world:
        target = world.target(fabric, f"file:{world.file('disk', 64 * MIB)}", *rules(*at_target))
        gateway = world.gateway(fabric, [target.address()], *rules(*at_gateway), *arguments)
        output = world.finish(world.initiator(*VALIDITY, "--length", length, "--io-size", "4K", fabric=fabric), timeout=100)
        expect("data is valid" in output, output)
        gateway.stop()
        target.stop()
        for server, specs in ((target, at_target), (gateway, at_gateway)):
            for spec in specs:
                expect(struck(server, spec) > 0, server.text())
        return target.text(), gateway.text()


def test_link_delay(programs):
    for fabric in ("tcp", "shm"):
        under_link_faults(programs, fabric, ["link:delay=2ms,p=0.01"], ["link:delay=5ms,p=0.01", "link:delay=100us,p=0.1"])


def test_link_drop(programs):
    for fabric in ("tcp", "shm"):
        _, gateway = under_link_faults(programs, fabric, ["link:drop,after=500,p=0.0005"], ["link:drop,p=0.0005"])
        expect("reconnecting" in gateway, gateway)


def test_link_error(programs):
    for fabric in ("tcp", "shm"):
        _, gateway = under_link_faults(programs, fabric, ["link:error=EIO,op=send,after=1000,count=2"],
                                       ["link:error=ENOMEM,op=send,after=2000,count=2"])
        expect("reconnecting" in gateway, gateway)
    # Payload over tcp: the target's READs.
    with World(programs) as world:
        spec = "link:error=EIO,op=read,after=20,count=3"
        target = world.target("tcp", f"file:{world.file('disk', 64 * MIB)}", *rules(spec))
        world.gateway("tcp", [target.address()])
        output = world.run(*VALIDITY, "--length", "32M", "--io-size", "128K")
        expect("data is valid" in output, output)
        target.stop()
        expect(struck(target, spec) == 3, target.text())


def test_link_stall(programs):
    """Silence is found by heartbeats, in either direction."""
    target, _ = under_link_faults(programs, "tcp", [], ["link:stall,after=2000,count=1"])
    expect("silent for longer than the heartbeat time-out" in target, target)
    _, gateway = under_link_faults(programs, "tcp", ["link:stall,after=2000,count=1"], [])
    expect("silent for longer than the heartbeat time-out" in gateway, gateway)


def test_link_stall_and_timeout(programs):
    """Without luck a clear error, within the time."""
    with World(programs) as world:
        target = world.target("tcp", "mem:64M")
        world.gateway("tcp", [target.address()], "--io-timeout", "2s", *rules("link:stall,after=500"))
        output = world.run("--operation", "write", "--run-time", "60s", status=1, timeout=50)
        expect("FAILED" in output and ("timed out" in output.lower() or "unreachable" in output), output)


TESTS = [test_disk_error, test_disk_full_injected, test_disk_error_in_the_log, test_disk_in_one_process, test_disk_delay,
         test_link_delay, test_link_drop, test_link_error, test_link_stall, test_link_stall_and_timeout]

if __name__ == "__main__":
    main(TESTS, sys.argv[1:])

#!/usr/bin/env python3
"""Goal: whoever dies, hangs or comes back, I/O is retried or fails with a clear word, nothing hangs, nothing is lost,
and nothing is left behind.

Method: kill -9, SIGSTOP and restarts of each program under the validity test."""
import os
import signal
import sys
import time

from harness import MIB, SLOW, World, expect, main


# Long enough for the disturbances: 130,000 operations, a third of them in sanitizer builds.
LENGTH = "256M" if SLOW == 1 else "84M"


def under_load(programs, fabric, disturb, arguments=(), status=0):
    """A run in whose midst disturb() does its worst; answers what the initiator said."""
    with World(programs) as world:
        path = world.file("disk", 256 * MIB)
        target = world.target(fabric, f"file:{path}")
        listen = target.address()
        gateway = world.gateway(fabric, [listen], *arguments)
        # What shall fail must not be over before.
        load = (["--execution-strategy", "read_write_data_validity_test", "--length", LENGTH] if status == 0 else
                ["--operation", "write", "--run-time", "100s"])
        process = world.initiator(*load, "--io-size", "4K", "--cpu", 0, "--cpu", 1, fabric=fabric)
        time.sleep(0.3)
        disturb(world, target, gateway, path, listen)
        output = world.finish(process, status, timeout=90)
        if status == 0:
            expect("data is valid" in output, output)
        return output


def killed_and_back(fabric):
    def disturb(world, target, gateway, path, listen):
        for _ in range(3):
            target.kill()
            world.forget(target)
            time.sleep(0.1)
            target = world.target(fabric, f"file:{path}", listen=listen)
            target.address()
            time.sleep(0.3)
    return disturb


def test_target_killed_tcp(programs):
    under_load(programs, "tcp", killed_and_back("tcp"))


def test_target_killed_shm(programs):
    under_load(programs, "shm", killed_and_back("shm"))


def test_target_gone(programs):
    def disturb(world, target, gateway, path, listen):
        target.kill()
        world.forget(target)
    for fabric in ("tcp", "shm"):
        output = under_load(programs, fabric, disturb, ["--io-timeout", "2s"], status=1)
        expect("unreachable" in output or "timed out" in output.lower(), output)


def test_target_hangs(programs):
    def disturb(world, target, gateway, path, listen):
        os.kill(target.pid, signal.SIGSTOP)
        time.sleep(8)
        os.kill(target.pid, signal.SIGCONT)
    under_load(programs, "tcp", disturb)


def test_gateway_killed(programs):
    for fabric in ("tcp", "shm"):
        def disturb(world, target, gateway, path, listen):
            gateway.kill()
            world.forget(gateway)
            world.gateway(fabric, [listen])  # the stale socket is no obstacle
            world.run("--operation", "write", "--run-limit-operation-count", 1000, fabric=fabric)
        output = under_load(programs, fabric, disturb, status=1)
        expect("FAILED" in output or "reset" in output.lower(), output)


def test_initiator_killed(programs):
    for fabric in ("tcp", "shm"):
        with World(programs) as world:
            target = world.target(fabric, f"file:{world.file('disk', 64 * MIB)}")
            gateway = world.gateway(fabric, [target.address()])
            world.run("--operation", "write", "--run-limit-operation-count", 1000, fabric=fabric)
            time.sleep(0.3)
            before = [(server.descriptors(), server.client_maps()) for server in (gateway, target)]
            for _ in range(5):
                process = world.initiator("--operation", "write", "--run-time", "30s", "--cpu", 0, "--cpu", 1,
                                          fabric=fabric)
                time.sleep(0.2 * SLOW)
                process.kill()
                process.communicate()
            world.run("--operation", "write", "--run-limit-operation-count", 1000, fabric=fabric)
            deadline = time.monotonic() + 10 * SLOW
            while time.monotonic() < deadline:
                after = [(server.descriptors(), server.client_maps()) for server in (gateway, target)]
                if after == before:
                    break
                time.sleep(0.1)
            expect(after == before, f"descriptors and maps of gateway and target: {before} before, {after} after")


def test_end_under_load(programs):
    """SIGTERM of gateway or target under load: in order, at once."""
    for fabric in ("tcp", "shm"):
        for which in ("gateway", "target"):
            def disturb(world, target, gateway, path, listen):
                server = gateway if which == "gateway" else target
                began = time.monotonic()
                server.stop()
                expect(time.monotonic() - began < 5 * SLOW, f"{which} took long to end")
                world.forget(server)
            under_load(programs, fabric, disturb, ["--io-timeout", "2s"], status=1)


def test_interrupted(programs):
    """An initiator whose I/O hangs: one signal is an end in order, which waits for it; a second one ends it. It was ignored."""
    with World(programs) as world:
        target = world.target("tcp", "mem:16M")
        world.gateway("tcp", [target.address()], "--io-timeout", "1h")
        initiator = world.initiator("--operation", "write", "--run-time", "1h", "-q")
        deadline = time.monotonic() + 20 * SLOW
        while target.holdings().counts["connections"] == 0:
            expect(time.monotonic() < deadline, "the gateway does not connect")
        time.sleep(0.3)
        os.kill(target.pid, signal.SIGSTOP)
        try:
            initiator.send_signal(signal.SIGINT)
            line = ""
            while "once more ends at once" not in line:
                line = initiator.stderr.readline()
                expect(line != "", "it does not say that it waits")
            initiator.send_signal(signal.SIGINT)
            expect(initiator.wait(20 * SLOW) == -signal.SIGINT, f"ended with {initiator.returncode}")
        finally:
            os.kill(target.pid, signal.SIGCONT)
            initiator.kill()
            initiator.communicate()


def test_every_report(programs):
    """Went wrong: of many SIGUSR1 within a second some were not answered; the log took them for a flood."""
    with World(programs) as world:
        target = world.target("tcp", "mem:16M", "--reactors", 2)
        target.address()
        for _ in range(20):
            target.holdings()


def test_other_storage(programs):
    """A target that comes back with other storage is refused while a client is there."""
    def disturb(world, target, gateway, path, listen):
        target.kill()
        world.forget(target)
        world.target("tcp", "mem:64M", listen=listen).address()
        gateway.wait_for("other storage")
    output = under_load(programs, "tcp", disturb, ["--io-timeout", "2s"], status=1)
    expect("FAILED" in output, output)


TESTS = [test_target_killed_tcp, test_target_killed_shm, test_target_gone, test_target_hangs, test_gateway_killed,
         test_initiator_killed, test_end_under_load, test_interrupted, test_every_report, test_other_storage]

if __name__ == "__main__":
    main(TESTS, sys.argv[1:])
